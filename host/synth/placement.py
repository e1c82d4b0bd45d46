"""Which block goes to which die (SLR), and what each die then has to hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from tokenloom.host.synth.netlist import instance_paths, instances
from tokenloom.host.synth.resources import Estimate, Resources

__all__ = ["SPREAD", "die_totals", "placement"]

SPREAD = ("channel", "column")
"""Blocks of which a chip has one per memory channel: what holds them is no piece itself."""

_COLUMN = re.compile(r"column(\d+)$")


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

    The channels are in die 0, where the memory's ports are, with all that talks to the host. The
    array's columns fill the dies above it in turn, the rest of the core sits beside the first of
    them.
    """
    if dies == 1:
        return {}
    paths = instance_paths(texts, top)
    containers = _containers(paths)
    core = next((path for path in sorted(containers) if path.split("/")[-1] == "core"), None)
    columns = sum(kind == "column" for kind in paths.values())
    found: dict[int, list[str]] = {die: [] for die in range(dies)}
    for path in paths:
        parent = path.rpartition("/")[0]
        if path in containers or parent not in containers:
            continue
        column = _COLUMN.search(path)
        if column is not None:
            die = 1 + int(column[1]) * (dies - 1) // columns
        else:
            die = int(core is not None and path.startswith(f"{core}/"))
        found[die].append(path)
    return {die: sorted(pieces, key=_natural) for die, pieces in found.items()}


def _natural(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path)]


def die_totals(
    texts: Mapping[str, str],
    top: str,
    pieces: Mapping[int, Iterable[str]],
    estimates: Mapping[str, Estimate],
) -> dict[int, Resources]:
    """Die -> what its pieces take. What holds the pieces counts where most of its pieces' parents
    are: the core's own cells in die 1, all others in die 0.
    """
    paths = instance_paths(texts, top)
    found: dict[int, Resources] = {}
    for die, placed in pieces.items():
        here = Resources()
        for path in placed:
            for name, count in instances(texts, paths[path]).items():
                here += estimates[name].resources * count
        found[die] = here
    found[0] += estimates[top].resources
    for path in _containers(paths) - {""}:
        inside = "core" in path.split("/")
        found[int(inside)] += estimates[paths[path]].resources
    return found
