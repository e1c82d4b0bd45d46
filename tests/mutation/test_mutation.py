"""Mutants of control blocks: the blocks' benches have to notice at least nine in ten."""

import os
from unittest.mock import patch

import pytest

from tests.deep import deep
from tests.hw.many import ONCE
from tests.hw.ring.link_pair import LinkPair
from tests.hw.ring.test_link import LIMITS
from tests.hw.ring.test_ring import OPTIONS
from tests.mutation.mutation import mutate
from tests.mutation.toy import Toy
from tokenloom.hw.array.quantiser import Quantiser
from tokenloom.hw.kv.free_list import FreeList
from tokenloom.hw.kv.kv_manager import KvManager
from tokenloom.hw.kv.page_table import PageTable
from tokenloom.hw.ring.ring_steps import RingSteps
from tokenloom.hw.sequencer.isa import Unit
from tokenloom.hw.sequencer.pass_control import PassControl
from tokenloom.hw.sequencer.tape_control import TapeControl
from tokenloom.hw.sequencer.unit_queue import UnitQueue
from tokenloom.sim.ring_system import RingSystem

# Of the KV manager, which has by far the most logic; of each other block.
MOST, COUNT, COUNT_TOY = 100, 40, 8
KILLED = 0.9  # share of what is not proved to be equivalent
MANAGER = {"slots": 4, "pages": 14, "positions": 128, "page_tokens": 16}
TABLE = {"slots": 3, "pages": 20, "slot_pages": 3, "sequence_pages": 11}
QUEUE = {"unit": int(Unit.SOFTMAX), "depth": 9, "chunks": True}
CODES = {"kv_bits": 8, "tag_bits": 5}
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
# Words need not be wide for faults of the links' control.
LINK = {**LIMITS, "word_bits": 16}
NODES = {**OPTIONS, "nodes": [2, 4], "latency": [25], "words": [1, 17, 64], "commands": 12}


def test_what_is_noticed():
    looks, away = (
        mutate(Toy(), "tests.mutation.toy", count=COUNT_TOY, parameters={"look": look})
        for look in (True, False)
    )
    for found in (looks, away):
        assert not found.unnoticed
        assert (
            found.killed + sum(map(len, (found.equivalent, found.alike, found.survived)))
            == COUNT_TOY
        )
    assert looks.equivalent, "the term that never matters"
    assert looks.share == 1, looks
    assert away.killed == 0, away
    # What one bench kills is not proved to be equivalent with the other.
    assert away.equivalent == looks.equivalent


def within_link(end):
    pair = LinkPair(**LINK)
    return getattr(pair, end), pair


def within_ring():
    # All nodes' steps have the fault.
    system = RingSystem(most=4, **OPTIONS)
    return RingSteps(addr_bits=OPTIONS["addr_bits"], most=OPTIONS["window"]), system


CONTROL = [
    (
        "kv_manager",
        MOST,
        lambda: (KvManager(**MANAGER), None),
        "tests.hw.kv.test_kv_manager",
        {**MANAGER, "turns": 1000},
    ),
    (
        "free_list",
        COUNT,
        lambda: (FreeList(pages=5), None),
        "tests.hw.kv.test_free_list",
        {"pages": 5},
    ),
    ("page_table", COUNT, lambda: (PageTable(**TABLE), None), "tests.hw.kv.test_page_table", TABLE),
    (
        "unit_queue",
        COUNT,
        lambda: (UnitQueue(**{**QUEUE, "unit": Unit(QUEUE["unit"])}), None),
        "tests.hw.sequencer.test_unit_queue",
        QUEUE,
    ),
    (
        "pass_control",
        COUNT,
        lambda: (PassControl(**PASSES), None),
        "tests.hw.sequencer.test_pass_control",
        {**PASSES, "requests": 80},
    ),
    (
        "tape_control",
        COUNT,
        lambda: (TapeControl(**TAPE, dim_blocks=2), None),
        "tests.hw.sequencer.test_tape_control",
        {**TAPE, "head_size": 48, "far": 1},
    ),
    (
        "quantiser",
        COUNT,
        lambda: (Quantiser(**CODES), None),
        "tests.hw.array.test_quantiser",
        CODES,
    ),
    ("link_tx", COUNT, lambda: within_link("tx"), "tests.hw.ring.test_link", {"words": 200}),
    ("link_rx", COUNT, lambda: within_link("rx"), "tests.hw.ring.test_link", {"words": 200}),
    ("ring_steps", COUNT, within_ring, "tests.hw.ring.test_ring", NODES),
]


@pytest.mark.parametrize(
    "count, make, module, parameters", [deep(*rest, id=name) for name, *rest in CONTROL]
)
def test_control_blocks(count, make, module, parameters):
    block, within = make()
    with patch.dict(os.environ, {ONCE: "1"}):
        found = mutate(
            block, module, count=count, within=within, parameters=parameters, enough=KILLED
        )
    print(found)
    assert found.share >= KILLED, found
