# amaranth: UnusedElaboratable=no
"""Embedding against formats.embed (drain with shift 0..31) and exact integers."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
import pytest

from tests.deep import deep
from tests.hw.belt_bench import STALLS, Belt
from tests.hw.words import pack
from tokenloom.hw.embedding.embedding import Embedding
from tokenloom.hw.numbers import formats
from tokenloom.sim.bench import parameters, run_block, seeded

CORNERS = [0x0000, 0x8000, 0x7BFF, 0xFBFF, 0x0001, 0x8001, 0x03FF, 0x0400, 0x7FFF, 0xFFFF]


@cocotb.test()
async def rows(dut: Any) -> None:
    rng = seeded()
    generator = np.random.default_rng(rng.getrandbits(32))
    given = parameters()
    width, rows_max = given["width"], given["rows"]
    blocks_max = -(-width // 32)
    outputs = {
        "need": 1,
        "out_valid": 1,
        "out_acc": -64,
        "out_row": max(1, (rows_max - 1).bit_length()),
        "out_index": max(1, (32 * blocks_max - 1).bit_length()),
        "out_start": 1,
        "out_last": 1,
    }
    bench = Belt(
        dut,
        {
            "start": 1,
            "rows_count": rows_max.bit_length(),
            "blocks": blocks_max.bit_length(),
            "last_values": 6,
            "block_codes": 256,
            "block_scale": 16,
            "block_minimum": 16,
        },
        outputs,
        rng=rng,
        strobes=("start",),
    )
    await bench.reset()

    def scales(blocks: int, corner: bool) -> np.ndarray:
        if corner:
            return generator.choice(CORNERS, blocks).astype(np.uint16)
        return generator.integers(0, 65536, blocks).astype(np.uint16)

    for stall in STALLS:
        bench.stall = stall
        for count in [*range(1, rows_max + 1), rows_max, rows_max]:
            model = rng.choice((width, width, rng.randrange(1, width + 1)))
            blocks, total = -(-model // 32), count * -(-model // 32)
            last_values = model - 32 * (blocks - 1)
            codes = generator.integers(-128, 128, (total, 32))
            codes[0] = -128
            corner = rng.random() < 0.3
            scale, minimum = scales(total, corner), scales(total, corner)
            if rng.random() < 0.3:
                minimum[:] = 0
            mant, shift = formats.decode_scale(scale)
            low, low_shift = formats.decode_scale(minimum)
            exact = ((codes * mant[:, None]) << shift[:, None]) + (low << low_shift)[:, None]
            # The same numbers as point 3, seen through a drain.
            drained = formats.drain(exact, 20)[0]
            assert np.array_equal(drained, formats.embed(codes, scale, minimum, 20)[0])

            await bench.next()
            zero = bench.now
            bench.drive(start=1, rows_count=count, blocks=blocks, last_values=last_values)
            end = zero + Embedding.duration(
                rows_count=count, blocks=blocks, last_values=last_values
            )
            taken = 0
            while bench.now < end:
                found = await bench.next()
                time = bench.now - zero
                assert found["need"] == (time % 32 == 1 and taken < total), f"cycle {time}"
                if found["need"]:
                    bench.drive(
                        block_codes=pack(codes[taken], 8),
                        block_scale=int(scale[taken]),
                        block_minimum=int(minimum[taken]),
                    )
                    taken += 1
                else:
                    bench.drive()
                since = time - 1 - Embedding.LATENCY
                block, value = divmod(since, 32)
                row, place = divmod(block, blocks)
                index = 32 * place + value
                expected = since >= 0 and index < model
                assert found["out_valid"] == expected, f"cycle {time}"
                if expected:
                    have = tuple(found[n] for n in list(outputs)[2:])
                    want = (int(exact[block, value]), row, index, index == 0, index == model - 1)
                    assert have == want, f"cycle {time}"
            assert taken == total and found["out_valid"] and found["out_last"]
            for _ in range(rng.choice((0, 0, 1, 40))):  # or the next start at once
                found = await bench.next()
                assert not found["need"] and not found["out_valid"]
                bench.drive()


@pytest.mark.parametrize("width, rows", [(96, 3), deep(40, 4), (20, 1), (172, 2)])
def test_embedding(width: int, rows: int) -> None:
    given = {"width": width, "rows": rows}
    run_block(Embedding(**given), __name__, parameters=given)


def test_parameters() -> None:
    with pytest.raises(ValueError, match="width = 0"):
        Embedding(width=0)
    with pytest.raises(ValueError, match="rows = 33"):
        Embedding(width=64, rows=33)
