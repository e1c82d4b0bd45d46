"""What a row of the benchmark is, and the list of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

__all__ = ["ROWS", "Figure", "Row", "Skip", "group", "needs"]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What a row measured.

    Attributes
    ----------
    value : number
    detail : str
        With what it was measured, in a line.
    ok : bool or None
        Whether it meets the target; None if the row has none.
    """

    value: float | int
    detail: str
    ok: bool | None = None


class Skip(Exception):
    """The row cannot be measured here; the message says what is missing and where it is."""


def needs(module: str) -> None:
    """Skip the row where a tool from PyPI is not installed."""
    if find_spec(module) is None:
        name = module.replace("_", "-")
        raise Skip(f"{name} is not installed; it comes with `pip install '.[dev]'`")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table.

    Attributes
    ----------
    name, unit : str
    group : str
        Title of its part of the table.
    how : str
        Kind of measurement: simulated, derived, wall time, ...
    target : str or None
    measure : callable
        Gives the `Figure`.
    """

    name: str
    group: str
    unit: str
    how: str
    target: str | None
    measure: Callable[[], Figure]

    @property
    def file(self) -> str:
        """The module that has the row."""
        return self.measure.__module__.rpartition(".")[2]


ROWS: dict[str, Row] = {}
"""Rows by name, in the table's order."""

Measure = Callable[[], Figure]


def group(title: str) -> Callable[..., Callable[[Measure], Measure]]:
    """A decorator that registers functions without parameters as rows of a group."""

    def row(
        name: str, unit: str, target: str | None = None, *, how: str
    ) -> Callable[[Measure], Measure]:
        def register(measure: Measure) -> Measure:
            if name in ROWS:
                raise ValueError(f"there are two rows {name}")
            ROWS[name] = Row(
                name=name, group=title, unit=unit, how=how, target=target, measure=measure
            )
            return measure

        return register

    return row
