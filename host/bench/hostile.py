"""Memory as it is: what latency, refresh, conflicts and errors change, and what they must not."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenloom.host import progress
from tokenloom.host.bench.registry import Figure, group
from tokenloom.host.bench.runs import STORY, new_chip, prepared, same_passes

if TYPE_CHECKING:
    from tokenloom.compiler.quantise import QuantModel
    from tokenloom.host.prepare import Prepared
    from tokenloom.sim.chip_device import Event, PassRecord
    from tokenloom.sim.memory import Counters, MemoryProfile

_row = group("Hostile memory")

_SEEDS = 5
_NEW = 24
_ERRORS = 1000


@dataclass(frozen=True, kw_only=True)
class _Played:
    """A request: its passes, every operation's start and end, what the channels have done."""

    records: list[PassRecord]
    events: list[Event]
    counters: list[Counters]


def _hbm2(**changed: float) -> MemoryProfile:
    """The profile of HBM2 with some figures changed."""
    from tokenloom.sim.memory import memory_profile

    profile = memory_profile("hbm2")
    assert profile is not None
    return dataclasses.replace(profile, **changed)  # type: ignore[arg-type]


def _played(ready: tuple[Prepared, QuantModel], memory: str | MemoryProfile, seed: int) -> _Played:
    """`STORY` and some tokens more, on a new chip."""
    chip = new_chip(ready, memory, seed)
    records = list(chip.generate(ready[0].text.encode(STORY), _NEW))
    request = _Played(records=records, events=chip.events(), counters=chip.memory_counters())
    chip.close()
    return request


def _same(mine: _Played, other: _Played) -> bool:
    """The passes are the same, and the start and end of every operation."""
    return mine.events == other.events and same_passes(mine.records, other.records)


@_row("hostile_is_ideal", "seeds equal", f"{_SEEDS} of {_SEEDS}", how="simulated")
def hostile_is_ideal() -> Figure:
    """Tokens, logits and belt cycles on HBM2 against the ideal memory."""
    ready = prepared("tiny", "mini")
    want = _played(ready, "ideal", 1)
    equal, stalled = 0, []
    for seed in range(1, _SEEDS + 1):
        got = _played(ready, "hbm2", seed)
        equal += _same(got, want)
        total = sum(record.elapsed for record in got.records)
        stalled.append(100 * (1 - sum(record.scheduled for record in got.records) / total))
    detail = (
        f"tiny on 'mini', prompt of {len(ready[0].text.encode(STORY))} tokens and {_NEW} more, "
        "memory hbm2: every token, logit, first and last belt cycle; elapsed = scheduled + stalled "
        "in every pass; stalled "
        f"{min(stalled):.1f} to {max(stalled):.1f} % of the cycles"
    )
    return Figure(value=equal, detail=detail, ok=equal == _SEEDS)


@_row("hostile_errors", "errors recovered", f">= {_ERRORS:,}, 0 wrong", how="simulated")
def hostile_errors() -> Figure:
    """Error responses that the retries make good."""
    ready = prepared("tiny", "mini")
    want = _played(ready, "ideal", 1)
    profile = _hbm2(error_rate=0.01)
    errors = wrong = requests = 0
    with progress.counter("errors", _ERRORS) as update:
        for seed in range(1, 100):
            got = _played(ready, profile, seed)
            wrong += not _same(got, want)
            errors += sum(c.read_errors + c.write_errors for c in got.counters)
            requests += 1
            update(min(errors, _ERRORS))
            if errors >= _ERRORS:
                break
    detail = (
        f"tiny on 'mini', memory hbm2 with 1 % of the bursts failing, {requests} requests; "
        f"{wrong} of them differ from the ideal memory's in a token, logit or belt cycle"
    )
    return Figure(value=errors, detail=detail, ok=errors >= _ERRORS and not wrong)


@_row("hostile_smollm2", "% of a linear reader's bytes", ">= 90 %", how="simulated")
def hostile_smollm2() -> Figure:
    """Useful bytes of SmolLM2's decode where the memory's peak is what the array takes."""
    from tokenloom.sim.memory import linear_reader

    ready = prepared("smollm2", "sim")
    hardware, shape = ready[0].hardware, ready[0].checkpoint.shape
    clock = hardware.board.clock_mhz
    # A beat of 32 codes with scale and minimum: 4-bit codes in the layers, 8-bit ones in the head.
    layer_bytes, head_bytes = 20, 34
    profile = _hbm2(bytes_per_ns=layer_bytes * clock / 1000)
    linear = linear_reader(
        profile, 1, clock_mhz=clock, beat_bytes=hardware.memory.port_bits // 8, cycles=200_000
    )
    chip = new_chip(ready, profile)
    records = list(chip.generate(ready[0].text.encode("The river begins in the hills"), 3))
    chip.close()
    decode = [record for record in records if record.rows == 1 and record.sample][-2:]
    head = -(-shape.vocab // hardware.array.columns) * -(-shape.width // 32)
    useful = sum((record.beats - head) * layer_bytes + head * head_bytes for record in decode)
    elapsed = sum(record.elapsed for record in decode)
    share = 100 * useful / elapsed / linear
    detail = (
        f"SmolLM2-135M on 'sim', memory hbm2 with a peak of {layer_bytes} bytes per cycle and "
        f"channel, {len(decode)} decode passes: {useful / elapsed:.2f} useful bytes per cycle and "
        f"channel, a saturating linear reader on the same memory gets {linear:.2f}"
    )
    return Figure(value=share, detail=detail, ok=share >= 90)
