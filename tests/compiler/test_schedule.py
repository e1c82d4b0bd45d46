"""predict() against the verilated chip: every operation's first and last belt cycle."""

import copy
from functools import cache

import numpy as np
import pytest

from tests.deep import deep
from tests.models_for_tests import SMALLEST, random_model
from tokenloom.compiler import schedule as schedule_module
from tokenloom.compiler.image import lay_out
from tokenloom.compiler.program import compile_program
from tokenloom.compiler.quantise import quantise
from tokenloom.compiler.schedule import predict
from tokenloom.hw.array.array_control import ArrayControl
from tokenloom.hw.array.quantiser import Quantiser
from tokenloom.hw.attention.attention import Attention
from tokenloom.hw.attention.softmax import Softmax
from tokenloom.hw.config import load
from tokenloom.hw.embedding.embedding import Embedding
from tokenloom.hw.norm.rmsnorm import RmsNorm
from tokenloom.hw.sequencer.isa import Dest, Unit
from tokenloom.sim.chip_device import ChipDevice, Event
from tokenloom.sim.measured import measured_operations, measured_passes, schedule_differences

HARDWARE = load("mini")
ROWS = HARDWARE.array.rows
PAGE = HARDWARE.memory.page_tokens
WIDER = ["array.columns=4"]  # with mini's drain of 2

SHAPES = {
    "plain": {},
    "smallest": SMALLEST,
    "odd": dict(width=40, ffn=50, heads=6, kv_heads=3, head_size=10, vocab=33, layers=2),
    "group-1": dict(width=33, ffn=31, heads=3, kv_heads=3, head_size=8, vocab=65),
    "group-2": dict(width=65, ffn=97, heads=8, kv_heads=4, head_size=8, layers=3),
    "narrow": dict(width=2, ffn=1, heads=1, kv_heads=1, head_size=2, vocab=2, layers=2),
    "four-bit": dict(width=48, ffn=64, heads=4, kv_heads=4, layers=2, kind="q4_1"),
    "maxima": dict(width=128, ffn=384, heads=8, kv_heads=4, vocab=301, layers=8),
}


class Case:
    """A model's measured passes and their predictions."""

    def __init__(self, model, prompt, new, hardware=HARDWARE):
        self.model, self.hardware = model, hardware
        chip = ChipDevice(model, hardware)
        self.records = list(chip.generate([1] * prompt, new))
        self.measured = measured_passes(chip.events(), self.records)
        chip.close()
        self.program = compile_program(model, lay_out(model, hardware), hardware)

    def predict(self, number):
        one = self.records[number]
        return predict(
            self.program, self.hardware, self.model, rows=one.rows, pos=one.pos, sample=one.sample
        )

    def differences(self):
        return [
            entry
            for number, measured in enumerate(self.measured)
            for entry in schedule_differences(self.predict(number), measured)
        ]


@pytest.mark.parametrize("prompt", [1, ROWS, ROWS + 1, 7])
@pytest.mark.parametrize("name", SHAPES)
def test_prediction(name, prompt):
    case = Case(quantise(random_model(**SHAPES[name])), prompt, 4)
    assert {(one.rows, one.sample) for one in case.records} >= {(1, True)}
    assert case.differences() == []


@pytest.mark.parametrize("prompt", [PAGE - 2, 2 * PAGE + 1])
@pytest.mark.parametrize("name", ["odd", "group-2"])
def test_prediction_over_pages(name, prompt):
    """Positions on both sides of a page's end, in prefill and in decode."""
    case = Case(quantise(random_model(**SHAPES[name])), prompt, 6)
    assert {one.pos // PAGE for one in case.records} >= set(range(prompt // PAGE + 1))
    assert case.differences() == []


def test_prediction_with_drains_of_several_words():
    """A values operation's drain goes on when the next scores could already be drained."""
    case = Case(quantise(random_model(**SHAPES["group-2"])), 35, 3, load("mini", WIDER))
    assert case.differences() == []


@pytest.mark.parametrize("seed", [*range(3), *(deep(seed) for seed in range(3, 30))])
def test_prediction_of_random_models(seed):
    rng = np.random.default_rng(seed)
    kv_heads = int(rng.integers(1, 5))
    model = random_model(
        width=int(rng.integers(2, 129)),
        ffn=int(rng.integers(1, 200)),
        heads=kv_heads * int(rng.integers(1, 3)),
        kv_heads=kv_heads,
        head_size=2 * int(rng.integers(1, 9)),
        vocab=int(rng.integers(2, 200)),
        layers=int(rng.integers(1, 4)),
        kind=str(rng.choice(["q8_0", "q4_0", "q4_1"])),
        seed=seed,
    )
    case = Case(quantise(model), int(rng.integers(1, 90)), 3)
    assert case.differences() == []


# A comparison that finds nothing must be one that would have found it.


@cache
def odd():
    return Case(quantise(random_model(**SHAPES["odd"])), ROWS + 1, 3)


def later(function):
    return staticmethod(lambda *args, **named: function(*args, **named) + 1)


DURATIONS = {
    "embedding": (Unit.EMBED, Embedding, "duration", later(Embedding.duration)),
    "norm": (Unit.NORM, RmsNorm, "duration", lambda self, **n: RMS_DURATION(self, **n) + 1),
    "softmax": (Unit.SOFTMAX, Softmax, "duration", later(Softmax.duration)),
    "softmax-latency": (Unit.SOFTMAX, Softmax, "latency", later(Softmax.latency)),
    "keys": (Unit.ARRAY, Attention, "KEYS_DONE", Attention.KEYS_DONE + 1),
    "values": (Unit.ARRAY, Attention, "VALUES_DONE", Attention.VALUES_DONE + 1),
    "context": (Unit.CONTEXT, Attention, "CONTEXT_BLOCK", Attention.CONTEXT_BLOCK + 1),
    "quantiser": (Unit.NORM, Quantiser, "LATENCY", Quantiser.LATENCY + 1),
    "drain": (Unit.ARRAY, ArrayControl, "DRAIN", ArrayControl.DRAIN - 1),
    "edge": (Unit.ARRAY, schedule_module, "EDGE", schedule_module.EDGE + 1),
}
RMS_DURATION = RmsNorm.duration


@pytest.mark.parametrize("name", DURATIONS)
def test_a_wrong_duration_shows(name, monkeypatch):
    assert odd().differences() == []
    unit, owner, attribute, value = DURATIONS[name]
    monkeypatch.setattr(owner, attribute, value)
    assert unit.name in {entry["unit"] for entry in odd().differences()}


@pytest.mark.parametrize("dest", Dest)
def test_a_wrong_tail_shows(dest, monkeypatch):
    tail = schedule_module._Pass._tail
    monkeypatch.setattr(
        schedule_module._Pass, "_tail", lambda self, one: tail(self, one) + (one == dest)
    )
    assert "ARRAY" in {entry["unit"] for entry in odd().differences()}


def test_every_kind_of_difference_is_named():
    case = odd()
    schedule, good = case.predict(1), case.measured[1]
    assert schedule_differences(schedule, good) == []

    def differences(change):
        measured = copy.deepcopy(good.__dict__)
        measured |= change(measured["operations"]) or {}
        return schedule_differences(schedule, type(good)(**measured))

    def shift(operations):
        first, last = operations[Unit.ARRAY][4]
        operations[Unit.ARRAY][4] = (first + 1, last)

    (wrong,) = differences(shift)
    fourth = [op for op in schedule.operations if op.unit is Unit.ARRAY][4]
    assert (wrong["unit"], wrong["name"]) == ("ARRAY", fourth.name)
    assert wrong["predicted"] == [fourth.first, fourth.last]
    assert wrong["measured"] == [fourth.first + 1, fourth.last]
    (wrong,) = differences(lambda operations: operations[Unit.NORM].pop() and None)
    assert wrong["unit"] == "NORM" and wrong["measured"] is None
    (wrong,) = differences(lambda operations: operations[Unit.EMBED].append((1, 2)))
    assert wrong["predicted"] is None and wrong["measured"] == [1, 2]
    (wrong,) = differences(lambda operations: {"cycles": good.cycles + 1})
    assert (wrong["unit"], wrong["name"]) == ("PASS", "cycles")
    (wrong,) = differences(lambda operations: {"beats": good.beats - 1})
    assert (wrong["unit"], wrong["name"]) == ("PASS", "beats")


def test_operations_that_never_start_or_end_differ():
    events = [
        Event(number=0, unit=Unit.NORM, finished=False, cycle=4),
        Event(number=1, unit=Unit.NORM, finished=True, cycle=9),
    ]
    assert measured_operations(events) == {
        0: {Unit.NORM: [(4, -1)]},
        1: {Unit.NORM: [(-1, 9)]},
    }


@pytest.mark.parametrize("rows", [0, ROWS + 1])
def test_impossible_rows(rows):
    with pytest.raises(ValueError, match=f"rows is {rows}; allowed: 1..{ROWS}"):
        predict(odd().program, HARDWARE, odd().model, rows=rows, pos=0, sample=True)


def test_a_program_that_waits_for_itself():
    program = copy.deepcopy(odd().program)
    program.queues[Unit.NORM][1].wait[Unit.NORM] = 2
    with pytest.raises(ValueError, match="never ends: NORM"):
        predict(program, HARDWARE, odd().model, rows=1, pos=0, sample=True)
