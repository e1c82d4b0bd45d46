"""What the simulated chip did in every belt cycle, against what `predict` says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenloom.compiler.schedule import Schedule
    from tokenloom.sim.chip_device import Event, PassRecord

__all__ = ["Measured", "measured_operations", "measured_passes", "schedule_differences"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One pass as it was measured.

    Attributes
    ----------
    cycles : int
        Belt cycles of the pass.
    beats : int
        Beats that each channel delivered.
    operations : dict
        Unit -> its operations' first and last belt cycles, in queue order.
    """

    cycles: int
    beats: int
    operations: dict[int, list[tuple[int, int]]]


def measured_operations(events: Sequence[Event]) -> dict[int, dict[int, list[tuple[int, int]]]]:
    """First and last cycle of every operation: pass -> unit -> operations in queue order.

    A unit's operations end in the order in which they start.
    """
    starts: dict[tuple[int, int], list[int]] = {}
    ends: dict[tuple[int, int], list[int]] = {}
    for event in events:
        table = ends if event.finished else starts
        table.setdefault((event.number, int(event.unit)), []).append(event.cycle)
    result: dict[int, dict[int, list[tuple[int, int]]]] = {}
    for number, unit in sorted(starts.keys() | ends.keys()):
        first, last = starts.get((number, unit), []), ends.get((number, unit), [])
        # A start or end that never came shows as -1, so that it equals no prediction.
        count = max(len(first), len(last))
        first, last = first + [-1] * (count - len(first)), last + [-1] * (count - len(last))
        result.setdefault(number, {})[unit] = list(zip(first, last, strict=True))
    return result


def measured_passes(
    events: Sequence[Event], records: Sequence[PassRecord], before: int = 0
) -> list[Measured]:
    """Each record's pass.

    Parameters
    ----------
    events : sequence of Event
        All that the chip has recorded.
    records : sequence of PassRecord
        Consecutive passes.
    before : int
        Passes of the chip before the first record.
    """
    operations = measured_operations(events)
    return [
        Measured(
            cycles=record.scheduled,
            beats=record.beats,
            operations=operations.get(before + number, {}),
        )
        for number, record in enumerate(records)
    ]


def schedule_differences(schedule: Schedule, measured: Measured) -> list[dict[str, Any]]:
    """Whatever of a pass is not as predicted.

    Returns
    -------
    list of dict
        ``unit``, ``name``, ``predicted`` and ``measured``: of operations their first and last
        cycle, None for one that exists on one side only; of the whole pass (unit ``PASS``) its
        ``cycles`` and ``beats``.
    """
    wrong: list[dict[str, Any]] = []

    def compare(unit: str, name: str, predicted: object, found: object) -> None:
        if predicted != found:
            wrong.append({"unit": unit, "name": name, "predicted": predicted, "measured": found})

    position: dict[int, int] = {}
    for operation in schedule.operations:
        unit = int(operation.unit)
        index = position.setdefault(unit, 0)
        position[unit] += 1
        found = measured.operations.get(unit, [])
        have = list(found[index]) if index < len(found) else None
        compare(operation.unit.name, operation.name, [operation.first, operation.last], have)
    for unit, found in measured.operations.items():
        for extra in found[position.get(unit, 0) :]:
            compare(str(unit), "?", None, list(extra))
    compare("PASS", "cycles", schedule.cycles, measured.cycles)
    compare("PASS", "beats", schedule.beats, measured.beats)
    return wrong
