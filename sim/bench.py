"""Runs a block in Verilator under cocotb (through cocotb-test).

A test file holds both the cocotb test functions and the pytest function that calls `run_block`;
builds are shared by content, so a block that did not change is not compiled again. Verilator's own
runtime and its headers, which take longer to compile than most blocks, are compiled once for all.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cocotb
import cocotb_test.simulator

from tokenloom.hw.verilog.block import Block, emit
from tokenloom.hw.verilog.build_folder import build_root
from tokenloom.sim.toolchain import VERILATOR_FLAGS, environment, verilator_root

__all__ = ["bench_folder", "parameters", "run_block", "seeded"]


def seeded() -> random.Random:
    """The bench's random source; its seed is printed, TOKENLOOM_SEED repeats a run."""
    seed = int(os.environ.get("TOKENLOOM_SEED", "1"))
    print(f"repeat with TOKENLOOM_SEED={seed}")
    return random.Random(seed)


def parameters() -> dict[str, Any]:
    """Inside a cocotb test: what `run_block` was given as `parameters`."""
    result: dict[str, Any] = json.loads(os.environ.get("TOKENLOOM_BENCH", "{}"))
    return result


# What the C++ of every block includes.
_HEADERS = "".join(f'#include "{name}.h"\n' for name in ("verilated", "verilated_dpi"))


def _digest(*parts: Iterable[str]) -> str:
    content = "\0".join(text for part in (*parts, VERILATOR_FLAGS) for text in part)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _public(top: str, text: str) -> str:
    """Verilator's configuration that opens the ports of `top`, whose Verilog is `text`."""
    ports = re.findall(
        r"^ *(?:input|output)\b(?: wire)?(?: *\[[^]]*\])? *\\?(\w+) *[;,]?$", text, re.M
    )
    lines = [f'public_flat_rw -module "{top}" -var "{port}"' for port in ports]
    return "\n".join(["`verilator_config", *lines, ""])


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Create `folder` and hold it: two test processes may want the same build at once."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _with_runtime(folder: Path, build: dict[str, Any]) -> None:
    """Put the object files of Verilator's runtime into a block's new build folder.

    The first block to be built compiles them. They do not depend on the block, but verilated.mk
    says that they do on its makefile, so make is told to take them as they are. (`verilator.o`,
    cocotb's main program, knows the block's own class and is no part of this.) Precompiled headers
    it would make anew for each block, with the block's own class in them, which takes longer than
    it saves: all blocks share those of the runtime.
    """
    runtime = _runtime(build)
    header = runtime / "runtime.h"
    build["make_args"] += [
        f"VK_PCH_H={header}",
        *(f"VK_PCH_I_{kind.upper()}=-include {header}.{kind}" for kind in ("fast", "slow")),
    ]
    if not folder.exists():
        _copy_runtime(runtime, folder, build)
    build["make_args"] += [f"--assume-old={path.name}" for path in folder.glob("verilated*.o")]


def _runtime(build: dict[str, Any]) -> Path:
    """The folder that all builds with these tools and flags share."""
    programs = (verilator_root() or shutil.which("verilator"), shutil.which("c++"))
    tools = [f"{path} {Path(path).stat().st_mtime}" for path in programs if path]
    flags = [flag for flag in build["extra_args"] if not flag.endswith(".vlt")]
    return build_root() / "bench" / f"runtime-{_digest(tools, [cocotb.__file__], flags)}"


def _copy_runtime(runtime: Path, folder: Path, build: dict[str, Any]) -> None:
    with _locked(runtime):
        if not (runtime / ".done").exists():
            (runtime / "runtime.h").write_text(_HEADERS)
            cocotb_test.simulator.run(module="", simulator="verilator", compile_only=True, **build)
            for path in folder.glob("verilated*.o"):
                shutil.copyfile(path, runtime / path.name)
            (runtime / ".done").touch()
            return
    # All of them or none, should the process be killed.
    whole = folder.with_name("runtime")
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    for path in runtime.glob("*.o"):
        shutil.copyfile(path, whole / path.name)
    whole.rename(folder)


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
    with bench_folder(block.module_name, texts, parameters) as build:
        cocotb_test.simulator.run(module=module, simulator="verilator", **build)


@contextmanager
def bench_folder(
    top: str,
    texts: dict[str, str],
    parameters: dict[str, Any] | None = None,
    flags: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:
    """Hold the build folder of these modules; gives cocotb-test's arguments for it.

    Parameters
    ----------
    top : str
        The module under test.
    texts : dict
        Module -> Verilog.
    parameters : dict, optional
        As in `run_block`.
    flags : sequence of str
        Further ones for Verilator.
    """
    folder = build_root() / "bench" / f"{top}-{_digest(sorted(texts), texts.values(), flags)}"
    with _locked(folder):
        ports = folder / "ports.vlt"
        files = {folder / f"{name}.v": text for name, text in texts.items()}
        for path, text in {**files, ports: _public(top, texts[top])}.items():
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
        sources = [str(path) for path in files]
        env = environment()
        env["TOKENLOOM_BENCH"] = json.dumps(parameters or {})
        env["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
        # cocotb-test looks for the simulator in this process's own environment.
        os.environ.update({k: env[k] for k in ("PATH", "VERILATOR_ROOT") if k in env})
        build: dict[str, Any] = {
            "toplevel": top,
            "verilog_sources": sources,
            "sim_build": str(folder / "sim"),
            # A bench sees the ports alone: every wire open to it makes a build ten times as long.
            "extra_args": [*VERILATOR_FLAGS, *flags, "--no-public-flat-rw", str(ports)],
            "make_args": ["-j2"],
            "extra_env": env,
            "timescale": "1ns/1ps",
        }
        _with_runtime(folder / "sim", build)
        yield build
