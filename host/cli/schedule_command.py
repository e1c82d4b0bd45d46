"""The command `tokenloom schedule`."""

import sys
from pathlib import Path

import click

from tokenloom.host.cli.options import FILE, common_options, writable
from tokenloom.host.jsonfile import write_json

__all__ = ["schedule_command"]


@click.command("schedule")
@common_options
@click.option(
    "--rows", type=click.IntRange(min=1), default=1, show_default=True, help="Rows of the pass."
)
@click.option(
    "--pos",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Position of its first row.",
)
@click.option(
    "--sample/--no-sample",
    default=True,
    show_default=True,
    help="Whether the pass computes logits, as all but the first ones of a prompt do.",
)
@click.option("--measure", is_flag=True, help="Measure the same pass in the simulated chip.")
@click.option(
    "--checksums",
    is_flag=True,
    help="With --measure: a CRC-32 of every operation's output, the chip's and the golden model's.",
)
@click.option(
    "--out",
    required=True,
    type=FILE,
    callback=writable,
    metavar="FILE",
    help="The trace, for ui.perfetto.dev; a microsecond is a belt cycle.",
)
def schedule_command(
    model: str,
    board: str,
    overrides: tuple[str, ...],
    json_file: Path | None,
    rows: int,
    pos: int,
    sample: bool,
    measure: bool,
    checksums: bool,
    out: Path,
) -> None:
    """Predict when each operation of a pass starts and ends."""
    from tokenloom.host.commands.schedule import schedule

    result, trace = schedule(
        model=model,
        board=board,
        overrides=overrides,
        rows=rows,
        pos=pos,
        sample=sample,
        measure=measure,
        checksums=checksums,
    )
    write_json(out, trace)
    if json_file is not None:
        write_json(json_file, result)
    click.echo(
        f"{result['operations']} operations in {result['cycles']:,} belt cycles, array busy "
        f"{result['array_busy']:.1%} (predicted); trace in {out}"
    )
    if result["equal"]:
        click.echo(
            "measured: the first and last cycle of every operation are as predicted"
            + (", its output is the golden model's" if checksums else "")
        )
    elif result["equal"] is False:
        first = result["differences"][0]
        click.echo(
            f"error: {len(result['differences'])} operations are not as predicted, the first "
            f"being {first['unit']} {first['name']!r}: predicted {first['predicted']}, measured "
            f"{first['measured']}",
            err=True,
        )
        sys.exit(1)
