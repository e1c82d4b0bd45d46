"""The command `tokenloom blocks`."""

from pathlib import Path

import click

from tokenloom.host.cli.options import FOLDER, file_option
from tokenloom.host.jsonfile import write_json

__all__ = ["blocks_command"]


@click.command("blocks")
@click.option(
    "--markdown",
    type=FOLDER,
    metavar="DIR",
    help="Write every block's page and wave, and an index.",
)
@file_option("json", "Write the blocks, their parameters and their presets to FILE.")
def blocks_command(markdown: Path | None, json_file: Path | None) -> None:
    """List the blocks that can be used alone."""
    from tokenloom.host.commands.blocks import entries, listing, write_pages

    if json_file is not None:
        write_json(json_file, entries())
    if markdown is not None:
        write_pages(markdown)
    for line in listing():
        click.echo(line)
