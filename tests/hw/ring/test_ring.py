"""The ring: every collective on 2 to 8 nodes against the golden function, cycle by cycle."""

import cocotb
import numpy as np
import pytest

from tests.deep import deep
from tokenloom.hw.ring.collective import Op, collective, command, duration, hop_cycles
from tokenloom.hw.ring.ring import Ring
from tokenloom.sim.bench import parameters, run_block, seeded
from tokenloom.sim.ring_bench import Rings, chunks, vectors
from tokenloom.sim.ring_system import RingSystem

OPTIONS = {"addr_bits": 11, "timeout": 200, "retries": 8, "patience": 1500}


@cocotb.test()
async def collectives_are_exact_and_as_long_as_predicted(dut):
    given, random = parameters(), seeded()
    rng = np.random.default_rng(random.getrandbits(32))
    rings = Rings(dut)
    for nodes in given["nodes"]:
        for latency in given["latency"]:
            await rings.reset(nodes, latency=latency, seed=random.getrandbits(64) | 1)
            hop = hop_cycles(latency, Ring.OWN)
            for op in Op:
                for words in given["words"]:
                    root = random.randrange(nodes)
                    last = (root + random.randrange(1, nodes)) % nodes
                    asked = command(op, words, hop=hop, root=root, last=last)
                    count = words * chunks(op, nodes)
                    data = vectors(rng, nodes, count, corners=words < 40)
                    await rings.load_all(data)
                    took = await rings.run(asked, 20_000)
                    assert (await rings.read_all(count) == collective(asked, data)).all(), asked
                    assert took == duration(asked, nodes, hop=hop), (asked, nodes, took)
    assert int(dut.again.value) == 0


@pytest.mark.parametrize(
    "bench",
    [
        {"nodes": [2, 4], "latency": [25], "words": [1, 17, 64]},
        deep({"nodes": [2, 3, 4, 5, 8], "latency": [2, 25, 50], "words": [1, 2, 33, 61, 127]}),
    ],
)
def test_ring(bench):
    block = RingSystem(most=8 if 8 in bench["nodes"] else 4, **OPTIONS)
    run_block(block, "tests.hw.ring.test_ring", parameters=bench)
