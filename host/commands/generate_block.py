"""`tokenloom generate --block`: writes one block of the catalog, to be used alone."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenloom.host import progress

__all__ = ["generate_block"]


def generate_block(
    *, name: str, overrides: Sequence[str], out: Path, preset: str | None = None
) -> dict[str, Any]:
    """Write a block's Verilog, and its page with port table, timing and a simulated wave.

    Parameters
    ----------
    name : str
        Of the catalog.
    overrides : sequence of str
        The block's parameters, as ``key=value``.
    preset : str, optional
        One of the block's presets, to which the overrides are added.
    out : Path
        The folder: ``*.v`` (the top is the block's module), ``NAME.md``, ``NAME.svg`` and
        ``NAME.json``, the wave for other tools.

    Returns
    -------
    dict
        Block, parameters, module, and each module's size in bytes.

    Raises
    ------
    TokenloomError
        If there is no such block or preset, a parameter is wrong, or the folder is another
        generator's.
    """
    from tokenloom.host.verilog_folder import refuse_strangers, write_folder
    from tokenloom.hw.catalog.catalog import block_spec

    refuse_strangers(out)
    spec = block_spec(name)
    arguments = spec.arguments(overrides, preset)
    block = spec.made(arguments)
    with progress.step("generate Verilog"):
        texts = spec.verilog(arguments)
    command = _command(name, overrides, out, preset)

    def extra() -> dict[str, str]:
        with progress.step("simulate a wave"):
            return documents(name, arguments, command=command)

    result = {"block": name, "parameters": arguments, "module": block.module_name}
    return write_folder(out, texts, result, extra)


def _command(name: str, overrides: Sequence[str], out: Path, preset: str | None) -> str:
    """What has to be typed to write the same once more."""
    words = ["tokenloom", "generate", "--block", name]
    words += ["--preset", preset] if preset is not None else []
    for override in overrides:
        words += ["-P", override]
    return shlex.join([*words, "--out", str(out)])


def documents(
    name: str,
    arguments: dict[str, Any] | None = None,
    resources: str = "",
    command: str | None = None,
) -> dict[str, str]:
    """A block's page and wave, with its defaults or other parameters: file name -> text."""
    from tokenloom.hw.catalog.catalog import block_spec
    from tokenloom.hw.catalog.page import page
    from tokenloom.hw.catalog.wave import draw, wavedrom_source

    spec = block_spec(name)
    if arguments is None:
        arguments = spec.arguments()
    source = wavedrom_source(spec, arguments)
    return {
        f"{name}.md": page(spec, arguments, resources, command),
        f"{name}.json": source + "\n",
        f"{name}.svg": draw(source),
    }
