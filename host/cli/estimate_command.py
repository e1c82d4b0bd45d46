"""The command `tokenloom estimate`."""

from pathlib import Path

import click

from tokenloom.host.cli.options import OVERRIDES, file_option
from tokenloom.host.jsonfile import write_json, write_text

__all__ = ["estimate_command"]


@click.command("estimate")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="Model whose shape is known; may be repeated. Default: all of them.",
)
@click.option(
    "--board",
    "boards",
    multiple=True,
    metavar="NAME|FILE",
    help="Hardware preset, or a TOML file; may be repeated. Default: every preset of a real board.",
)
@OVERRIDES
@click.option(
    "--context",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="Tokens of context for the rates; less where less fits.",
)
@file_option("json", "Write the estimates to FILE.")
@file_option("markdown", "Write the table to FILE.")
def estimate_command(
    models: tuple[str, ...],
    boards: tuple[str, ...],
    overrides: tuple[str, ...],
    context: int,
    json_file: Path | None,
    markdown_file: Path | None,
) -> None:
    """Estimate what boards do with models: fit, tokens per second, longest context. All derived."""
    from tokenloom.host.commands.estimate import estimates, line, markdown

    found = []
    for entry in estimates(models=models, boards=boards, overrides=overrides, context=context):
        found.append(entry)
        click.echo(line(entry))
    if json_file is not None:
        write_json(json_file, [entry.to_dict() for entry in found])
    if markdown_file is not None:
        write_text(markdown_file, markdown(found, context))
