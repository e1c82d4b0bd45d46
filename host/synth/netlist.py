"""Reads the hierarchy out of the Verilog that `hw.verilog.block.emit` writes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

__all__ = [
    "all_children",
    "blackbox",
    "children",
    "instance_paths",
    "instances",
    "memories",
    "ports",
]

_HEAD = re.compile(r"^module (\S+?) ?\((.*?)\);", re.MULTILINE | re.DOTALL)
# An instance begins at two blanks: the module's name, the instance's name, the ports.
_PLACE = re.compile(r"^  (\\?[A-Za-z_][\w.$]*) +(\\\S+|[A-Za-z_][\w$]*) *\($", re.MULTILINE)
_PORT = re.compile(
    r"^  (input|output|inout) (?:\[(\d+):0\] )?(\\\S+|\w+) ?;$", re.MULTILINE
)  # fmt: skip
_MEMORY = re.compile(r"^  reg (?:\[(\d+):0\] )?(\\\S+|\w+) +\[(\d+):0\];$", re.MULTILINE)


def _first(text: str) -> str:
    """The first module of a file: the file's own; those behind it are parts of it."""
    start = text.find("\nmodule ") + 1
    end = text.find("\nendmodule", start)
    return text[start : end + len("\nendmodule\n")]


def ports(text: str) -> dict[str, tuple[str, int]]:
    """Port -> ("input" or "output", bits) of a file's module, in the order of the declarations."""
    return {
        name.removeprefix("\\"): (direction, int(high or 0) + 1)
        for direction, high, name in _PORT.findall(_first(text))
    }


def blackbox(text: str) -> str:
    """The file's module without its contents."""
    module = _first(text)
    head = _HEAD.search(module)
    if head is None:
        raise ValueError(f"no module in {text[:80]!r}")
    declared = "\n".join(match[0] for match in _PORT.finditer(module))
    return f"(* blackbox *)\n{head[0]}\n{declared}\nendmodule\n"


def _places(texts: Mapping[str, str], name: str) -> Iterator[tuple[str, str]]:
    """(path below the module, child) of every child of a file, also through the file's own parts.

    A file may hold modules that are no blocks: parts of a block, and theirs.
    """
    text = texts[name]
    modules = {
        match[1].removeprefix("\\"): module
        for module in re.split(r"(?<=^endmodule\n)", text, flags=re.MULTILINE)
        if (match := _HEAD.search(module))
    }

    def below(module: str, path: str) -> Iterator[tuple[str, str]]:
        for kind, place in _PLACE.findall(modules[module]):
            kind, place = kind.removeprefix("\\"), place.removeprefix("\\")
            if kind in texts and kind not in modules:
                yield f"{path}{place}", kind
            elif kind in modules:
                yield from below(kind, f"{path}{place}/")

    yield from below(name, "")


def children(texts: Mapping[str, str], name: str) -> Counter[str]:
    """Blocks directly below a block -> how many instances of them."""
    return Counter(kind for _, kind in _places(texts, name))


def all_children(texts: Mapping[str, str]) -> dict[str, Counter[str]]:
    """Block -> `children`, of all blocks."""
    return {name: children(texts, name) for name in texts}


def instances(
    texts: Mapping[str, str], top: str, below: Mapping[str, Counter[str]] | None = None
) -> Counter[str]:
    """Block -> its instances in the whole hierarchy below `top`, which is there once.

    `below` is `all_children`, for those who ask more than once.
    """
    below = all_children(texts) if below is None else below
    total: Counter[str] = Counter()

    def walk(name: str, times: int) -> None:
        total[name] += times
        for child, count in below[name].items():
            walk(child, times * count)

    walk(top, 1)
    return total


def instance_paths(texts: Mapping[str, str], top: str) -> dict[str, str]:
    """Path of every block's instance below `top`, as `card/chip/channel3` -> the block."""
    found: dict[str, str] = {}
    below = {name: list(_places(texts, name)) for name in texts}

    def walk(name: str, path: str) -> None:
        for place, kind in below[name]:
            found[path + place] = kind
            walk(kind, f"{path}{place}/")

    walk(top, "")
    return found


def memories(text: str) -> list[tuple[int, int]]:
    """(words, bits) of every memory declared in a file."""
    return [(int(top) + 1, int(high or 0) + 1) for high, _, top in _MEMORY.findall(text)]
