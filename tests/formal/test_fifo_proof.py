"""The queues of channels, row reader, KV writer and card, proved by induction."""

import pytest
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered

from tests.formal.fifo_proof import FifoProof
from tests.formal.sby import prove

# Depths that are a power of two and not; of the buffered one, its memory's is one less.
KINDS = [
    pytest.param(kind, depth, id=f"{kind.__name__}-{depth}")
    for kind in (SyncFIFO, SyncFIFOBuffered)
    for depth in (3, 4)
]


@pytest.mark.parametrize("kind, depth", KINDS)
def test_a_queue_is_a_fifo(kind, depth):
    prove(f"{kind.__name__}_{depth}", FifoProof(kind, depth=depth), mode="prove", depth=2)


@pytest.mark.parametrize("kind, depth", KINDS)
def test_it_comes_round_and_is_full(kind, depth):
    prove(f"{kind.__name__}_{depth}", FifoProof(kind, depth=depth), mode="cover", depth=16)


@pytest.mark.parametrize("kind", [SyncFIFO, SyncFIFOBuffered])
def test_a_queue_of_less_would_break_it(kind):
    with pytest.raises(AssertionError, match="Assert failed in top"):
        design = FifoProof(kind, depth=4, full=3)
        prove(f"{kind.__name__}_short", design, mode="bmc", depth=8)
