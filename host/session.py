"""Plays a prompt on a device, and compares what came out with model and prediction."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from tokenloom.sim.request import GREEDY, Sampling

if TYPE_CHECKING:
    from tokenloom.compiler.quantise import QuantModel
    from tokenloom.compiler.schedule import Schedule
    from tokenloom.host.device import Device
    from tokenloom.sim.chip_device import PassRecord
    from tokenloom.sim.taps import OperationDifference

__all__ = [
    "Difference",
    "Played",
    "compare_with_golden",
    "play",
    "predictor",
    "summary",
    "with_operation",
]


@dataclass(frozen=True, kw_only=True)
class Played:
    """A pass and the wall time it took, in seconds."""

    record: PassRecord
    seconds: float


def play(
    device: Device,
    prompt: Sequence[int],
    new: int,
    eos: Sequence[int] = (),
    *,
    sampling: Sampling = GREEDY,
    keep_logits: bool = True,
) -> Iterator[Played]:
    """Generate, with the wall time of each pass."""
    start = time.monotonic()
    for record in device.generate(prompt, new, eos, sampling=sampling):
        seconds = time.monotonic() - start
        yield Played(
            record=record if keep_logits else replace(record, logits=None), seconds=seconds
        )
        start = time.monotonic()  # not counting what the caller does with the pass


# Golden model.


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first place where device and golden model differ.

    Attributes
    ----------
    number : int
        The pass, from 0.
    row, lane : int or None
        Row of the pass and vocabulary id of the logit; None when only the token differs.
    device, golden : int
        The two logits, or the two tokens.
    operation : OperationDifference or str or None
        The operation that went wrong first, or why it is not known.
    """

    number: int
    row: int | None
    lane: int | None
    device: int
    golden: int
    operation: OperationDifference | str | None = None

    def __str__(self) -> str:
        if self.operation is not None:
            return f"{replace(self, operation=None)}; first wrong operation: {self.operation}"
        if self.lane is None:
            return (
                f"pass {self.number}: the logits agree, but the device sampled token "
                f"{self.device}, the golden model {self.golden}"
            )
        return (
            f"pass {self.number}, row {self.row}, lane (vocabulary id) {self.lane}: the device's "
            f"logit is {self.device}, the golden model's {self.golden}"
        )


def compare_with_golden(
    model: QuantModel,
    prompt: Sequence[int],
    records: Sequence[PassRecord],
    update: Callable[[int], None] = lambda done: None,
    *,
    sampling: Sampling = GREEDY,
) -> Difference | None:
    """Feed the same tokens to the golden model; compare every logit and token.

    Parameters
    ----------
    model : QuantModel
    prompt : sequence of int
    records : sequence of PassRecord
        All passes, with their logits.
    update : callable
        Told how many passes are done.
    sampling : Sampling
        The request's.

    Returns
    -------
    Difference or None
        The first one, in the order of passes, rows and lanes.
    """
    from tokenloom.sim.golden import Golden

    session = Golden(model).session()
    ids = [*prompt, *(record.token for record in records if record.token is not None)]
    for number, record in enumerate(records):
        if not record.sample:
            continue  # its rows are part of the next pass's prefill here: the bits are the same
        stop = record.pos + record.rows
        if record.pos > session.length:
            session.prefill(ids[session.length : record.pos])
        golden = session.prefill(ids[record.pos : stop], every_logit=True)
        if record.logits is None:
            raise ValueError(f"pass {number} samples, but its logits were not kept")
        wrong = np.argwhere(record.logits != golden)
        if len(wrong):
            row, lane = (int(index) for index in wrong[0])
            return Difference(
                number=number,
                row=row,
                lane=lane,
                device=int(record.logits[row, lane]),
                golden=int(golden[row, lane]),
            )
        token = sampling.choose(model, golden[-1], stop - 1, ids[:stop])
        if record.token != token:
            device = -1 if record.token is None else record.token
            return Difference(number=number, row=None, lane=None, device=device, golden=token)
        update(number + 1)
    return None


def with_operation(
    difference: Difference,
    device: Device,
    prompt: Sequence[int],
    records: Sequence[PassRecord],
    step: Callable[[str], None] = lambda text: None,
    *,
    sampling: Sampling = GREEDY,
) -> Difference:
    """Name the operation behind a difference, by playing the request again on a chip with taps.

    Parameters
    ----------
    difference : Difference
    device : Device
        Where it was found; only the simulated chip has operations to look at.
    prompt : sequence of int
    records : sequence of PassRecord
        The passes that were compared.
    step : callable
        Told what happens next.
    sampling : Sampling
        The request's.
    """
    from tokenloom.sim.chip_device import ChipDevice
    from tokenloom.sim.taps import first_difference

    if not device.timed or difference.lane is None:
        return difference
    if device.hardware.chunks(max(record.pos + record.rows for record in records)) > 1:
        return replace(difference, operation="not looked for: the context comes in chunks")
    new = sum(record.sample for record in records[: difference.number + 1])
    chip = ChipDevice(device.model, device.hardware, step, taps=True)
    try:
        step("look for the first wrong operation")
        found = first_difference(chip, device.model, prompt, new, sampling=sampling)
    finally:
        chip.close()
    unknown = "none in a second run, on the chip that shows its operations"
    return replace(difference, operation=found or unknown)


# Prediction.


def predictor(device: Device, sampling: Sampling = GREEDY) -> Callable[[int, int, bool], Schedule]:
    """A function that gives the predicted schedule.

    Its parameters are a pass's rows and position, and whether it samples.
    """
    from tokenloom.compiler.schedule import predict

    settings = sampling.settings(device.model)

    @cache
    def schedule(rows: int, pos: int, sample: bool) -> Schedule:
        return predict(
            device.program,
            device.hardware,
            device.model,
            rows=rows,
            pos=pos,
            sample=sample,
            settings=settings,
        )

    return schedule


# Figures.


def summary(
    played: Sequence[Played],
    schedule: Callable[[int, int, bool], Schedule],
    *,
    clock_mhz: float,
    timed: bool,
) -> dict[str, float | None]:
    """Means over the decode passes, and rates.

    Parameters
    ----------
    played : sequence of Played
    schedule : callable
        From `predictor`.
    clock_mhz : float
        The board's clock.
    timed : bool
        Whether the records hold cycles.

    Returns
    -------
    dict
        ``decode_passes``; per decode pass ``predicted``, ``scheduled``, ``stalled``, ``elapsed``
        cycles; ``array_busy`` of decode; ``simulated_khz`` over all passes;
        ``tokens_per_second`` of decode in wall time; ``board_tokens_per_second``, derived from
        the cycles of decode (predicted ones on an untimed device) and the board's clock. None is
        what there is no measurement for.
    """
    # The first token comes with the prompt's last pass; each later one costs a pass of its own.
    sampled = [p for p in played if p.record.sample]
    decode = sampled[1:]
    count = len(decode)
    result: dict[str, float | None] = dict.fromkeys(
        (
            "predicted",
            "scheduled",
            "stalled",
            "elapsed",
            "array_busy",
            "simulated_khz",
            "tokens_per_second",
            "board_tokens_per_second",
        )
    )
    result["decode_passes"] = count
    cycles = None
    if count:
        cycles = result["predicted"] = (
            sum(schedule(p.record.rows, p.record.pos, p.record.sample).cycles for p in decode)
            / count
        )
        seconds = sum(p.seconds for p in decode)
        if seconds > 0:
            result["tokens_per_second"] = count / seconds
    if count and timed:
        cycles = sum(p.record.elapsed for p in decode) / count
        result["elapsed"] = cycles
        result["scheduled"] = sum(p.record.scheduled for p in decode) / count
        result["stalled"] = sum(sum(p.record.stalls.values()) for p in decode) / count
        result["array_busy"] = sum(p.record.beats for p in decode) / (cycles * count)
    if timed and played:
        wall = sum(p.seconds for p in played)
        if wall > 0:
            result["simulated_khz"] = sum(p.record.elapsed for p in played) / wall / 1e3
    if cycles:
        result["board_tokens_per_second"] = clock_mhz * 1e6 / cycles
    return result
