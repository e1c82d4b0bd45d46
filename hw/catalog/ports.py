"""A block's ports as a table, with the descriptions that its docstring has."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from fnmatch import fnmatch

from amaranth.lib.wiring import In

from tokenloom.hw.verilog.block import Block

__all__ = ["Port", "port_table"]

_SECTION = re.compile(r"^Members\n-+\n(.*?)(?=^\S[^\n]*\n-{3,}\n|\Z)", re.MULTILINE | re.DOTALL)
_SUBJECT = re.compile(r"(?:^|[;,]\s+)((?:[\w*]+,\s+)*[\w*]+) : ")
_SHAPE = re.compile(r"^(?:(?:In|Out)(?:\([^()]*(?:\([^()]*\)[^()]*)*\))?(?:,\s*|\s+|$))+")


@dataclass(frozen=True, kw_only=True)
class Port:
    """A port of the emitted module.

    Attributes
    ----------
    name : str
    direction : str
        ``in`` or ``out``.
    bits : int
    text : str
        From the docstring's section Members; empty where that does not name the port.
    """

    name: str
    direction: str
    bits: int
    text: str


def port_table(block: Block) -> list[Port]:
    """Clock, reset and enable, then every other port in the module's order."""
    texts = _described(block)
    ports = [
        Port(name="clk", direction="in", bits=1, text="The clock; all is on its rising edge."),
        Port(name="rst", direction="in", bits=1, text="Reset, synchronous, active high."),
    ]
    if block.belt:
        ports.append(Port(name="en", direction="in", bits=1, text="The belt's enable."))
    for name, (value, flow) in block.flat_ports().items():
        ports.append(
            Port(
                name=name,
                direction="in" if flow is In else "out",
                bits=len(value),
                text=texts.get(name, ""),
            )
        )
    return ports


def _described(block: Block) -> dict[str, str]:
    """Port -> text, from the entries of Members: ``name, other_* : In(8), text``."""
    section = _SECTION.search(inspect.getdoc(type(block)) or "")
    found: dict[str, str] = {}
    entries: list[str] = []
    for line in section[1].rstrip().splitlines() if section else ():
        if line.startswith(" ") and entries:
            entries[-1] += " " + line.strip()
        elif line.strip():
            entries.append(line)
    for entry in entries:
        text = ""
        for match in reversed(list(_SUBJECT.finditer(entry))):
            # Ports that share a line share its text, but for what each says of itself.
            text = _SHAPE.sub("", entry[match.end() :]).strip(" ,;") or text
            entry = entry[: match.start()]
            for word in re.findall(r"[\w*]+", match[1]):
                for name in block.flat_ports():
                    if fnmatch(name, word):
                        found.setdefault(name, text)
    return found
