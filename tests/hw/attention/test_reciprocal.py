# amaranth: UnusedElaboratable=no
"""Reciprocal against formats.reciprocal."""

from __future__ import annotations

from typing import Any

import cocotb
import pytest

from tests.hw.array.lane_bench import STALLS, Item, Lane, expect, spread
from tokenloom.hw.attention.reciprocal import ND_BITS, Reciprocal
from tokenloom.hw.numbers import formats
from tokenloom.sim.bench import run_block, seeded

TAG = 3
INPUTS = {"in_valid": 1, "in_den": formats.DEN_BITS, "in_tag": TAG}
OUTPUTS = {"out_valid": 1, "out_nd": ND_BITS, "out_rm": 17, "out_tag": TAG}


@cocotb.test()
async def lane(dut: Any) -> None:
    rng = seeded()
    bench = Lane(dut, INPUTS, OUTPUTS, rng=rng)
    await bench.reset()
    corners = [v for bit in range(35) for v in ((1 << bit), (1 << bit) + 1, (2 << bit) - 1)]
    # Both ends of every table segment.
    for up in (0, 5):  # also of denominators with more bits than are normalised
        corners += [v << up for i in range(512, 1024) for v in (i << 20, ((i + 1) << 20) - 1)]
    for stall in STALLS:
        for gap in (0.0, 0.5):
            dens = (corners if gap == 0.0 else []) + [
                rng.getrandbits(rng.randrange(1, 36)) or 1 for _ in range(1000)
            ]
            items: list[Item] = [
                {"in_valid": 1, "in_den": den, "in_tag": rng.getrandbits(TAG)} for den in dens
            ]
            cycles = spread(items, rng, gap)
            expected = [
                (
                    cycle + Reciprocal.LATENCY,
                    {
                        "out_valid": 1,
                        "out_nd": int(formats.denominator_bits(item["in_den"])),
                        "out_rm": int(formats.reciprocal(item["in_den"])),
                        "out_tag": item["in_tag"],
                    },
                )
                for cycle, item in enumerate(cycles)
                if item is not None
            ]
            expect(await bench.run(cycles, stall=stall), expected)


def test_reciprocal() -> None:
    run_block(Reciprocal(tag_bits=TAG), __name__)


def test_parameters() -> None:
    with pytest.raises(ValueError, match="tag_bits = 0"):
        Reciprocal(tag_bits=0)
