"""Mutants of the ring: both ends of a link between their partners, steps of all nodes at once."""

from tests.deep import DEEP_ONLY
from tests.hw.ring.link_pair import LinkPair
from tests.hw.ring.test_link import LIMITS as PAIR
from tests.hw.ring.test_link_tx import LIMITS
from tests.hw.ring.test_ring import OPTIONS
from tests.mutation.control import check
from tokenloom.hw.ring.link_tx import LinkTx
from tokenloom.hw.ring.ring_steps import RingSteps
from tokenloom.sim.ring_system import RingSystem

pytestmark = DEEP_ONLY

# Words need not be wide for faults of the links' control.
LINK = {**PAIR, "word_bits": 16}
NODES = {**OPTIONS, "nodes": [2, 4], "latency": [25], "words": [1, 17, 64], "commands": 12}


def test_link_tx():
    tx, parameters = LinkTx(**LIMITS), {**LIMITS, "episodes": 100, "covered": False}
    check(tx, "tests.hw.ring.test_link_tx", parameters, within=tx)


def test_link_rx():
    pair = LinkPair(**LINK)
    check(pair.rx, "tests.hw.ring.test_link", {"words": 200}, within=pair)


def test_ring_steps():
    steps = RingSteps(addr_bits=OPTIONS["addr_bits"], most=OPTIONS["window"])
    check(steps, "tests.hw.ring.test_ring", NODES, within=RingSystem(most=4, **OPTIONS))
