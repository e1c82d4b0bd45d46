# amaranth: UnusedElaboratable=no
"""VExponents against a dictionary."""

from __future__ import annotations

from typing import Any

import cocotb
import pytest

from tests.deep import deep
from tests.hw.attention.attention_bench import STALLS, Belt
from tests.hw.words import pack, unpack
from tokenloom.hw.attention.v_exponents import VExponents
from tokenloom.sim.bench import parameters, run_block, seeded


@cocotb.test()
async def memory(dut: Any) -> None:
    rng = seeded()
    p = parameters()
    columns, width = p["columns"], p["drain"]
    tokens_max, dim_blocks = p["tokens_max"], p["dim_blocks"]
    names = "we write_bank write_tile write_block write_shifts read read_bank read_token read_block"
    belt = Belt(
        dut,
        {name: len(getattr(dut, name)) for name in names.split()},
        {"read_shifts": 5 * width},
        strobes=("we", "read"),
        rng=rng,
    )
    await belt.reset()
    tiles = -(-tokens_max // columns)
    held: dict[tuple[int, int, int], int] = {}  # (bank, block, token)
    order = [
        (bank, block, t) for bank in (0, 1) for block in range(dim_blocks) for t in range(tiles)
    ]
    rng.shuffle(order)
    for stall in STALLS:
        belt.stall = stall
        wanted: list[int] | None = None
        for step in range(len(order) + 300):
            out = await belt.next()
            if wanted is not None:
                assert unpack(out["read_shifts"], 5, width, unsigned=True) == wanted
            item: dict[str, int] = {}
            bank = rng.randrange(2)
            token = rng.randrange(tokens_max // width) * width
            block = rng.randrange(dim_blocks)
            found = [held.get((bank, block, token + i), -1) for i in range(width)]
            place = order[step] if step < len(order) else rng.choice(order)
            if -1 not in found and rng.random() < 0.8:
                item |= {"read": 1, "read_bank": bank, "read_token": token, "read_block": block}
                wanted = found
                place = (1 - bank, *place[1:]) if step >= len(order) else place
            # A read and a write never meet in one bank.
            if "read" in item and place[0] == bank:
                wanted = wanted if wanted is not found else None
                item = {}
            if step < len(order) or rng.random() < 0.5:
                shifts = [rng.getrandbits(5) for _ in range(columns)]
                for c, shift in enumerate(shifts):
                    held[place[0], place[1], place[2] * columns + c] = shift
                item |= {
                    "we": 1,
                    "write_bank": place[0],
                    "write_block": place[1],
                    "write_tile": place[2],
                    "write_shifts": pack(shifts, 5),
                }
            belt.drive(**item)
        await belt.next()
        belt.drive()


@pytest.mark.parametrize(
    ("columns", "drain", "tokens_max", "dim_blocks"),
    [deep(4, 2, 128, 2), (2, 2, 64, 1), (6, 2, 96, 3)],
)
def test_v_exponents(columns: int, drain: int, tokens_max: int, dim_blocks: int) -> None:
    values = {
        "columns": columns,
        "drain": drain,
        "tokens_max": tokens_max,
        "dim_blocks": dim_blocks,
    }
    run_block(VExponents(**values), __name__, parameters=values)


@pytest.mark.parametrize(
    "wrong", [{"columns": 3}, {"drain": 3}, {"tokens_max": 48}, {"dim_blocks": 0}]
)
def test_parameters(wrong: dict[str, int]) -> None:
    values = {"columns": 4, "drain": 2, "tokens_max": 128, "dim_blocks": 2} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong))):
        VExponents(**values)
