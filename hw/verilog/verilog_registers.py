"""Writes registers as one clocked process with enables instead of a next state and a copy of it."""

from __future__ import annotations

import re
from collections import Counter

__all__ = ["with_clocked_processes"]

# `always @(posedge clk)` and `register <= next ;`
_COPY = re.compile(
    r"^  always @\(posedge (?P<clock>\S+?) ?\)\n    (?P<register>\S+) +<= (?P<next>\\\S+) ;\n",
    re.MULTILINE,
)
# The process of a next state: it starts with what the register holds.
_PROCESS = re.compile(
    r"^  always @\* begin\n    if \(_initial_pass ?\) begin end\n"
    r"    (?P<next>\\\S+)  = (?P<held>\S+?) ?;\n(?P<body>(?:    .*\n)*)  end\n",
    re.MULTILINE,
)
_NAME = re.compile(r"\\\S+")


def with_clocked_processes(module: str) -> str:
    """One Verilog module, its registers assigned where their next states were.

    Amaranth's text holds every register twice: a combinational process works out its next state
    from its present one, and a clocked one copies it. Where nothing else reads the next state both
    become one clocked process of the same statements; what it held, it holds by itself. That is how
    one writes it by hand, synthesis sees the clock enable, and a simulator does no work for a
    register that holds.
    """
    copies = {m["next"]: m for m in _COPY.finditer(module)}
    processes = {m["next"]: m for m in _PROCESS.finditer(module) if m["next"] in copies}
    uses = Counter(_NAME.findall(module))
    for name in list(processes):
        process, copy = processes[name], copies[name]
        inside = len(re.findall(rf"{re.escape(name)} ", process[0]))
        # Declared once, copied once; whatever else there is lies in the process, as a target.
        targets = len(re.findall(rf"^ +{re.escape(name)} (?:\[[\d:]+\] )? ?= ", process[0], re.M))
        if process["held"] != copy["register"] or inside != targets or uses[name] != inside + 2:
            del processes[name]

    def clocked(match: re.Match[str]) -> str:
        name = match["next"]
        if name not in processes:
            return match[0]
        copy = copies[name]
        register = f"{copy['register']} " if copy["register"].startswith("\\") else copy["register"]
        target = re.compile(rf"^( +){re.escape(name)} (\[[\d:]+\] )? ?= ", re.MULTILINE)
        body = target.sub(lambda m: f"{m[1]}{register}{(m[2] or '').strip()} <= ", match["body"])
        return f"  always @(posedge {copy['clock']}) begin\n{body}  end\n"

    module = _PROCESS.sub(clocked, module)
    module = _COPY.sub(lambda m: "" if m["next"] in processes else m[0], module)
    declared = re.compile(r"^  reg (?:\[\d+:0\] )?(\\\S+) ;\n", re.MULTILINE)
    return declared.sub(lambda m: "" if m[1] in processes else m[0], module)
