"""Progress on stderr: bars on a terminal, one line per step elsewhere."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["console", "counter", "step", "steps", "track"]

Item = TypeVar("Item")

_PATIENCE = 10.0  # seconds after which a step off a terminal says that it is under way


def console() -> Console:
    """The console for everything that is not a result; it follows ``sys.stderr``."""
    return Console(stderr=True, highlight=False)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Show a spinner while a step of unknown length runs, then a line with the time it took.

    A step that raises leaves no "done" line. Off a terminal a long one has a line before, too.
    """
    out = console()
    start = time.monotonic()
    if out.is_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=out, transient=True) as progress:
            progress.add_task(title, total=None)
            yield
    else:
        words = f"{title} ..."
        said = threading.Timer(_PATIENCE, out.print, (words,), {"markup": False, "soft_wrap": True})
        said.daemon = True
        said.start()
        try:
            yield
        finally:
            said.cancel()
    out.print(f"{title}: {time.monotonic() - start:.1f} s", markup=False, soft_wrap=True)


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Show steps one after the other: call what it gives with the title of the next one."""
    with ExitStack() as current:

        def begin(title: str) -> None:
            current.close()
            current.enter_context(step(title))

        yield begin


@contextmanager
def counter(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar for a step of ``total`` items; call what it gives with the count now done."""
    out = console()
    start = time.monotonic()
    if out.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=out, transient=True) as progress:
            task = progress.add_task(title, total=total)
            yield lambda done: progress.update(task, completed=done)
    else:
        yield lambda done: None
    out.print(f"{title}: {time.monotonic() - start:.1f} s", markup=False, soft_wrap=True)


def track(items: Iterable[Item], title: str, total: int) -> Iterator[Item]:
    """Iterate over items behind a bar."""
    with counter(title, total) as update:
        for done, item in enumerate(items, 1):
            yield item
            update(done)
