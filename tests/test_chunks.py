"""Contexts longer than the score buffer: the whole chip's logits, tokens and cycles."""

import pytest

from tests.models_for_tests import SMALL, prompt_for, random_model
from tests.test_chip import check, patience  # noqa: F401
from tokenloom.compiler import schedule
from tokenloom.compiler.errors import TokenloomError
from tokenloom.compiler.image import lay_out
from tokenloom.compiler.models import resolve
from tokenloom.compiler.program import compile_program
from tokenloom.compiler.quantise import quantise
from tokenloom.compiler.schedule import predict
from tokenloom.hw.config import load
from tokenloom.hw.core import IN_FLIGHT
from tokenloom.hw.sequencer.isa import Unit
from tokenloom.sim.measured import measured_passes, schedule_differences

POSITIONS = 256
CHUNK = 64
WHOLE = ["maxima.head_size=64", f"maxima.positions={POSITIONS}"]
HARDWARE = load("mini", [*WHOLE, f"score_tokens={CHUNK}"])
MODELS = {
    "small": SMALL,
    "two-blocks": dict(width=48, ffn=40, heads=4, kv_heads=2, head_size=64, layers=2, vocab=30),
    "three-heads": dict(width=40, ffn=50, heads=6, kv_heads=3, head_size=10, layers=1, vocab=33),
    # Windows of several chunks, beside layers without one; rows' windows begin in different chunks.
    "window": dict(**SMALL, window=CHUNK + 37),
    "window-and-full": dict(**SMALL, window=100, full_layers=(0,)),
    "window-in-a-chunk": dict(**SMALL, window=5),
}


def against_golden_and_schedule(model, prompt, new, device, hardware=HARDWARE):
    """Every logit of a request, and every operation of its passes."""
    chip = device(model, hardware=hardware, soon=True)
    records = check(chip, prompt, new)
    program = compile_program(model, lay_out(model, hardware), hardware)
    for record, measured in zip(records, measured_passes(chip.events(), records), strict=True):
        predicted = predict(
            program, hardware, model, rows=record.rows, pos=record.pos, sample=record.sample
        )
        assert schedule_differences(predicted, measured) == [], record.pos
    return records


def test_the_shipped_model(device):
    """A context of 200 tokens: the prompt ends in the third chunk, the answer in the fourth."""
    model = quantise(resolve("tiny").checkpoint(), positions=POSITIONS)
    records = against_golden_and_schedule(model, prompt_for(model, 3 * CHUNK - 5), 14, device)
    assert records[-1].pos + records[-1].rows == 200


@pytest.mark.parametrize("count", [CHUNK - 2, 2 * CHUNK - 1])
@pytest.mark.parametrize("name", MODELS)
def test_around_a_boundary(name, count, device):
    """Contexts of a chunk less one, exactly, and one more; decode, and rows on both sides of it."""
    model = quantise(random_model(**MODELS[name], seed=count))
    prompt = prompt_for(model, count)
    records = against_golden_and_schedule(model, prompt, 5, device)
    assert {record.pos + record.rows for record in records} >= {CHUNK - 1, CHUNK, CHUNK + 1} or (
        records[-1].pos > 2 * CHUNK
    )


def schedules(name, hardware, positions, rows=1):
    model = quantise(random_model(**MODELS[name]))
    program = compile_program(model, lay_out(model, hardware), hardware)
    return [predict(program, hardware, model, rows=rows, pos=pos, sample=True) for pos in positions]


@pytest.mark.parametrize("name", MODELS)
def test_a_context_of_one_chunk_takes_no_longer(name):
    """What is passed over hides behind the operations under way."""
    short = (0, 1, 40, CHUNK - 2)
    assert [one.cycles for one in schedules(name, HARDWARE, short, rows=2)] == [
        one.cycles for one in schedules(name, load("mini", WHOLE), short, rows=2)
    ]


@pytest.mark.parametrize("name", ["small", "two-blocks", "three-heads"])
def test_keys_are_streamed_twice_but_those_of_the_last_chunk(name):
    positions = (CHUNK - 1, CHUNK, 2 * CHUNK - 1, 2 * CHUNK, POSITIONS - 1)
    chunked = schedules(name, HARDWARE, positions)
    whole = schedules(name, load("mini", WHOLE), positions)
    shape = random_model(**MODELS[name]).shape
    head = -(-shape.head_size // HARDWARE.array.lanes) * CHUNK // HARDWARE.array.columns
    again = shape.layers * shape.kv_heads * head
    for pos, one, other in zip(positions, chunked, whole, strict=True):
        assert one.beats - other.beats == pos // CHUNK * again


def test_more_operations_in_flight_than_are_counted_are_refused(monkeypatch):
    (one,) = schedules("three-heads", HARDWARE, [POSITIONS - 1])
    mine = [op for op in one.operations if op.unit is Unit.ARRAY]
    # As an operation begins, those that are not over, and it.
    most = max(sum(op.first <= new.first < op.last for op in mine) for new in mine)
    assert 1 < most < IN_FLIGHT
    monkeypatch.setattr(schedule, "IN_FLIGHT", most)
    schedules("three-heads", HARDWARE, [POSITIONS - 1])
    monkeypatch.setattr(schedule, "IN_FLIGHT", most - 1)
    with pytest.raises(TokenloomError, match=f"more than {most - 1} operations of unit ARRAY"):
        schedules("three-heads", HARDWARE, [POSITIONS - 1])
