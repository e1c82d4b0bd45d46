"""What a chip takes of an FPGA: Yosys' estimate per block, times its instances.

Each block is synthesised alone, for UltraScale+ (`synth_xilinx -family xcup`), with the blocks
below it as black boxes; so an array of 4096 products costs one element's synthesis. Nothing is
optimised across blocks, and nothing is placed: a *Yosys estimate*, to be named so wherever it is
shown.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tokenloom.host.jsonfile import write_json
from tokenloom.host.synth.netlist import blackbox, children
from tokenloom.hw.verilog.build_folder import build_root
from tokenloom.sim.yosys import yosys

__all__ = [
    "Estimate",
    "Resources",
    "estimate_block",
    "estimate_whole",
    "made_estimate",
    "saved_key",
    "whole_key",
]

# LUTs of which a memory or shift register made of LUTs consists; single LUTs count one.
_LUT_CELLS = {
    "RAM16X1D": 2, "RAM32X1S": 1, "RAM32X1D": 2, "RAM64X1S": 1, "RAM64X1D": 2, "RAM128X1S": 2,
    "RAM128X1D": 4, "RAM256X1S": 4, "RAM256X1D": 8, "RAM512X1S": 8, "RAM32M": 4, "RAM64M": 4,
    "RAM32M16": 8, "RAM64M8": 8, "RAM64X8SW": 8, "RAM32X16DR8": 8, "SRL16E": 1, "SRLC16E": 1,
    "SRLC32E": 1,
}  # fmt: skip
_SCRIPT = """read_verilog {files}
synth_xilinx -family xcup -noiopad -noclkbuf -uram -flatten -top {top}
tee -q -o stat.json stat -json
delete t:FD* t:LD* t:RAM* t:URAM* t:SRL* {below}
delete t:DSP48E2 r:PREG=1 %i t:DSP48E2 r:MREG=1 %i t:DSP48E2 r:AREG=1 %i
tee -q -o depth.txt ltp
"""
_LENGTH = re.compile(r"length=(\d+)")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Parts of an UltraScale+ FPGA."""

    luts: float = 0
    """Look-up tables, those used as memories among them."""
    flip_flops: float = 0
    """Flip-flops."""
    dsps: float = 0
    """DSP48E2."""
    block_rams: float = 0
    """RAMB36E2; an RAMB18E2 is half of one."""
    ultra_rams: float = 0
    """URAM288."""

    def __add__(self, other: Resources) -> Resources:
        return Resources(**{f.name: getattr(self, f.name) + getattr(other, f.name)
                            for f in fields(self)})  # fmt: skip

    def __mul__(self, times: float) -> Resources:
        return Resources(**{f.name: getattr(self, f.name) * times for f in fields(self)})

    @classmethod
    def of_cells(cls, cells: Mapping[str, int]) -> Resources:
        """What these cells of Xilinx's library take."""
        found = dict.fromkeys((f.name for f in fields(cls)), 0.0)
        for kind, count in cells.items():
            if re.fullmatch(r"LUT[1-6]", kind):
                found["luts"] += count
            elif kind in _LUT_CELLS:
                found["luts"] += count * _LUT_CELLS[kind]
            elif kind in ("FDRE", "FDSE", "FDCE", "FDPE", "LDCE", "LDPE"):
                found["flip_flops"] += count
            elif kind == "DSP48E2":
                found["dsps"] += count
            elif kind == "RAMB36E2":
                found["block_rams"] += count
            elif kind == "RAMB18E2":
                found["block_rams"] += count / 2
            elif kind == "URAM288":
                found["ultra_rams"] += count
            elif re.match(r"RAM|SRL|DSP", kind):
                raise ValueError(f"cells of kind {kind} are not in the table of what they take")
        return cls(**found)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Yosys' estimate of one block, without the blocks below it.

    Attributes
    ----------
    resources : Resources
    depth : int
        Cells (LUTs, carries, multiplexers, unregistered multipliers) on the longest path between
        registers, memories, ports and blocks below.
    """

    resources: Resources
    depth: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {**asdict(self.resources), "depth": self.depth}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Estimate:
        """Back from `to_dict`."""
        given = dict(data)
        return cls(depth=given.pop("depth"), resources=Resources(**given))


def saved_key(texts: Mapping[str, str], name: str) -> str:
    """What an estimate depends on: the block's text and its script."""
    content = texts[name] + "\0" + _SCRIPT
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _saved_path(texts: Mapping[str, str], name: str) -> Path:
    return build_root() / "resources" / f"{name}-{saved_key(texts, name)}.json"


def made_estimate(texts: Mapping[str, str], name: str) -> Estimate | None:
    """What `estimate_block` has found for this text before; None when it has not been asked."""
    saved = _saved_path(texts, name)
    return Estimate.from_dict(json.loads(saved.read_text())) if saved.exists() else None


def estimate_block(texts: Mapping[str, str], name: str) -> Estimate:
    """Synthesise one block; made once per text (build/resources).

    Parameters
    ----------
    texts : mapping of str to str
        Verilog by module, as `emit` gives it.
    name : str
        The block; those below it are black boxes.

    Raises
    ------
    TokenloomError
        When Yosys is missing or fails.
    """
    saved = _saved_path(texts, name)
    if (made := made_estimate(texts, name)) is not None:
        return made
    below = sorted(children(texts, name))
    files = {name: texts[name], **{child: blackbox(texts[child]) for child in below}}
    found = _synthesised(files, name, below)
    write_json(saved, found.to_dict())
    return found


def whole_key(texts: Mapping[str, str]) -> str:
    """What `estimate_whole` depends on."""
    content = "\0".join([*map(str, sorted(texts.items())), _SCRIPT])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def estimate_whole(texts: Mapping[str, str], top: str) -> Estimate:
    """Synthesise a block together with all below it, as one; made once per texts.

    Raises
    ------
    TokenloomError
        When Yosys is missing or fails.
    """
    saved = build_root() / "resources" / f"whole-{top}-{whole_key(texts)}.json"
    if saved.exists():
        return Estimate.from_dict(json.loads(saved.read_text()))
    found = _synthesised(texts, top, ())
    write_json(saved, found.to_dict())
    return found


def _synthesised(files: Mapping[str, str], top: str, below: Sequence[str]) -> Estimate:
    with tempfile.TemporaryDirectory(prefix="tokenloom-") as folder:
        for module, text in files.items():
            Path(folder, f"{module}.v").write_text(text)
        script = _SCRIPT.format(
            files=" ".join(f"{module}.v" for module in files),
            top=top,
            below=" ".join(f"t:{child}" for child in below),
        )
        yosys(script, Path(folder))
        cells = json.loads(Path(folder, "stat.json").read_text())["design"]["num_cells_by_type"]
        lengths = _LENGTH.findall(Path(folder, "depth.txt").read_text())
    return Estimate(
        resources=Resources.of_cells({k: v for k, v in cells.items() if k not in below}),
        depth=max(map(int, lengths), default=0),
    )
