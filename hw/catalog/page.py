"""A block's page: formula, parameters, ports, timing and how it was verified, as Markdown."""

from __future__ import annotations

import re
from typing import Any

from tokenloom.hw.catalog.ports import port_table
from tokenloom.hw.catalog.spec import BlockSpec, Timing
from tokenloom.hw.verilog.block import Block

__all__ = ["page"]

_CALL = re.compile(r"^(\w+)\(")
_DOCS_LINK = re.compile(r"\[[^\]]*\]\(\.\./([^)]*)\)")


def page(
    spec: BlockSpec, arguments: dict[str, Any], resources: str = "", command: str | None = None
) -> str:
    """Markdown of the block with these parameters; the wave is in the file ``NAME.svg`` beside it.

    Parameters
    ----------
    spec : BlockSpec
    arguments : dict
        From `BlockSpec.arguments`.
    resources : str
        Markdown of the section Resources; left out where empty.
    command : str, optional
        What wrote the page into a folder of its own, where links into docs/ lead nowhere; without
        it the page is one of docs/blocks.
    """
    block = spec.made(arguments)
    writer = "make blocks" if command is None else command
    parameters = _table(
        ("parameter", "value", "default", "allowed", "what"),
        [
            (f"`{one.name}`", arguments[one.name], one.default, one.allowed, one.doc)
            for one in spec.parameters
        ],
    )
    ports = _table(
        ("port", "direction", "bits", "what"),
        [(f"`{one.name}`", one.direction, one.bits, one.text) for one in port_table(block)],
    )
    timing = spec.timing(**arguments)
    times = _table(
        ("what", "formula", "cycles here", "the field quotes"),
        [
            (one.what, one.formula, "" if one.cycles is None else f"{one.cycles:,}", one.quoted)
            for one in timing
        ],
    )
    kind = (
        "A belt block: nothing waits; with `en` low nothing changes."
        if block.belt
        else "An elastic block: streams with valid and ready, no common enable."
    )
    parts = [
        f"# {spec.title}",
        f"Written by `{writer}` from `hw/catalog/{spec.name}.py`; do not edit it.",
        spec.summary,
        f"The module is `{block.module_name}`. {kind}",
        "## What it computes",
        spec.formula_of(arguments),
        "## Parameters",
        parameters if spec.parameters else "None.",
        *(("## Presets", _presets(spec)) if spec.presets else ()),
        "## Timing",
        "In cycles of `clk`, *derived* from the block's own constants; the tests count the same. "
        "In a formula `true` counts as 1.",
        times,
        *_calls(block, timing),
        "## Wave",
        "*Simulated*: values before each rising edge; wide values show their last digits.",
        f"![wave]({spec.name}.svg)",
        "## Ports",
        ports,
        *(("## Resources", resources) if resources else ()),
        "## Verified",
        spec.verified,
    ]
    text = "\n\n".join(parts) + "\n"
    return text if command is None else _DOCS_LINK.sub(r"docs/\1", text)


def _calls(block: Block, timing: list[Timing]) -> list[str]:
    """What the formulas that are calls belong to."""
    calls = dict.fromkeys(call[1] for one in timing if (call := _CALL.match(one.formula)))
    kind = type(block)
    return [
        f"`{name}(...)` is a method of `{kind.__name__}`, made with the block's parameters "
        f"(`from {kind.__module__} import {kind.__name__}`)."
        for name in calls
        if hasattr(kind, name)
    ]


def _presets(spec: BlockSpec) -> str:
    """What each preset sets, and its cycles where the field quotes a figure."""
    rows: list[tuple[object, ...]] = []
    for name, values in spec.presets.items():
        times = [
            f"{one.what}: {one.cycles:,} ({one.quoted})"
            for one in spec.timing(**spec.arguments(preset=name))
            if one.quoted and one.cycles is not None
        ]
        rows.append((f"`--preset {name}`", ", ".join(f"`{v}`" for v in values), "; ".join(times)))
    return _table(("preset", "sets", "the field quotes"), rows)


def _table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )
