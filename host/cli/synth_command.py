"""The command `tokenloom synth`."""

from pathlib import Path

import click

from tokenloom.host.cli.options import FOLDER, OVERRIDES, file_option
from tokenloom.host.jsonfile import write_json

__all__ = ["synth_command"]


@click.command("synth")
@click.option(
    "--board",
    required=True,
    metavar="NAME|FILE",
    help="Hardware preset of a card with a vendor platform (u280, u55c, vck5000), or a TOML file.",
)
@OVERRIDES
@click.option(
    "--out",
    required=True,
    type=FOLDER,
    metavar="DIR",
    help="Folder for the project.",
)
@click.option("--measure", is_flag=True, help="Estimate blocks that are not known yet with Yosys.")
@click.option("--run/--no-run", default=True, show_default=True,
              help="Run the vendor's tools when they are on PATH.")  # fmt: skip
@file_option("json", "Write the result to FILE.")
def synth_command(
    board: str,
    overrides: tuple[str, ...],
    out: Path,
    measure: bool,
    run: bool,
    json_file: Path | None,
) -> None:
    """Write a card's project for Vivado and Vitis, and run them when they are there.

    A chip that is larger than what the card's shell leaves is refused.
    """
    from tokenloom.host.commands.synth import synth, told

    result = synth(board=board, overrides=overrides, out=out, measure=measure, run=run)
    if json_file is not None:
        write_json(json_file, result)
    for text in told(result):
        click.echo(text)
