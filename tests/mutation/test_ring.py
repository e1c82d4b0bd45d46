"""Mutants of the ring: both ends of a link between their partners, steps of all nodes at once."""

import pytest

from tests.deep import DEEP_ONLY
from tests.hw.ring.link_pair import LinkPair
from tests.hw.ring.test_link import LIMITS
from tests.hw.ring.test_ring import OPTIONS
from tests.mutation.control import check
from tokenloom.hw.ring.ring_steps import RingSteps
from tokenloom.sim.ring_system import RingSystem

pytestmark = DEEP_ONLY

# Words need not be wide for faults of the links' control.
LINK = {**LIMITS, "word_bits": 16}
NODES = {**OPTIONS, "nodes": [2, 4], "latency": [25], "words": [1, 17, 64], "commands": 12}


@pytest.mark.parametrize("end", ["tx", "rx"])
def test_link(end):
    pair = LinkPair(**LINK)
    check(getattr(pair, end), "tests.hw.ring.test_link", {"words": 200}, within=pair)


def test_ring_steps():
    steps = RingSteps(addr_bits=OPTIONS["addr_bits"], most=OPTIONS["window"])
    check(steps, "tests.hw.ring.test_ring", NODES, within=RingSystem(most=4, **OPTIONS))
