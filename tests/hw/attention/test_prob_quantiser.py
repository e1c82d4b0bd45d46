# amaranth: UnusedElaboratable=no
"""ProbQuantiser against formats.prob_quantise and formats.prob_split."""

from __future__ import annotations

import random
from typing import Any

import cocotb
import numpy as np
import pytest

from tests.hw.array.lane_bench import STALLS, Item, Lane, expect, spread
from tests.hw.many import many_values
from tests.hw.words import pack
from tokenloom.hw.attention.prob_quantiser import ProbQuantiser
from tokenloom.hw.numbers import formats
from tokenloom.sim.bench import run_block, seeded

TAG = 5
INPUTS = {"in_valid": 1, "in_values": 1344, "in_tag": TAG}
OUTPUTS = {"out_valid": 1, "out_hi": 256, "out_lo": 256, "out_s": 6, "out_tag": TAG}


def corners() -> list[list[int]]:
    blocks = [[0] * 32, [1 << 41] * 32, [131072] * 32, [1] + [0] * 31]
    for bit in range(42):
        # One hot, the clamp, and digits whose low half is at its ends.
        blocks.append([(1 << bit) >> i for i in range(32)])
        blocks.append([(2 << bit) - 1 - i if (2 << bit) > i else 0 for i in range(32)])
        base = 1 << max(bit - 14, 0)
        blocks.append([min((127 + i) * base + base // 2, (1 << 42) - 1) for i in range(32)])
    blocks += [[32639 + i - 16 for i in range(32)], [(32639 + i - 16) << 20 for i in range(32)]]
    return blocks


def some_block(rng: random.Random) -> list[int]:
    top = rng.randrange(1, 43)
    return [rng.getrandbits(rng.choice((top, max(1, top - 14)))) for _ in range(32)]


@cocotb.test()
@many_values(6 * 100 * 32)
async def lane(dut: Any) -> None:
    rng = seeded()
    bench = Lane(dut, INPUTS, OUTPUTS, rng=rng)
    await bench.reset()
    for stall in STALLS:
        for gap in (0.0, 0.5):
            blocks = (corners() if gap == 0.0 else []) + [some_block(rng) for _ in range(100)]
            items: list[Item] = [
                {"in_valid": 1, "in_values": pack(block, 42), "in_tag": rng.getrandbits(TAG)}
                for block in blocks
            ]
            cycles = spread(items, rng, gap)
            places = [i for i, item in enumerate(cycles) if item is not None]
            expected = []
            for cycle, block, item in zip(places, blocks, items, strict=True):
                codes, shift = formats.prob_quantise(np.array(block, dtype=np.int64))
                hi, lo = formats.prob_split(codes)
                result = {
                    "out_valid": 1,
                    "out_hi": pack(hi, 8),
                    "out_lo": pack(lo, 8),
                    "out_s": int(shift),
                    "out_tag": item["in_tag"],
                }
                expected.append((cycle + ProbQuantiser.LATENCY, result))
            expect(await bench.run(cycles, stall=stall), expected)


def test_prob_quantiser() -> None:
    run_block(ProbQuantiser(tag_bits=TAG), __name__)


def test_parameters() -> None:
    with pytest.raises(ValueError, match="tag_bits = 0"):
        ProbQuantiser(tag_bits=0)
