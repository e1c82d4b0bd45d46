# amaranth: UnusedElaboratable=no
"""Top list against a sorted list, with insertions, shifts and clears in any order."""

from __future__ import annotations

from typing import Any

import cocotb
import pytest

from tests.hw.belt_bench import STALLS, Belt
from tokenloom.hw.sampler.top_list import TopList
from tokenloom.sim.bench import parameters, run_block, seeded

VALUE_BITS, TAG_BITS = 8, 12


@cocotb.test()
async def lists(dut: Any) -> None:
    rng, entries = seeded(), parameters()["entries"]
    bench = Belt(
        dut,
        {"clear": 1, "insert": 1, "value": -VALUE_BITS, "tag": TAG_BITS, "shift": 1},
        {"first_valid": 1, "first_value": -VALUE_BITS, "first_tag": TAG_BITS},
        rng=rng,
        strobes=("clear", "insert", "shift"),
    )
    await bench.reset()
    held: list[tuple[int, int]] = []
    fullest = 0
    for number in range(6000):
        bench.stall = STALLS[number // 1000 % 3]
        found = await bench.next()
        assert found["first_valid"] == bool(held), f"cycle {number}"
        if held:
            assert (found["first_value"], found["first_tag"]) == held[0], f"cycle {number}"
        what = rng.random()
        if what < 0.02:
            bench.drive(clear=1)
            held = []
        elif what < (0.7 if number // 200 % 2 else 0.3):
            bound = rng.choice((1, 3, (1 << (VALUE_BITS - 1)) - 1))
            value, tag = rng.randint(-bound - 1, bound), rng.getrandbits(TAG_BITS)
            bench.drive(insert=1, value=value, tag=tag)
            # Stable: an equal one goes behind.
            held = sorted([*held, (value, tag)], key=lambda one: -one[0])[:entries]
            fullest += len(held) == entries
        elif what < 0.85:
            bench.drive(shift=1)
            held = held[1:]
        else:
            bench.drive()
    assert fullest > 500


@pytest.mark.parametrize("entries", [1, 2, 5, 8])
def test_top_list(entries: int) -> None:
    block = TopList(entries=entries, value_bits=VALUE_BITS, tag_bits=TAG_BITS)
    run_block(block, __name__, parameters={"entries": entries})


def test_refused() -> None:
    with pytest.raises(ValueError, match="entries = 0 is impossible"):
        TopList(entries=0, value_bits=8, tag_bits=4)
