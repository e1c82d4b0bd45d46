"""The command `tokenloom bench`."""

import sys
from pathlib import Path

import click

from tokenloom.host.cli.options import file_option
from tokenloom.host.jsonfile import write_json

__all__ = ["bench_command"]


@click.command("bench")
@click.option("--only", multiple=True, metavar="NAME", help="Only this row; may be repeated.")
@click.option("--list", "listed", is_flag=True, help="Print the rows instead.")
@click.option("--again", is_flag=True, help="Measure also what was measured with the same sources.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Parts measured at a time; wall times always have the machine for themselves.",
)
@file_option("json", "Write the rows to FILE.")
@file_option("markdown", "Write the whole table to FILE; rows without a value never replace one.")
def bench_command(
    only: tuple[str, ...],
    listed: bool,
    again: bool,
    jobs: int,
    json_file: Path | None,
    markdown_file: Path | None,
) -> None:
    """Measure every figure of docs/benchmarks.md; models and boards are part of the figures."""
    from tokenloom.host.bench.saved import Saved
    from tokenloom.host.bench.table import write_table
    from tokenloom.host.commands.bench import bench, listing

    if listed:
        click.echo("\n".join(listing()))
        return
    if only and markdown_file is not None:
        raise click.UsageError("--markdown writes the whole table; leave out --only")

    def told(rows: list[Saved]) -> None:
        if json_file is not None:
            write_json(json_file, [row.entry() for row in rows])
        last = rows[-1]
        ok = {True: "ok", False: "NOT OK", None: "-"}[last.ok]
        value = "-" if last.value is None else f"{last.value:,} {last.unit}"
        click.echo(f"{last.name}: {value} (target {last.target or 'none'}): {ok}")
        click.echo(f"    {last.how}")

    rows = bench(only, told, again=again, jobs=jobs)
    if markdown_file is not None:
        write_table(markdown_file, rows)
    if any(row.ok is False for row in rows):
        sys.exit(1)
