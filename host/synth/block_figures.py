"""What the catalog's blocks take and how fast they are: a small instance of each, by open tools.

LUTs, flip-flops, DSPs, memories and depth are a *Yosys estimate* for UltraScale+, the clock is that
of a *place and route* on an ECP5-85K. The figures in the documentation are saved beside this file,
each with a digest of the Verilog that it belongs to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenloom.compiler.errors import TokenloomError
from tokenloom.host.synth.ecp5 import Placed, place_and_route, placed_key
from tokenloom.host.synth.resources import Estimate, estimate_whole, whole_key
from tokenloom.hw.catalog.spec import BlockSpec
from tokenloom.hw.verilog.block import Block, emit

__all__ = [
    "BlockFigures",
    "estimate_small",
    "measure",
    "place_small",
    "save_figures",
    "saved_figures",
    "section",
]

_SAVED = Path(__file__).with_name("block_figures.json")
_COMMAND = "python scripts/measure_blocks.py"
_ESTIMATE = {
    "LUT": "luts",
    "FF": "flip_flops",
    "DSP48E2": "dsps",
    "RAMB36": "block_rams",
    "URAM288": "ultra_rams",
}
_PLACED = {
    "LUT4": "luts",
    "FF": "flip_flops",
    "MULT18X18D": "multipliers",
    "DP16KD": "block_rams",
    "MHz": "mhz",
}


@dataclass(frozen=True, kw_only=True)
class BlockFigures:
    """Figures of a block's small instance.

    Attributes
    ----------
    small : tuple of str
        Its parameters that are not the block's defaults.
    key : str
        Digest of its Verilog and of the tools' scripts.
    estimate : Estimate or None
    placed : Placed or None
        None where a tool failed; then `failed` says how.
    failed : str
    """

    small: tuple[str, ...]
    key: str
    estimate: Estimate | None
    placed: Placed | None
    failed: str = ""


def _small(spec: BlockSpec) -> Block:
    return spec.made(spec.arguments(spec.small))


def _key(texts: Mapping[str, str]) -> str:
    return f"{whole_key(texts)}-{placed_key(texts)}"


def estimate_small(spec: BlockSpec) -> Estimate:
    """Yosys' estimate of the small instance with all below it."""
    block = _small(spec)
    return estimate_whole(emit(block), block.module_name)


def place_small(spec: BlockSpec) -> Placed:
    """Place and route of the small instance on an ECP5-85K."""
    return place_and_route(_small(spec))


def measure(spec: BlockSpec) -> BlockFigures:
    """Both; each is made once per Verilog text."""
    estimate, placed, failed = None, None, []
    try:
        estimate = estimate_small(spec)
    except TokenloomError as error:
        failed.append(str(error))
    try:
        placed = place_small(spec)
    except TokenloomError as error:
        failed.append(str(error))
    return BlockFigures(
        small=spec.small,
        key=_key(emit(_small(spec))),
        estimate=estimate,
        placed=placed,
        failed=" ".join(" ".join(failed).split()),
    )


def _load() -> dict[str, dict[str, Any]]:
    if not _SAVED.exists():
        return {}
    blocks: dict[str, dict[str, Any]] = json.loads(_SAVED.read_text())["blocks"]
    return blocks


def save_figures(name: str, found: BlockFigures) -> None:
    """Put a block's figures into the table that ships."""
    blocks = _load()
    blocks[name] = asdict(found) | {
        "estimate": None if found.estimate is None else found.estimate.to_dict()
    }
    content = {"command": _COMMAND, "blocks": dict(sorted(blocks.items()))}
    _SAVED.write_text(json.dumps(content, indent=1) + "\n")


def saved_figures(name: str) -> BlockFigures | None:
    """A block's figures as they ship; None when there are none."""
    entry = _load().get(name)
    if entry is None:
        return None
    return BlockFigures(
        small=tuple(entry["small"]),
        key=entry["key"],
        estimate=None if entry["estimate"] is None else Estimate.from_dict(entry["estimate"]),
        placed=None if entry["placed"] is None else Placed(**entry["placed"]),
        failed=entry["failed"],
    )


def section(spec: BlockSpec) -> str:
    """Markdown of a page's section Resources, from the saved figures."""
    found = saved_figures(spec.name)
    if found is None:
        return f"Not measured yet; `{_COMMAND} {spec.name}` does it."
    words = " ".join(f"-P {one}" for one in found.small)
    parts = [f"Of a small instance, {f'`{words}`' if words else 'the default'}, with all below it."]
    if found.key != _key(emit(_small(spec))):
        parts.append(
            f"**Of an older text**: the block has changed since; `{_COMMAND} {spec.name}` measures "
            "it anew."
        )
    if found.estimate is not None:
        figures = {head: getattr(found.estimate.resources, key) for head, key in _ESTIMATE.items()}
        parts += [
            "*Yosys estimate* for UltraScale+ (`synth_xilinx -family xcup`); depth: LUTs, carries, "
            "multiplexers and unregistered multipliers on the longest path between registers.",
            _table(figures | {"logic depth": found.estimate.depth}),
        ]
    if found.placed is not None:
        parts += [
            "*Place and route* on an ECP5-85K, speed grade 6, alone and out of context "
            "(`nextpnr-ecp5`); the clock is that of the slowest path between two registers.",
            _table({head: getattr(found.placed, key) for head, key in _PLACED.items()}),
        ]
    if found.failed:
        parts.append(f"Not measured: {found.failed}")
    return "\n\n".join(parts)


def _table(figures: Mapping[str, float]) -> str:
    rows: list[Sequence[str]] = [
        [*figures],
        ["---"] * len(figures),
        [f"{value:,.10g}" for value in figures.values()],
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
