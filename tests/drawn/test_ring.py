"""Drawn configurations of the ring."""

from hypothesis import strategies as st

from tests.drawn.drawing import built, drawn, play
from tokenloom.sim.ring_system import RingSystem


@st.composite
def configurations(draw):
    addr_bits = draw(st.integers(8, 10))
    return {
        "addr_bits": addr_bits,
        # A group has to be an address.
        "window": draw(st.sampled_from([2**i for i in range(1, min(9, addr_bits))])),
        # Above the bench's round trips, and so often that its worst wires are not taken for dead.
        "timeout": draw(st.integers(100, 300)),
        "retries": draw(st.integers(6, 20)),
        "patience": draw(st.integers(1000, 3000)),
    }


@drawn("ring", configurations())
def test_ring(configuration):
    built("ring", configuration)
    block = RingSystem(most=3, **configuration)
    bench = {"nodes": [2, 3], "latency": [3], "words": [1, 17], "commands": 12}
    play("ring", configuration, "tests.hw.ring.test_ring", block=block, **bench)
