# amaranth: UnusedElaboratable=no
"""ContextBuffer against a list."""

from __future__ import annotations

from typing import Any

import cocotb
import pytest

from tests.hw.attention.attention_bench import STALLS, Belt
from tests.hw.words import pack, unpack
from tokenloom.hw.attention.context_buffer import ContextBuffer
from tokenloom.sim.bench import parameters, run_block, seeded


@cocotb.test()
async def memory(dut: Any) -> None:
    rng = seeded()
    p = parameters()
    width_max, width = p["width_max"], p["drain"]
    belt = Belt(
        dut,
        {
            "in_valid": 1,
            "in_index": len(dut.in_index),
            "in_values": 32 * width,
            "read": 1,
            "read_block": len(dut.read_block),
        },
        {"read_values": 1024},
        strobes=("in_valid", "read"),
        rng=rng,
    )
    await belt.reset()
    blocks = width_max // 32
    held: list[int | None] = [None] * width_max
    for stall in STALLS:
        belt.stall = stall
        wanted: list[int] | None = None
        # All in order first, so that everything is known, then anything.
        for step in range(width_max // width + 400):
            out = await belt.next()
            if wanted is not None:
                assert unpack(out["read_values"], 32, 32) == wanted
            item: dict[str, int] = {}
            written = -1
            snapshot = list(held)
            if step < width_max // width or rng.random() < 0.6:
                index = step if step < width_max // width else rng.randrange(width_max // width)
                index *= width
                written = index // 32
                values = [rng.randrange(-(2**31), 2**31) for _ in range(width)]
                held[index : index + width] = values
                item |= {"in_valid": 1, "in_index": index, "in_values": pack(values, 32)}
            block = rng.randrange(blocks)
            known = snapshot[32 * block : 32 * block + 32]
            if block != written and None not in known and rng.random() < 0.6:
                item |= {"read": 1, "read_block": block}
                wanted = [v for v in known if v is not None]
            belt.drive(**item)
        await belt.next()
        belt.drive()


@pytest.mark.parametrize(("width_max", "drain"), [(96, 2), (64, 32)])
def test_context_buffer(width_max: int, drain: int) -> None:
    values = {"width_max": width_max, "drain": drain}
    run_block(ContextBuffer(**values), __name__, parameters=values)


@pytest.mark.parametrize("wrong", [{"width_max": 48}, {"drain": 64}])
def test_parameters(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ContextBuffer(**({"width_max": 64, "drain": 2} | wrong))
