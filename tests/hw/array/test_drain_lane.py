# amaranth: UnusedElaboratable=no
"""DrainLane against formats.drain: sat32(rs(acc, shift))."""

from __future__ import annotations

from typing import Any

import cocotb
import pytest

from tests.hw.array.lane_bench import STALLS, Item, Lane, expect, spread
from tokenloom.hw.array.drain_lane import DrainLane
from tokenloom.hw.numbers import formats
from tokenloom.sim.bench import run_block, seeded

TAG = 11
INPUTS = {"in_valid": 1, "in_acc": -64, "in_shift": 6, "in_tag": TAG}
OUTPUTS = {"out_valid": 1, "out_value": -32, "out_saturated": 1, "out_tag": TAG}


def corners() -> list[tuple[int, int]]:
    """Accumulators around every edge, with every shift."""
    edges = [0, 1, -1, 2**63 - 1, -(2**63)]
    found = [(acc, shift) for acc in edges for shift in range(64)]
    for shift in range(32):
        half = 1 << shift >> 1
        for limit in (2**31 - 1, -(2**31)):
            middle = limit << shift
            found += [(middle + d, shift) for d in (-half - 1, -half, 0, half - 1, half, half + 1)]
    return [(a, s) for a, s in found if -(2**63) <= a < 2**63]


@cocotb.test()
async def lane(dut: Any) -> None:
    rng = seeded()
    bench = Lane(dut, INPUTS, OUTPUTS, rng=rng)
    await bench.reset()
    for stall in STALLS:
        for gap in (0.0, 0.5):
            cases = corners() if gap == 0.0 else []
            for _ in range(300):
                acc = some_number(rng)
                cases.append((acc, rng.randrange(64)))
            items: list[Item] = [
                {"in_valid": 1, "in_acc": a, "in_shift": s, "in_tag": rng.getrandbits(TAG)}
                for a, s in cases
            ]
            cycles = spread(items, rng, gap)
            expected = []
            for cycle, item in enumerate(cycles):
                if item is not None:
                    value, count = formats.drain(item["in_acc"], item["in_shift"])
                    result = {
                        "out_valid": 1,
                        "out_value": int(value),
                        "out_saturated": count,
                        "out_tag": item["in_tag"],
                    }
                    expected.append((cycle + DrainLane.LATENCY, result))
            assert {item["out_saturated"] for _, item in expected} == {0, 1}
            expect(await bench.run(cycles, stall=stall), expected)


def some_number(rng: Any) -> int:
    """A number of random length, so that small ones occur too."""
    return int(rng.getrandbits(rng.randrange(1, 64)) * rng.choice((1, -1)))


def test_drain_lane() -> None:
    run_block(DrainLane(tag_bits=TAG), __name__)


def test_parameters() -> None:
    with pytest.raises(ValueError, match="tag_bits = 0"):
        DrainLane(tag_bits=0)
