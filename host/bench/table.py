"""docs/benchmarks.md: the rows as a table per group."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

from tokenloom.compiler.errors import TokenloomError
from tokenloom.host.bench.registry import ROWS
from tokenloom.host.bench.saved import Saved
from tokenloom.host.jsonfile import write_text

__all__ = ["command", "markdown", "write_table"]


def command(name: str) -> str:
    """The command that measures a row."""
    return f"tokenloom bench --only {name} --again"


def write_table(path: Path, rows: Sequence[Saved]) -> None:
    """Write the table; one with gaps only where there is no file yet.

    Raises
    ------
    TokenloomError
        If rows without a value would replace a file, or it cannot be written.
    """
    valued = {row.name for row in rows if row.value is not None}
    missing = [name for name in ROWS if name not in valued]
    if missing and path.exists():
        raise TokenloomError(
            f"{path}: left as it is, since the new table lacks {', '.join(missing)}; "
            "see each row's reason above, or delete the file to get a table with gaps"
        )
    write_text(path, markdown(rows))


def markdown(rows: Sequence[Saved]) -> str:
    """The table as docs/benchmarks.md holds it."""
    found = {row.name: row for row in rows}
    dates = sorted({row.date for row in rows})
    when = "" if not dates else dates[0] + (f" to {dates[-1]}" if len(dates) > 1 else "")
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; each row names the command that measures it alone. *how* begins",
        "with the kind of figure: *simulated* is counted in the Verilated chip behind an ideal",
        "memory, *derived* is computed from other figures, *wall time* is that of this machine. No",
        "figure comes from an FPGA.",
        "",
        f"Measured on {when or '-'} with {os.cpu_count()} cores ({_processor()}), Python "
        f"{platform.python_version()}.",
    ]
    group = None
    for name, entry in ROWS.items():
        if entry.group != group:
            group = entry.group
            lines += [
                "",
                f"## {group}",
                "",
                "| what | value | target | ok | how | command |",
                "|---|---|---|---|---|---|",
            ]
        row = found.get(name)
        value = "-" if row is None or row.value is None else f"{row.value:,} {entry.unit}"
        ok = {True: "yes", False: "**no**", None: "-"}[None if row is None else row.ok]
        how = "not measured" if row is None else row.how.replace("|", "\\|")
        lines.append(
            f"| {name} | {value} | {entry.target or '-'} | {ok} | {how} | `{command(name)}` |"
        )
    return "\n".join(lines) + "\n"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()
