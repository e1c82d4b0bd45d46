"""Runs a block in Verilator under cocotb (through cocotb-test).

A test file holds both the cocotb test functions and the pytest function that calls `run_block`;
builds are shared by content, so a block that did not change is not compiled again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import cocotb_test.simulator

from tokenloom.hw.block import Block, emit
from tokenloom.sim.toolchain import VERILATOR_FLAGS, build_root, environment

__all__ = ["parameters", "run_block", "seeded"]


def seeded() -> random.Random:
    """The bench's random source; its seed is printed, TOKENLOOM_SEED repeats a run."""
    seed = int(os.environ.get("TOKENLOOM_SEED", "1"))
    print(f"repeat with TOKENLOOM_SEED={seed}")
    return random.Random(seed)


def parameters() -> dict[str, Any]:
    """Inside a cocotb test: what `run_block` was given as `parameters`."""
    result: dict[str, Any] = json.loads(os.environ.get("TOKENLOOM_BENCH", "{}"))
    return result


def run_block(block: Block, module: str, *, parameters: dict[str, Any] | None = None) -> None:
    """Emit `block`, build it, and run every cocotb test of `module` on it.

    Parameters
    ----------
    block : Block
        The top; blocks below it are emitted as files of their own.
    module : str
        Dotted name of the Python module with the cocotb tests (usually `__name__`).
    parameters : dict, optional
        Handed to the tests as JSON in the variable TOKENLOOM_BENCH.

    Raises
    ------
    SystemExit
        When a cocotb test fails (from cocotb-test).
    """
    texts = emit(block)
    names = sorted(texts)
    content = "\0".join([*names, *(texts[name] for name in names), *VERILATOR_FLAGS])
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    folder = build_root() / "bench" / f"{block.module_name}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        # Two test processes may want the same build at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        sources = []
        for name, text in texts.items():
            path = folder / f"{name}.v"
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
            sources.append(str(path))
        env = environment()
        env["TOKENLOOM_BENCH"] = json.dumps(parameters or {})
        env["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
        # cocotb-test looks for the simulator in this process's own environment.
        os.environ.update({k: env[k] for k in ("PATH", "VERILATOR_ROOT") if k in env})
        cocotb_test.simulator.run(
            simulator="verilator",
            toplevel=block.module_name,
            verilog_sources=sources,
            module=module,
            sim_build=str(folder / "sim"),
            extra_args=list(VERILATOR_FLAGS),
            make_args=["-j2", "CFG_CXXFLAGS_PCH_I=-include"],
            extra_env=env,
            timescale="1ns/1ps",
        )
