"""`tokenloom blocks`: the catalog, as a list or as pages."""

from __future__ import annotations

from pathlib import Path

from tokenloom.host import progress
from tokenloom.host.commands.generate_block import documents
from tokenloom.host.jsonfile import write_text
from tokenloom.hw.catalog.catalog import block_specs

__all__ = ["listing", "write_pages"]

_INDEX = """# Blocks

Each of these can be used alone: `tokenloom generate --block NAME [-P key=value]` (or `make
generate BLOCK=NAME`) writes its Verilog, this page and the wave for the parameters given.
`make blocks` writes these pages, with the defaults.

| block | what it does |
| --- | --- |
"""


def listing() -> list[str]:
    """A line per block."""
    specs = block_specs()
    width = max(map(len, specs), default=0)
    return [f"{name:{width}}  {spec.summary}" for name, spec in specs.items()]


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
            for file, text in documents(name).items():
                if not file.endswith(".json"):
                    write_text(folder / file, text)
    rows = [f"| [{spec.title}]({name}.md) | {spec.summary} |" for name, spec in specs.items()]
    write_text(folder / "README.md", _INDEX + "\n".join(rows) + "\n")
