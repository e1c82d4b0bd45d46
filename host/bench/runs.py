"""What several rows share: runs of the three models on the simulated chip, and their inputs.

A run gives bits, predictions, busy share and rate, so a whole table costs little more than its
longest rows; each row also works alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tokenloom.compiler.errors import ModelError
from tokenloom.host import progress
from tokenloom.host.bench.registry import Skip

if TYPE_CHECKING:
    from tokenloom.compiler.quantise import QuantModel
    from tokenloom.compiler.schedule import Schedule
    from tokenloom.host.prepare import Prepared
    from tokenloom.host.session import Difference, Played
    from tokenloom.sim.chip_device import ChipDevice, PassRecord
    from tokenloom.sim.measured import Measured
    from tokenloom.sim.memory import MemoryProfile

__all__ = [
    "STORY",
    "Run",
    "models",
    "new_chip",
    "prepared",
    "same_passes",
    "shared_text",
    "smollm2",
    "stories",
    "tiny",
    "tinystories",
]

STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park"
)
_PROSE = (
    "The river begins in the hills above the town, where the rain of a whole winter gathers in "
    "the peat and leaves it slowly. For the first miles it is narrow enough to step across. Then "
    "two streams join it, one clear and one brown, and for a while the two colours run side by "
    "side in the same bed. Below the mill the valley opens, the current slows down, and the "
    "water spreads between the meadows. In spring people walk along the bank to see how high it "
    "has come, and the oldest of them remember years in which it reached the church door."
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run on the verilated chip."""

    name: str
    board: str
    rows: int
    prompt: int
    played: list[Played]
    difference: Difference | None
    measured: list[Measured]
    schedule: Callable[[int, int, bool], Schedule]

    @property
    def decode(self) -> list[Played]:
        """The passes after the first token."""
        return [one for one in self.played if one.record.sample][1:]

    @property
    def where(self) -> str:
        """Model, board and memory, for a figure's detail."""
        return f"{self.name} on '{self.board}', ideal memory"


@cache
def prepared(
    model: str, board: str, overrides: tuple[str, ...] = ()
) -> tuple[Prepared, QuantModel]:
    """A model read and quantised once for all rows; `Skip` if it is not there."""
    from tokenloom.host.prepare import prepare

    with models():
        ready = prepare(model, board, overrides)
    return ready, ready.quantise()


@cache
def run_chip(model: str, board: str, text: str, prompt: int | None, new: int) -> Run:
    """Play a text (its first `prompt` tokens) and `new` tokens, end of text ignored; compare."""
    from tokenloom.host.session import compare_with_golden, play, predictor, with_operation
    from tokenloom.sim.chip_device import ChipDevice
    from tokenloom.sim.measured import measured_passes

    ready, quantised = prepared(model, board)
    ids = ready.text.encode(text)[:prompt]
    with progress.steps() as step:
        chip = ChipDevice(quantised, ready.hardware, step, guided=True)
    try:
        rows = ready.hardware.array.rows
        passes = -(-len(ids) // rows) + new - 1
        played = list(progress.track(play(chip, ids, new), f"{ready.name}: passes", passes))
        measured = measured_passes(chip.events(), [one.record for one in played])
    finally:
        chip.close()
    title = f"{ready.name}: compare with the golden model"
    with progress.counter(title, len(played)) as update:
        records = [one.record for one in played]
        difference = compare_with_golden(quantised, ids, records, update)
    if difference is not None:
        with progress.steps() as step:
            difference = with_operation(difference, chip, ids, records, step)
    return Run(
        name=ready.name,
        board=ready.hardware.name,
        rows=rows,
        prompt=len(ids),
        played=played,
        difference=difference,
        measured=measured,
        schedule=predictor(chip),
    )


def new_chip(
    ready: tuple[Prepared, QuantModel], memory: str | MemoryProfile = "ideal", seed: int = 1
) -> ChipDevice:
    """A chip with a model and a memory of that seed, see `ChipDevice`."""
    from tokenloom.sim.chip_device import ChipDevice

    hardware, model = ready[0].hardware, ready[1]
    with progress.steps() as step:
        return ChipDevice(model, hardware, step, memory, seed)


def same_passes(mine: Sequence[PassRecord], other: Sequence[PassRecord]) -> bool:
    """Tokens, logits and belt cycles are equal, and each stalled cycle has one cause."""
    import numpy as np

    return len(mine) == len(other) and all(
        (a.token, a.scheduled, a.beats) == (b.token, b.scheduled, b.beats)
        and a.elapsed == a.scheduled + sum(a.stalls.values())
        and (not a.sample or np.array_equal(np.asarray(a.logits), np.asarray(b.logits)))
        for a, b in zip(mine, other, strict=True)
    )


@contextmanager
def models() -> Iterator[None]:
    """Turn a model that is not there into a skipped row."""
    try:
        yield
    except ModelError as error:
        raise Skip(str(error)) from error


def shared_text(name: str, source: str) -> Path:
    """A text of the shared folder; `Skip` says where it is from if it is not there."""
    path = Path(os.environ.get("TOKENLOOM_SHARED", "../shared")) / "text" / name
    if not path.is_file():
        raise Skip(
            f"{path} is not there; it is cut from {source}: put it there, or set TOKENLOOM_SHARED"
        )
    return path


def stories() -> Run:
    """stories260K: 256 tokens."""
    return run_chip("stories260K", "mini", STORY, None, 256)


def tiny() -> Run:
    """The project's own model: 256 tokens."""
    return run_chip("tiny", "mini", "Once upon a time", None, 256)


def tinystories() -> Run:
    """TinyStories-656K: 64 tokens."""
    return run_chip("tinystories-656k", "mini", STORY, None, 64)


def smollm2() -> Run:
    """SmolLM2: 97 tokens of prompt and 32 more."""
    # The last decode pass attends to 97 + 31 = 128 tokens.
    return run_chip("smollm2", "sim", _PROSE, 97, 32)
