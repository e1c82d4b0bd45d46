# amaranth: UnusedElaboratable=no
"""Collector: blocks of 32, closed early or not."""

from __future__ import annotations

import random
from typing import Any

import cocotb
import pytest

from tests.hw.array.lane_bench import STALLS, Item, Lane, expect, spread
from tokenloom.hw.array.collector import Collector
from tokenloom.sim.bench import run_block, seeded

TAG = 7
INPUTS = {"in_valid": 1, "in_value": -32, "in_close": 1, "in_tag": TAG}
OUTPUTS = {"out_valid": 1, "out_values": 1024, "out_tag": TAG}


def items_of(lengths: list[int], rng: random.Random) -> list[Item]:
    """Blocks of these lengths; a full block closes by itself or by `in_close`, in turn."""
    items: list[Item] = []
    for number, length in enumerate(lengths):
        for i in range(length):
            value = rng.choice((-(2**31), 2**31 - 1, 0, -1, rng.getrandbits(32)))
            close = i == length - 1 and (length < 32 or number % 2 == 0)
            items.append(
                {
                    "in_valid": 1,
                    "in_value": value,
                    "in_close": int(close),
                    "in_tag": rng.getrandbits(TAG),
                }
            )
    return items


def blocks_of(cycles: list[Item | None]) -> list[tuple[int, Item]]:
    found = []
    block: list[int] = []
    for cycle, item in enumerate(cycles):
        if item is None:
            continue
        block.append(item["in_value"] & 0xFFFFFFFF)
        if item["in_close"] or len(block) == 32:
            packed = sum(value << 32 * i for i, value in enumerate(block))
            result = {"out_valid": 1, "out_values": packed, "out_tag": item["in_tag"]}
            found.append((cycle + Collector.LATENCY, result))
            block = []
    return found


@cocotb.test()
async def lane(dut: Any) -> None:
    rng = seeded()
    bench = Lane(dut, INPUTS, OUTPUTS, rng=rng)
    await bench.reset()
    for stall in STALLS:
        for gap in (0.0, 0.5):
            # Full blocks after one another, blocks of one, every length, then any.
            lengths = [32, 32, 32, 32, 1, 1, 1, 32, 1, 31, *range(1, 33)]
            lengths += [rng.randrange(1, 33) for _ in range(10)]
            cycles = spread(items_of(lengths, rng), rng, gap)
            expected = blocks_of(cycles)
            assert len(expected) == len(lengths)
            expect(await bench.run(cycles, stall=stall), expected)


def test_collector() -> None:
    run_block(Collector(tag_bits=TAG), __name__)


def test_parameters() -> None:
    with pytest.raises(ValueError, match="tag_bits = 0"):
        Collector(tag_bits=0)
