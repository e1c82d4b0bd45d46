"""`tokenloom blocks`: the catalog, as a list or as pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokenloom.host import progress
from tokenloom.host.commands.generate_block import documents
from tokenloom.host.jsonfile import write_text
from tokenloom.host.synth.block_figures import saved_figures, section
from tokenloom.hw.catalog.catalog import block_specs
from tokenloom.hw.catalog.spec import BlockSpec

__all__ = ["entries", "listing", "summary", "write_pages"]

_INDEX = """# Blocks

Each of these can be used alone: `tokenloom generate --block NAME [-P key=value]` (or `make
generate BLOCK=NAME`) writes its Verilog, its page (all but the section Resources) and its wave
for the parameters given. `make blocks` writes these pages, with the defaults.

| block | what it does |
| --- | --- |
"""


def listing() -> list[str]:
    """A line per block."""
    specs = block_specs()
    width = max(map(len, specs), default=0)
    return [f"{name:{width}}  {spec.summary}" for name, spec in specs.items()]


def entries() -> list[dict[str, Any]]:
    """What `listing` says and each block's parameters and presets, for other programs."""
    return [
        {
            "name": name,
            "title": spec.title,
            "summary": spec.summary,
            "parameters": [asdict(one) for one in spec.parameters],
            "presets": {preset: spec.arguments(preset=preset) for preset in spec.presets},
        }
        for name, spec in block_specs().items()
    ]


def write_pages(folder: Path) -> None:
    """Write every block's page and wave, and the index, to a folder.

    Raises
    ------
    TokenloomError
        If the folder cannot be written.
    """
    specs = block_specs()
    folder.mkdir(parents=True, exist_ok=True)
    for name in specs:
        with progress.step(name):
            for file, text in documents(name, resources=section(specs[name])).items():
                if not file.endswith(".json"):
                    write_text(folder / file, text)
    rows = [f"| [{spec.title}]({name}.md) | {spec.summary} |" for name, spec in specs.items()]
    text = _INDEX + "\n".join(rows) + "\n\n" + "\n".join(summary(specs)) + "\n"
    write_text(folder / "README.md", text)


def summary(specs: Mapping[str, BlockSpec]) -> list[str]:
    """Markdown: what the small instances take, and the cycles for which the field has a figure."""
    lines = [
        "## Resources",
        "",
        "Of the small instances that each page names. LUT to depth: *Yosys estimate* for "
        "UltraScale+; MHz: *place and route* on an ECP5-85K.",
        "",
        "| block | LUT | FF | DSP48E2 | RAMB36 | URAM288 | depth | MHz |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, spec in specs.items():
        found = saved_figures(name)
        cells = ["-"] * 7
        if found is not None and found.estimate is not None:
            has = found.estimate.resources
            figures = (has.luts, has.flip_flops, has.dsps, has.block_rams, has.ultra_rams)
            cells[:6] = [f"{value:,.10g}" for value in (*figures, found.estimate.depth)]
        if found is not None and found.placed is not None:
            cells[6] = f"{found.placed.mhz:.10g}"
        lines.append(f"| [{spec.title}]({name}.md) | {' | '.join(cells)} |")
    lines += [
        "",
        "## Cycles that the field quotes",
        "",
        "*Derived* from the blocks' own constants with the default parameters or a preset's, as on "
        "the pages.",
        "",
        "| block | what | cycles | the field quotes |",
        "|---|---|---|---|",
    ]
    for name, spec in specs.items():
        for preset in (None, *spec.presets):
            title = f"[{spec.title}]({name}.md)" + (f" `{preset}`" if preset else "")
            for one in spec.timing(**spec.arguments(preset=preset)):
                if one.quoted and one.cycles is not None:
                    lines.append(f"| {title} | {one.what} | {one.cycles:,} | {one.quoted} |")
    return lines
