"""The command `tokenloom generate`."""

from pathlib import Path

import click

from tokenloom.host.cli.options import FOLDER, common_options
from tokenloom.host.jsonfile import write_json

__all__ = ["generate_command"]


@click.command("generate")
@common_options
@click.option(
    "--out",
    required=True,
    type=FOLDER,
    metavar="DIR",
    help="Folder for the Verilog, one file per module.",
)
@click.option(
    "--block",
    metavar="NAME",
    help="One block of the catalog alone (docs/blocks); -P sets its parameters.",
)
@click.option("--preset", metavar="NAME", help="A shape of the block that has a name.")
def generate_command(
    model: str,
    board: str,
    overrides: tuple[str, ...],
    json_file: Path | None,
    out: Path,
    block: str | None,
    preset: str | None,
) -> None:
    """Write the chip's Verilog, or a block's, one file per module."""
    if block is None:
        if preset is not None:
            raise click.UsageError("--preset: only with --block; a chip's preset is --board")
        from tokenloom.host.commands.generate import generate

        result = generate(model=model, board=board, overrides=overrides, out=out)
    else:
        from tokenloom.host.commands.generate_block import generate_block

        result = generate_block(name=block, overrides=overrides, out=out, preset=preset)
    if json_file is not None:
        write_json(json_file, result)
    click.echo(f"{result['files']} files, {result['bytes']:,} bytes in {out}")
