"""Mutants of the sequencer: unit queue, pass control, tape control."""

from tests.deep import DEEP_ONLY
from tests.mutation.control import check
from tokenloom.hw.sequencer.isa import Unit
from tokenloom.hw.sequencer.pass_control import PassControl
from tokenloom.hw.sequencer.tape_control import TapeControl
from tokenloom.hw.sequencer.unit_queue import UnitQueue

pytestmark = DEEP_ONLY

UNIT = Unit.SOFTMAX
QUEUE = {"depth": 9, "chunks": True}
TAPE = {
    "depth": 16,
    "columns": 4,
    "page_tokens": 32,
    "pages_max": 1 << 13,
    "lookup_latency": 2,
    "chunk_tokens": 1 << 12,
}
PASSES = {
    "rows": 32,
    "columns": 4,
    "vocab_bits": 17,
    "slot_bits": 4,
    "page_tokens": 16,
    "pages_max": 1063,
    "positions": 17000,
}


def test_unit_queue():
    parameters = {**QUEUE, "unit": int(UNIT)}
    check(UnitQueue(**QUEUE, unit=UNIT), "tests.hw.sequencer.test_unit_queue", parameters)


def test_pass_control():
    parameters = {**PASSES, "requests": 80}
    check(PassControl(**PASSES), "tests.hw.sequencer.test_pass_control", parameters)


def test_tape_control():
    parameters = {**TAPE, "head_size": 48, "far": 1}
    block = TapeControl(**TAPE, dim_blocks=2)
    check(block, "tests.hw.sequencer.test_tape_control", parameters)
