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
import subprocess
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


_HEADER = "runtime.h"
# What the C++ of every block includes, and cocotb's main program.
_INCLUDED = "".join(f'#include "verilated{part}.h"\n' for part in ("", "_dpi", "_vpi"))
# Variables that cocotb-test and verilated.mk take flags from.
_ENVIRONMENT = ("WAVES", "CPPFLAGS", "CXXFLAGS", "USER_CPPFLAGS")


def _digest(*parts: Iterable[str]) -> str:
    content = "\0".join(text for part in parts for text in part)
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


def _with_runtime(folder: Path, build: dict[str, Any], flags: list[str]) -> None:
    """Let a block's build take Verilator's runtime and precompiled headers as they are.

    The runtime's object files do not depend on the block, but verilated.mk says that they do on its
    makefile. Precompiled headers it would make anew for each block, and with the block's own class
    in them, which takes longer than it saves; for small blocks it has none at all.
    """
    place = build_root() / "bench" / f"runtime-{_digest(*_tools(flags))}"
    runtime = place / "sim"
    with _locked(place):
        if not (place / ".done").exists():
            shutil.rmtree(runtime, ignore_errors=True)
            _make_runtime(runtime, build | {"extra_args": flags})
            (place / ".done").touch()
    if not folder.exists():
        # All of them or none, should the process be killed.
        whole = folder.with_name("runtime")
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir()
        for path in runtime.glob("verilated*.o"):
            shutil.copyfile(path, whole / path.name)
        whole.rename(folder)
    header = runtime / _HEADER
    build["make_args"] += [
        f"VK_PCH_H={header}",
        *("VK_PCH_I_FAST=", "VK_PCH_I_SLOW="),  # these go to some of the files alone
        *(f"OPT_FAST=-Os -include {header}.fast", f"OPT_SLOW=-include {header}.slow"),
        *(f"--assume-old={path.name}" for path in folder.glob("verilated*.o")),
    ]


def _tools(flags: Iterable[str]) -> Iterator[Iterable[str]]:
    """What decides how a block is compiled."""
    programs = (verilator_root() or shutil.which("verilator"), shutil.which("c++"))
    yield [f"{path} {Path(path).stat().st_mtime}" for path in programs if path]
    yield [cocotb.__file__, cocotb_test.__file__]
    yield flags
    yield [f"{name}={os.environ.get(name, '')}" for name in _ENVIRONMENT]


def _make_runtime(folder: Path, build: dict[str, Any]) -> None:
    """Compile it with a module that has nothing in it."""
    tiny, header = folder.with_name("tiny.v"), folder / _HEADER
    tiny.write_text("module tiny(input wire clk);\nendmodule\n")
    its = {
        "toplevel": tiny.stem,
        "verilog_sources": [str(tiny)],
        "sim_build": str(folder),
    }
    cocotb_test.simulator.run(module="", simulator="verilator", compile_only=True, **build | its)
    header.write_text(_INCLUDED)
    make = ["make", "-C", str(folder), "-f", "Vtop.mk", f"VK_PCH_H={header}"]
    make += [f"{header}.{kind}.gch" for kind in ("fast", "slow")]
    subprocess.run(make, check=True, capture_output=True)


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
    common = [*VERILATOR_FLAGS, *flags, "--no-public-flat-rw"]
    digest = _digest(sorted(texts), texts.values(), *_tools(common))
    folder = build_root() / "bench" / f"{top}-{digest}"
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
            "extra_args": [*common, str(ports)],
            "make_args": ["-j2"],
            "extra_env": env,
            "timescale": "1ns/1ps",
        }
        _with_runtime(folder / "sim", build, common)
        yield build
