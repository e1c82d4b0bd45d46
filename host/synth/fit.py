"""Does a chip fit its card? Saved estimates of its blocks against what the shell leaves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from tokenloom.compiler.errors import TokenloomError
from tokenloom.host.synth.netlist import instances, memories
from tokenloom.host.synth.placement import die_instances, placement
from tokenloom.host.synth.resources import (
    Estimate,
    Resources,
    estimate_block,
    made_estimate,
    saved_key,
)
from tokenloom.hw.config import HardwareConfig

__all__ = [
    "COMFORT",
    "Fit",
    "Known",
    "available",
    "check_fit",
    "exact_estimate",
    "fit",
    "known_estimates",
    "save",
]

COMFORT = 0.85
"""Share of any resource above which placing and routing get hard."""

_SAVED = Path(__file__).with_name("estimates.json")
_COMMAND = "python scripts/estimate_resources.py"
_LABELS = {"luts": "LUTs", "flip_flops": "flip-flops", "dsps": "DSPs",
           "block_rams": "block RAMs (36 kbit)", "ultra_rams": "UltraRAMs"}  # fmt: skip
# A memory as synth_xilinx maps it: up to so many words in LUTs; in UltraRAM where that costs less,
# which it counts as so many block RAMs.
_LUT_WORDS, _URAM_WORDS, _URAM_BITS, _URAM_COST = 64, 4096, 72, 4


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of the blocks of a chip.

    Attributes
    ----------
    estimates : dict
        Block -> its estimate.
    older : tuple of str
        Blocks whose estimate is that of another text of the same name, with its memories' sizes
        replaced by this one's.
    unknown : tuple of str
        Blocks without an estimate: only their memories' sizes are known.
    """

    estimates: dict[str, Estimate]
    older: tuple[str, ...]
    unknown: tuple[str, ...]


def _block_rams(words: int, bits: int) -> float:
    """RAMB36 of a memory: the cheapest of the shapes that a block has, in halves."""
    shapes = ((512, 72), (1024, 36), (2048, 18), (4096, 9), (8192, 4), (16384, 2), (32768, 1))
    return min(-(-words // deep) * -(-bits // wide) for deep, wide in shapes) - (
        0.5 if words <= 512 and 0 < bits % 72 <= 36 else 0.0
    )


def derived_memories(text: str) -> Resources:
    """Block and UltraRAM that the memories declared in a text take, *derived* from their sizes."""
    block, ultra = 0.0, 0
    for words, bits in memories(text):
        if words <= _LUT_WORDS:
            continue
        blocks, ultras = _block_rams(words, bits), -(-words // _URAM_WORDS) * -(-bits // _URAM_BITS)
        if ultras * _URAM_COST < blocks:
            ultra += ultras
        else:
            block += blocks
    return Resources(block_rams=block, ultra_rams=ultra)


def _load() -> dict[str, dict[str, Any]]:
    if not _SAVED.exists():
        return {}
    blocks: dict[str, dict[str, Any]] = json.loads(_SAVED.read_text())["blocks"]
    return blocks


def save(texts: Mapping[str, str], board: str, estimates: Mapping[str, Estimate]) -> None:
    """Put estimates into the table that ships with tokenloom, in place of the board's old ones."""
    blocks = _load()
    for name, estimate in estimates.items():
        entry = {"key": saved_key(texts, name), **estimate.to_dict()}
        blocks.setdefault(name, {})[board] = entry
    content = {"command": _COMMAND, "blocks": {n: dict(sorted(blocks[n].items()))
                                               for n in sorted(blocks)}}  # fmt: skip
    _SAVED.write_text(json.dumps(content, indent=1) + "\n")


def exact_estimate(texts: Mapping[str, str], name: str) -> Estimate | None:
    """The estimate of this very text, made here or shipped, whichever board's chip it was for.

    Parameters
    ----------
    texts : mapping of str to str
    name : str
        The block.

    Returns
    -------
    Estimate or None
        None when this text has not been synthesised yet.
    """
    if (made := made_estimate(texts, name)) is not None:
        return made
    key = saved_key(texts, name)
    return next((_estimate(e) for e in _load().get(name, {}).values() if e["key"] == key), None)


def known_estimates(texts: Mapping[str, str], board: str, *, measure: bool = False) -> Known:
    """The blocks' estimates: this text's, made before or shipped; otherwise its older text's.

    Another board's block of the same name has other parameters: its estimate tells nothing.

    Parameters
    ----------
    texts : mapping of str to str
    board : str
        Whose estimates are taken when a text has changed.
    measure : bool
        Run Yosys for every text without an estimate (a minute and more per block).
    """
    blocks = _load()
    found, older, unknown = {}, [], []
    for name in sorted(texts):
        exact, saved = exact_estimate(texts, name), blocks.get(name, {})
        if exact is not None:
            found[name] = exact
        elif measure:
            found[name] = estimate_block(texts, name)
        elif board in saved:
            other = _estimate(saved[board])
            sizes = derived_memories(texts[name])
            resources = replace(
                other.resources, block_rams=sizes.block_rams, ultra_rams=sizes.ultra_rams
            )
            found[name] = replace(other, resources=resources)
            older.append(name)
        else:
            found[name] = Estimate(resources=derived_memories(texts[name]), depth=0)
            unknown.append(name)
    return Known(estimates=found, older=tuple(older), unknown=tuple(unknown))


def _estimate(entry: Mapping[str, Any]) -> Estimate:
    return Estimate.from_dict({k: v for k, v in entry.items() if k != "key"})


def available(hardware: HardwareConfig) -> Resources:
    """What the card's FPGA has behind the vendor's shell."""
    have = hardware.board.resources
    return Resources(
        luts=have.luts - have.shell_luts,
        flip_flops=have.flip_flops - have.shell_flip_flops,
        dsps=have.dsps - have.shell_dsps,
        block_rams=(have.block_ram_kbit - have.shell_block_ram_kbit) / 36,
        ultra_rams=have.ultra_ram_kbit / 288,
    )


def _die(hardware: HardwareConfig, die: int) -> Resources:
    """What a die has: an equal part, die 0 without the shell, whose ports are there."""
    have, dies = hardware.board.resources, hardware.board.resources.slrs
    whole = Resources(
        luts=have.luts,
        flip_flops=have.flip_flops,
        dsps=have.dsps,
        block_rams=have.block_ram_kbit / 36,
        ultra_rams=have.ultra_ram_kbit / 288,
    )
    left = available(hardware)
    shell = Resources(**{f.name: getattr(whole, f.name) - getattr(left, f.name)
                         for f in fields(Resources)})  # fmt: skip
    return whole * (1 / dies) + shell * (-1.0 if die == 0 else 0.0)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A chip's needs against its card.

    Attributes
    ----------
    used, left : Resources
        What it takes; what the card has after its shell.
    dies : dict
        Die -> (what it holds, what it has); empty when there is only one.
    blocks : dict
        Block -> (instances, estimate of one).
    die_blocks : dict
        Die -> block -> instances there.
    older, unknown : tuple of str
        As in `Known`.
    """

    used: Resources
    left: Resources
    dies: dict[int, tuple[Resources, Resources]]
    blocks: dict[str, tuple[int, Estimate]]
    die_blocks: dict[int, Counter[str]]
    older: tuple[str, ...]
    unknown: tuple[str, ...]

    def shares(self) -> dict[str, float]:
        """Resource -> the share of it that is used."""
        return _shares(self.used, self.left)

    def die_shares(self) -> dict[int, dict[str, float]]:
        """Die -> resource -> the share of it that is used."""
        return {die: _shares(used, left) for die, (used, left) in self.dies.items()}

    def parts(self) -> dict[str, dict[str, float]]:
        """The card and each die, by name -> resource -> the share of it that is used."""
        dies = {f"SLR{die}": shares for die, shares in self.die_shares().items()}
        return {"card": self.shares(), **dies}

    @property
    def fullest(self) -> float:
        """The largest share, of the card and of each die."""
        return max(share for part in self.parts().values() for share in part.values())


def _shares(used: Resources, left: Resources) -> dict[str, float]:
    found = {}
    for field in fields(Resources):
        need, have = getattr(used, field.name), getattr(left, field.name)
        if need or have:
            found[field.name] = need / have if have > 0 else float("inf")
    return found


def fit(
    texts: Mapping[str, str],
    top: str,
    hardware: HardwareConfig,
    *,
    measure: bool = False,
    dsps_per_product: float | None = None,
) -> Fit:
    """Add up the blocks' estimates.

    Parameters
    ----------
    texts : mapping of str to str
    top : str
    hardware : HardwareConfig
    measure : bool
        As for `known_estimates`.
    dsps_per_product : float, optional
        DSPs that a product of the array takes, in place of the one that Yosys needs; 0.5 when two
        share one.
    """
    known = known_estimates(texts, hardware.name, measure=measure)
    estimates = dict(known.estimates)
    if dsps_per_product is not None and "dot_element" in estimates:
        element = estimates["dot_element"]
        dsps = element.resources.dsps + hardware.array.lanes * (dsps_per_product - 1)
        estimates["dot_element"] = replace(element, resources=replace(element.resources, dsps=dsps))
    counts = instances(texts, top)
    pieces = placement(texts, top, hardware.board.resources.slrs)
    there = die_instances(texts, top, pieces) if pieces else {}
    return Fit(
        used=_total(counts, estimates),
        left=available(hardware),
        dies={die: (_total(inside, estimates), _die(hardware, die))
              for die, inside in there.items()},
        die_blocks=there,
        blocks={name: (count, estimates[name]) for name, count in sorted(counts.items())},
        older=known.older,
        unknown=known.unknown,
    )  # fmt: skip


def _total(counts: Mapping[str, int], estimates: Mapping[str, Estimate]) -> Resources:
    total = Resources()
    for name, count in counts.items():
        total += estimates[name].resources * count
    return total


def check_fit(found: Fit, hardware: HardwareConfig) -> None:
    """Refuse a chip that is larger than its card, or than a die by the placement.

    Raises
    ------
    TokenloomError
        With the resource that runs out and the block that takes most of it.
    """
    name = hardware.board.name
    counts = {block: count for block, (count, _) in found.blocks.items()}
    _check(found, hardware.name, name, counts, found.used, found.left)
    for die, (used, left) in found.dies.items():
        _check(found, hardware.name, f"SLR{die} of {name}", found.die_blocks[die], used, left)


def _check(
    found: Fit, chip: str, place: str, counts: Mapping[str, int], used: Resources, left: Resources
) -> None:
    for resource, share in _shares(used, left).items():
        if share <= 1:
            continue

        def each(block: str, resource: str = resource) -> float:
            taken: float = getattr(found.blocks[block][1].resources, resource)
            return taken

        block = max(counts, key=lambda block: counts[block] * each(block))
        raise TokenloomError(
            f"{chip} does not fit {place}: it takes {getattr(used, resource):,.0f} "
            f"{_LABELS[resource]} (Yosys estimate), and {getattr(left, resource):,.0f} are there "
            f"after the shell; block {block} takes most of them: {counts[block]} times "
            f"{each(block):,.0f}. Allowed is a smaller array, fewer rows, or smaller maxima and "
            "buffers"
        )
