"""Makes the Verilog that Yosys writes short and readable, without changing what it says."""

from __future__ import annotations

import re
from collections import Counter

from tokenloom.hw.verilog.verilog_registers import with_clocked_processes

__all__ = ["tidy"]

# Memories of at most so many words keep their word-by-word list.
_LISTED_WORDS = 4
# Bits of one constant of a table: lines stay short, and far below Verilator's 65,536 bits.
_TABLE_BITS = 4096

_MEMORY = re.compile(
    r"^  reg (?:\[(?P<high>\d+):0\] )?(?P<name>\S+) +\[(?P<top>\d+):0\];\n"
    r"  initial begin\n(?P<words>(?:    \S+ ?\[\d+\] = \d+'[hd][0-9a-f]+;\n)+)  end\n",
    re.MULTILINE,
)
_WORD = re.compile(r"^    (\S+) ?\[(\d+)\] = \d+'([hd])([0-9a-f]+);$", re.MULTILINE)
_NAME = re.compile(r"\\\S+|(?<![\\\w$'])[A-Za-z_][\w$]*")
_WIRE = re.compile(r"^  wire (?:\[\d+:\d+\] )?(\S+) ?;$")
_ASSIGN = re.compile(r"^  assign (\S+) +=")


def tidy(text: str) -> str:
    """The same modules, shorter, and without what `verilator -Wall` rightly dislikes.

    Yosys writes "is zero" as `!` of a vector, leaves `default` out of case statements, names its
    start-up flag after its own source file, keeps a wire per connected port, and lists the words
    of every memory one by one.
    """
    text = re.sub(r"\\\$auto\$verilog_backend\S* ", "_initial_pass ", text)
    text = re.sub(r"= ! ", "= ~| ", text)
    # A wire's start value is its driver's.
    text = re.sub(r"^  \(\* init = \S+ \*\)\n(?=  wire )", "", text, flags=re.MULTILINE)
    text = _MEMORY.sub(_initial, text)
    modules = re.split(r"(?<=^endmodule\n)", text, flags=re.MULTILINE)
    return _with_defaults(
        "".join(_without_dead_wires(with_clocked_processes(module)) for module in modules)
    )


def _with_defaults(text: str) -> str:
    lines: list[str] = []
    has_default: list[bool] = []
    for line in text.split("\n"):
        word = line.strip()
        if word.startswith(("case ", "casez ", "casex ")):
            has_default.append(False)
        elif word.startswith("default:") and has_default:
            has_default[-1] = True
        elif word == "endcase" and not has_default.pop():
            indent = line[: len(line) - len(word)]
            lines += [f"{indent}  default:", f"{indent}      /* empty */;"]
        lines.append(line)
    return "\n".join(lines)


def _without_dead_wires(module: str) -> str:
    """Drop wires that nothing reads, with their assignments, until none is left."""
    lines: list[str | None] = list(module.split("\n"))
    uses: Counter[str] = Counter()
    declared: dict[str, int] = {}
    assigned: dict[str, int] = {}
    for number, line in enumerate(lines):
        assert line is not None
        uses.update(_NAME.findall(line))
        if wire := _WIRE.match(line):
            declared[wire[1]] = number
        elif assign := _ASSIGN.match(line):
            assigned[assign[1]] = number
    waiting = list(declared)
    while waiting:
        name = waiting.pop()
        places = [where[name] for where in (declared, assigned) if name in where]
        if uses[name] != len(places):
            continue
        for place in places:
            line, lines[place] = lines[place], None
            if line is None:
                continue
            names = _NAME.findall(line)
            uses.subtract(names)
            waiting += [other for other in names if other in declared and other != name]
        del declared[name]
    return "\n".join(line for line in lines if line is not None)


def _initial(match: re.Match[str]) -> str:
    """A memory's declaration with its words in a loop: zeros, or slices of wide constants."""
    name, width = match["name"], int(match["high"] or 0) + 1
    depth = int(match["top"]) + 1
    found = _WORD.findall(match["words"])
    words = [int(digits, 16 if base == "h" else 10) for _, _, base, digits in found]
    listed = [(word[0], int(word[1])) for word in found]
    if depth <= _LISTED_WORDS or listed != [(name, i) for i in range(depth)]:
        return match[0]
    spaced = f"{name} " if name.startswith("\\") else name
    stem = re.sub(r"\W", "_", name)
    index, bits = f"{stem}_word", max(1, (depth - 1).bit_length())
    declaration = match[0][: match[0].index("\n") + 1]

    def loop(first: int, count: int, value: str) -> str:
        target = f"{spaced}[{index}[{bits - 1}:0]]"
        return (
            f"    for ({index} = {first}; {index} < {first + count}; {index} = {index} + 1)\n"
            f"      {target} = {value};\n"
        )

    if not any(words):
        constants, body = "", loop(0, depth, f"{width}'d0")
    else:
        constants, body = "", ""
        step = max(1, _TABLE_BITS // width)
        for first in range(0, depth, step):
            part = words[first : first + step]
            value = sum(word << (width * i) for i, word in enumerate(part))
            constant = f"{stem}_from_{first}"
            total = width * len(part)
            constants += (
                f"  localparam [{total - 1}:0] {constant} = {total}'h{value:0{-(-total // 4)}x};\n"
            )
            body += loop(first, len(part), f"{constant}[{width} * ({index} - {first}) +: {width}]")
    return f"{declaration}{constants}  integer {index};\n  initial begin\n{body}  end\n"
