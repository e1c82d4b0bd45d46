"""`tokenloom schedule`: a pass's operations as a Chrome/Perfetto trace."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tokenloom.compiler.errors import TokenloomError
from tokenloom.host import progress

if TYPE_CHECKING:
    from tokenloom.sim.measured import Measured

__all__ = ["schedule", "trace_events"]

# (unit's number, unit's name, operation's name, first cycle, last cycle, checksum)
Span = tuple[int, str, str, int, int, int | None]
# Room in the numbers for a process's tracks.
_TRACKS = 1000


def trace_events(process: int, title: str, spans: Iterable[Span]) -> list[dict[str, Any]]:
    """Events of one process of the trace; a belt cycle is a microsecond.

    A unit's operations may overlap (one drains while the next begins) and a track's may not, so
    a unit has further tracks where it needs them. A track's number is the trace's alone: viewers
    take 0 for the idle process, and equal ones in two processes for the same thread.
    """
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": process, "name": "process_name", "args": {"name": title}},
        {"ph": "M", "pid": process, "name": "process_sort_index", "args": {"sort_index": process}},
    ]
    tracks: dict[tuple[int, int], int] = {}  # (unit, track) -> its last cycle
    ids: dict[tuple[int, int], int] = {}
    for unit, unit_name, name, first, last, crc in spans:
        track = 0
        while tracks.get((unit, track), -1) >= first:
            track += 1
        if (unit, track) not in tracks:
            ids[unit, track] = _TRACKS * process + len(tracks)
            suffix = f" ({track + 1})" if track else ""
            label = {"name": unit_name + suffix}
            sort = {"sort_index": _TRACKS * unit + track}
            where = {"ph": "M", "pid": process, "tid": ids[unit, track]}
            events.append({**where, "name": "thread_name", "args": label})
            events.append({**where, "name": "thread_sort_index", "args": sort})
        tracks[unit, track] = last
        events.append(
            {
                "ph": "X",
                "pid": process,
                "tid": ids[unit, track],
                "ts": first,
                "dur": last - first + 1,
                "name": name,
                "cat": unit_name,
                "args": {
                    "first": first,
                    "last": last,
                    **({} if crc is None else {"crc": f"{crc:08x}"}),
                },
            }
        )
    return events


def schedule(
    *,
    model: str,
    board: str,
    overrides: Sequence[str],
    rows: int,
    pos: int,
    sample: bool = True,
    measure: bool = False,
    checksums: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Predict a pass, and measure it in the verilated chip if asked to.

    Parameters
    ----------
    rows, pos : int
        Rows of the pass and the position of the first.
    sample : bool
        Whether the pass computes logits.
    measure : bool
    checksums : bool
        Put the CRC-32 of every operation's output into the trace: the golden model's beside the
        prediction, that of a chip with taps beside what is measured.

    Returns
    -------
    result : dict
        ``model``, ``board``, ``rows``, ``pos``, ``sample``, ``cycles``, ``array_busy``,
        ``operations`` (their number), ``equal`` (None if nothing was measured), ``differences``.
    trace : dict
        The trace file's content.

    Raises
    ------
    TokenloomError
        If there is no such pass.
    """
    from tokenloom.compiler.schedule import predict
    from tokenloom.host.prepare import prepare
    from tokenloom.hw.sequencer.isa import Unit

    ready = prepare(model, board, overrides)
    hardware = ready.hardware
    room = min(hardware.maxima.positions, ready.checkpoint.shape.positions)
    if rows > hardware.array.rows:
        raise TokenloomError(
            f"--rows {rows}: hardware '{hardware.name}' has array.rows = {hardware.array.rows}"
        )
    if pos + rows > room:
        raise TokenloomError(
            f"--pos {pos}: with {rows} rows that is beyond the context of {room} tokens that "
            f"{ready.name} has on hardware '{hardware.name}'"
        )
    if checksums and not measure:
        raise TokenloomError("--checksums needs --measure: a prediction has no values")
    if measure:
        prompt_length(rows, pos, sample, hardware.array.rows)  # before the long steps
    quantised = ready.quantise()
    program = ready.program(quantised)
    predicted = predict(program, hardware, quantised, rows=rows, pos=pos, sample=sample)
    spans: list[Span] = [
        (int(op.unit), op.unit.name.lower(), op.name, op.first, op.last, None)
        for op in predicted.operations
    ]
    differences: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    if measure:
        measured, crcs = _measure(quantised, hardware, rows, pos, sample, checksums)
        from tokenloom.sim.measured import schedule_differences

        differences = schedule_differences(predicted, measured)
        names = {unit: [op.name for op in predicted.operations if op.unit == unit] for unit in Unit}
        both = {(unit, name): (golden, chip) for unit, name, golden, chip in crcs}
        none = (None, None)
        spans = [(*span[:5], both.get((span[0], span[2]), none)[0]) for span in spans]
        differences += [
            {"unit": Unit(unit).name, "name": name, "predicted": f"{golden:08x}",
             "measured": f"{chip:08x}"}
            for unit, name, golden, chip in crcs
            if golden != chip
        ]  # fmt: skip
        found: list[Span] = []
        for unit in Unit:
            for index, (first, last) in enumerate(measured.operations.get(int(unit), [])):
                name = names[unit][index] if index < len(names[unit]) else "?"
                crc = both.get((int(unit), name), none)[1]
                found.append((int(unit), unit.name.lower(), name, first, last, crc))
        events = trace_events(2, "measured", found)
    events = trace_events(1, "predicted", spans) + events
    result = {
        "model": ready.name,
        "board": hardware.name,
        "rows": rows,
        "pos": pos,
        "sample": sample,
        "cycles": predicted.cycles,
        "array_busy": predicted.beats / predicted.cycles,
        "operations": len(predicted.operations),
        "equal": not differences if measure else None,
        "differences": differences,
    }
    trace = {"traceEvents": events, "displayTimeUnit": "ms", "otherData": result}
    return result, trace


def prompt_length(rows: int, pos: int, sample: bool, array_rows: int) -> int:
    """Length of a prompt whose passes, or the first one behind it, are the wanted pass.

    Raises
    ------
    TokenloomError
        If no prompt leads to that pass.
    """
    if sample and rows == 1 and pos:
        return pos  # the first decode pass
    if pos % array_rows:
        raise TokenloomError(
            f"--measure: a pass with --rows {rows} starts at a multiple of array.rows = "
            f"{array_rows}, so --pos {pos} never happens"
            + ("" if rows > 1 else "; without --no-sample it does")
        )
    if sample:
        return pos + rows
    if rows != array_rows:
        raise TokenloomError(
            f"--measure: a pass that does not sample has array.rows = {array_rows} rows, "
            f"so --rows {rows} --no-sample never happens"
        )
    return pos + rows + 1


# (unit's number, operation's name, golden model's checksum, chip's)
Checksum = tuple[int, str, int, int]


def _measure(
    model: Any, hardware: Any, rows: int, pos: int, sample: bool, checksums: bool
) -> tuple[Measured, list[Checksum]]:
    """Play a prompt in the verilated chip; the wanted pass."""
    from tokenloom.sim.chip_device import ChipDevice
    from tokenloom.sim.measured import measured_passes

    length = prompt_length(rows, pos, sample, hardware.array.rows)
    with progress.steps() as step:
        chip = ChipDevice(model, hardware, step, taps=checksums)
    try:
        # Which tokens they are changes no cycle.
        prompt = [index % model.shape.vocab for index in range(1, length + 1)]
        new = 1 + (length == pos)
        passes = -(-length // hardware.array.rows) + new - 1
        for number, record in enumerate(
            progress.track(chip.generate(prompt, new), "passes", passes)
        ):
            if (record.rows, record.pos, record.sample) == (rows, pos, sample):
                measured = measured_passes(chip.events(), [record], number)[0]
                break
        else:
            raise TokenloomError(f"the chip made no pass with {rows} rows at position {pos}")
        crcs: list[Checksum] = []
        if checksums:
            from tokenloom.sim.taps import pass_checksums

            crcs = [
                (int(op.unit), op.name, golden, device)
                for op, golden, device in pass_checksums(chip, model, prompt, new, number)
            ]
        return measured, crcs
    finally:
        chip.close()
