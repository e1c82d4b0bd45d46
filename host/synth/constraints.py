"""The project's constraint files: the rules in `constraints/`, filled from the kernel's tables, and
the placement, made from its hierarchy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.resources import files

from tokenloom.compiler.errors import TokenloomError
from tokenloom.host.synth.netlist import instance_paths
from tokenloom.hw.card.kernel import CROSSINGS, RESET_STAGES, Crossing

__all__ = ["board_lpf", "clock_xdc", "crossings_xdc", "hook_tcl", "placement_xdc", "synchronisers"]

_FOLDER = "tokenloom.constraints"
_PLACE = re.compile(r"@(\w+)@")

_ASYNC = re.compile(r'^  \(\* ASYNC_REG = "TRUE" \*\)\n  reg (\S+)', re.MULTILINE)
_CLOCKED = re.compile(r"^    (\S+) <= (\S+);$", re.MULTILINE)


def synchronisers(texts: Mapping[str, str], top: str) -> set[str]:
    """First flip-flops of every synchroniser in the Verilog, by their paths below `top`."""
    paths = {"": top, **instance_paths(texts, top)}
    found = set()
    for path, name in paths.items():
        marked = set(_ASYNC.findall(texts[name]))
        for register, source in _CLOCKED.findall(texts[name]):
            if register in marked and source not in marked:
                found.add(f"{path}/{register}" if path else register)
    return found


def _rules(name: str) -> str:
    return files(_FOLDER).joinpath(name).read_text(encoding="utf-8")


def _filled(text: str, values: Mapping[str, str]) -> str:
    return _PLACE.sub(lambda place: values[place[1]], text)


def clock_xdc(period_ns: float) -> str:
    """The clock, for the kernel alone; in a platform the platform brings it."""
    return _filled(_rules("clock.xdc"), {"period_ns": f"{period_ns:.3f}"})


def crossings_xdc(crossings: Iterable[Crossing] = CROSSINGS) -> str:
    """A constraint for every asynchronous crossing; nothing else is excused from timing."""
    lines = _rules("crossings.xdc").splitlines(keepends=True)
    rule = "".join(line for line in lines if _PLACE.search(line))
    fixed = "".join(line for line in lines if not _PLACE.search(line))
    return fixed + "".join(_filled(rule, vars(crossing)) for crossing in crossings)


def board_lpf(board: str) -> str:
    """Pins and clock of a board with an ECP5, for nextpnr.

    Raises
    ------
    TokenloomError
        When there are none of that board.
    """
    try:
        return _rules(f"{board}.lpf")
    except FileNotFoundError:
        there = sorted(
            entry.name.removesuffix(".lpf")
            for entry in files(_FOLDER).iterdir()
            if entry.name.endswith(".lpf")
        )
        raise TokenloomError(
            f"board '{board}' has no pins in constraints/; there are {', '.join(there)}"
        ) from None


def placement_xdc(pieces: Mapping[int, Iterable[str]]) -> str:
    """A pblock per die, for the kernel alone."""
    lines = ["# Which block goes to which die (SLR): host/synth/placement.py has the rule."]
    if not pieces:
        lines.append("# This FPGA has one die: nothing to say.")
    for die, cells in pieces.items():
        lines += [
            f"create_pblock die{die}",
            f"resize_pblock [get_pblocks die{die}] -add {{SLR{die}}}",
            *(f"add_cells_to_pblock [get_pblocks die{die}] [get_cells {{{cell}}}]"
              for cell in cells),
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def hook_tcl(pieces: Mapping[int, Iterable[str]], unit: str) -> str:
    """The same placement inside a platform, run by v++ before placing.

    The platform has pblocks of its own: the dies are asked for by a property, which moves no fence.
    """
    lines = ["# Before place_design, in v++'s Vivado run: the blocks' dies inside the platform."]
    for die, cells in pieces.items():
        for cell in cells:
            pattern = f"*/{unit}/*{cell}"
            lines += [
                f"set cells [get_cells -hierarchical -quiet -filter {{NAME =~ {pattern}}}]",
                f'if {{[llength $cells] == 0}} {{ error "no cell {pattern}" }}',
                f"set_property USER_SLR_ASSIGNMENT SLR{die} $cells",
            ]
    return "\n".join(lines) + "\n"


assert RESET_STAGES >= 2  # one flip-flop is no synchroniser
