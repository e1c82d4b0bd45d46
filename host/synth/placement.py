"""Which block goes to which die (SLR), and what each die then has to hold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from tokenloom.host.synth.netlist import all_children, instance_paths, instances

__all__ = ["FAR", "MEMORY_SIDE", "SPREAD", "die_instances", "placement"]

SPREAD = ("channel", "column")
"""Blocks of which a chip has one per memory channel: what holds them is no piece itself."""

MEMORY_SIDE = ("address_base",)
"""Blocks that belong beside the memory's ports, with most channels."""

FAR = ("attention", "sampler")
"""Blocks of the core for which its own die has no room."""

_NUMBER = re.compile(r"\d+$")
# Channels beside the memory's ports, of so many. All would need 241,280 of the 226,931 LUTs that a
# U280's shell and HBM connection leave in SLR0; these need 80 %. The others go to the core's die:
# the platform's interconnect has registers where it crosses.
_MEMORY_SHARE = (24, 32)
# Columns in the core's die, of so many: the core has multipliers of its own. With a group of
# columns per die these are the first group, which has no register before it, and a bit more:
# without that the die above would have 85 % of its multipliers in use.
_CORE_SHARE = (15, 32)


def _containers(paths: Mapping[str, str]) -> set[str]:
    """Instances that are spread over the dies: those above a channel or a column."""
    found = {""}
    for path, kind in paths.items():
        if kind in SPREAD:
            parts = path.split("/")[:-1]
            found |= {"/".join(parts[: i + 1]) for i in range(len(parts))}
    return found


def placement(texts: Mapping[str, str], top: str, dies: int) -> dict[int, list[str]]:
    """Die -> instances, by their paths below `top`; nothing lies inside another piece.

    Most channels are in die 0, where the memory's ports are, which leaves no room there for more.
    Die 1 has the rest, with fewer of the array's columns than the dies above it; the last die also
    has the core's largest parts.
    """
    if dies == 1:
        return {}
    paths = instance_paths(texts, top)
    containers = _containers(paths)
    count = Counter(paths.values())
    found: dict[int, list[str]] = {die: [] for die in range(dies)}
    for path, kind in paths.items():
        parent = path.rpartition("/")[0]
        if path in containers or parent not in containers:
            continue
        number = _NUMBER.search(path)
        if kind in SPREAD and number is None:
            raise ValueError(f"{path} is a {kind} without a number")
        if kind == "channel" and number is not None:
            die = _die_of_channel(int(number[0]), count[kind])
        elif kind == "column" and number is not None:
            die = _die_of_column(int(number[0]), count[kind], dies)
        else:
            die = 0 if kind in MEMORY_SIDE else dies - 1 if kind in FAR else 1
        found[die].append(path)
    return {die: sorted(pieces, key=_natural) for die, pieces in found.items()}


def _die_of_channel(number: int, channels: int) -> int:
    share, whole = _MEMORY_SHARE
    return 0 if number * whole < channels * share else 1


def _die_of_column(number: int, columns: int, dies: int) -> int:
    first = columns if dies == 2 else columns * _CORE_SHARE[0] // _CORE_SHARE[1]
    if number < first:
        return 1
    return 2 + (number - first) * (dies - 2) // (columns - first)


def _natural(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path)]


def die_instances(
    texts: Mapping[str, str], top: str, pieces: Mapping[int, Iterable[str]]
) -> dict[int, Counter[str]]:
    """Die -> block -> its instances there. What holds the pieces is not fenced; it counts where the
    core is.
    """
    paths = instance_paths(texts, top)
    below = all_children(texts)
    found: dict[int, Counter[str]] = {}
    for die, placed in pieces.items():
        found[die] = Counter()
        for kind, times in Counter(paths[path] for path in placed).items():
            for part, count in instances(texts, kind, below).items():
                found[die][part] += count * times
    found[1] += Counter(paths.get(path, top) for path in _containers(paths))
    return found
