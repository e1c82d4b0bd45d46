"""`tokenloom bench`: measures every figure of docs/benchmarks.md, one row each.

Each row that has been measured is saved, so that an interrupted run can be taken up.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import import_module

from tokenloom.compiler.errors import TokenloomError
from tokenloom.host import progress
from tokenloom.host.bench import saved
from tokenloom.host.bench.ahead import measure_ahead, parts
from tokenloom.host.bench.registry import ROWS, Row, Skip
from tokenloom.host.bench.saved import Saved

__all__ = ["bench", "listing"]

# Importing a group registers its rows, so this is the table's order.
for _group in (
    "correctness",
    "generality",
    "numbers",
    "speed",
    "hostile",
    "faults",
    "sampler",
    "array",
    "ring",
    "blocks_norm_ffn",
    "blocks_stream",
    "resources",
    "generate",
):
    import_module(f"tokenloom.host.bench.{_group}")


def bench(
    only: Sequence[str] = (),
    told: Callable[[list[Saved]], None] = lambda rows: None,
    *,
    again: bool = False,
    jobs: int = 1,
) -> list[Saved]:
    """Measure rows, except those that were measured with the same sources.

    Parameters
    ----------
    only : sequence of str
        Their names; all if empty.
    told : callable
        Gets the rows so far after each one.
    again : bool
        Measure all of them.
    jobs : int
        With 2 and more, so many parts of the table are measured at a time first; wall times, and
        what is measured with them, come after that, with nothing beside them.

    Returns
    -------
    list of Saved
        A row that was skipped has neither value nor ok, one that raised no value and ok false.

    Raises
    ------
    TokenloomError
        If there is no such row.
    """
    for name in only:
        if name not in ROWS:
            raise TokenloomError(f"--only {name}: no such row; allowed are {', '.join(ROWS)}")
    chosen = [row for name, row in ROWS.items() if not only or name in only]
    result: list[Saved] = []
    out = progress.console()
    start = time.monotonic()
    for row in chosen:  # of the sources as they are now, whatever is edited meanwhile
        saved.source_digest(row.file)
    ahead: set[str] = set()
    if jobs > 1:
        measure_ahead(chosen, jobs, again=again)
        ahead = {row.name for rows in parts(chosen).values() for row in rows}
    for number, row in enumerate(chosen, 1):
        out.rule(f"{number} of {len(chosen)}: {row.name}")
        found = saved.load(row.name, row.file) if not again or row.name in ahead else None
        if found is None:
            found = _measure(row)
            if found.value is not None:
                saved.save(found, row.file)
            total = time.monotonic() - start
            out.print(f"{row.name}: {found.seconds:.1f} s, {total:.1f} s in all", markup=False)
        else:
            out.print(f"measured on {found.date} with the same sources; --again measures it again")
        result.append(found)
        told(result)
    return result


def _measure(row: Row) -> Saved:
    start = time.monotonic()
    value: float | int | None = None
    ok = None
    try:
        figure = row.measure()
        value, ok = figure.value, figure.ok
        how = f"{row.how}: {figure.detail}"
    except Skip as skip:
        how = f"skipped: {skip}"
    except Exception as error:  # whatever it is, the other rows go on
        reason = str(error)
        if not isinstance(error, TokenloomError):
            traceback.print_exc()
            reason = f"{type(error).__name__}: {reason}"
        how, ok = f"failed: {' '.join(reason.split())}", False
    return Saved(
        name=row.name,
        value=round(value, 4) if isinstance(value, float) else value,
        unit=row.unit,
        target=row.target,
        how=how,
        ok=ok,
        date=datetime.now(UTC).date().isoformat(),
        seconds=round(time.monotonic() - start, 1),
    )


def listing() -> list[str]:
    """A line per row, a title per group; rows that need no new measurement have their date."""
    lines: list[str] = []
    group = None
    width = max(map(len, ROWS), default=0)
    for name, row in ROWS.items():
        if row.group != group:
            group = row.group
            lines.append(f"{group}:")
        found = saved.load(name, row.file)
        state = f"; measured on {found.date}" if found is not None else ""
        target = f", target {row.target}" if row.target else ""
        lines.append(f"  {name:{width}}  {row.unit}{target} ({row.how}){state}")
    return lines
