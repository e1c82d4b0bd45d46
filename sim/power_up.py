"""The chip's Verilog as the chip is when power comes up."""

from __future__ import annotations

import re

__all__ = ["without_initial_values"]

# A memory's initial contents, word by word or in loops, and what of them is not zero.
_CONTENTS = re.compile(
    r"  (?:integer \w+;\n  )?initial begin\n"
    r"(?:    for \(.*\)\n|    (?:  )?\S+ ?\[\w+(?:\[\d+:0\])?\] = .*;\n)+  end\n"
)
_TABLE = re.compile(r"\] = (?!\d+'[dh]0+;)")
_REGISTER = re.compile(r"^(  reg (?:\[\d+:0\] )?\S+ +)= \d+'[dhb][0-9a-f]+;$", re.MULTILINE)


def without_initial_values(texts: dict[str, str]) -> dict[str, str]:
    """The chip as it is when power comes up: no register and no memory has a value of its own.

    Only tables keep their contents, as they do where they are ROMs; what begins as all zeros is a
    buffer. What starts a process in a simulation is no register and stays as well.
    """

    def contents(match: re.Match[str]) -> str:
        return match[0] if _TABLE.search(match[0]) else ""

    return {
        name: _REGISTER.sub(r"\1;", _CONTENTS.sub(contents, text)) for name, text in texts.items()
    }
