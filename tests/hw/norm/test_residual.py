# amaranth: UnusedElaboratable=no
"""Residual against formats.residual and formats.sum_squares."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
import pytest

from tests.deep import deep
from tests.hw.belt_bench import STALLS, Belt
from tests.hw.many import many_values
from tests.hw.words import pack, unpack
from tokenloom.hw.norm.residual import Residual
from tokenloom.hw.numbers import formats
from tokenloom.sim.bench import parameters, run_block, seeded

LOW, HIGH = -(2**31), 2**31 - 1


def updates(rng: Any, width: int) -> list[np.ndarray]:
    """The operations of a pass on one row: the first writes, the others add."""
    generator = np.random.default_rng(rng.getrandbits(32))
    small = [generator.integers(-1000, 1000, width) for _ in range(2)]
    wide = [generator.integers(LOW, HIGH + 1, width) for _ in range(4)]
    edges = generator.choice([LOW, HIGH, 0, 1, -1], width)
    return [*small, *wide, np.full(width, LOW), np.full(width, LOW), edges, np.zeros(width, int)]


@cocotb.test()
@many_values(5000, only=lambda: parameters()["update_lanes"] == 8)
async def row(dut: Any) -> None:
    rng = seeded()
    given = parameters()
    width, lanes = given["width"], given["norm_lanes"]
    step, with_total = given["update_lanes"], given["total"]
    words = -(-width // 32) * 32 // lanes
    latency = Residual(**given).latency
    used = -(-width // lanes)
    bench = Belt(
        dut,
        {
            "in_valid": 1,
            "in_value": -32 if step == 1 else 32 * step,
            "in_index": max(1, ((words if step > 1 else width) - 1).bit_length()),
            "in_first": 1,
            "in_start": 1,
            "in_last": 1,
            "read_en": 1,
            "read_addr": max(1, (words - 1).bit_length()),
        },
        {
            "done": 1,
            "ss": 80,
            "saturated": 1,
            "read_data": 32 * lanes,
            **({"total": -48} if with_total else {}),
        },
        rng=rng,
        strobes=("in_valid", "read_en"),
    )
    await bench.reset()
    clamped_ever = 0
    for stall in STALLS:
        bench.stall = stall
        for gap in (0.0, 0.4):
            stream = np.zeros(width, dtype=np.int64)
            plans = updates(rng, width)
            if gap:  # a first operation of another kind: writes at the limits
                plans.insert(0, np.full(width, LOW))
            for number, update in enumerate(plans):
                fresh = number == 0
                old = np.zeros_like(stream) if fresh else stream
                sums = old + update
                stream, clamped = formats.residual(old, update)
                clamped_ever += clamped
                due: dict[int, bool] = {}
                end, index = None, 0
                while end is None or bench.now < end:
                    found = await bench.next()
                    expected = due.pop(bench.now, False)
                    assert found["saturated"] == expected, f"{number}: cycle {bench.now}"
                    assert found["done"] == (bench.now == end), f"{number}: cycle {bench.now}"
                    if bench.now == end:
                        assert found["ss"] == formats.sum_squares(stream[None])[0]
                        assert found.get("total", stream.sum()) == stream.sum()
                    if index < width and rng.random() >= gap:
                        bench.drive(
                            in_valid=1,
                            in_value=int(update[index])
                            if step == 1
                            else pack(update[index : index + step], 32),
                            in_index=index // step,
                            in_first=fresh,
                            in_start=index == 0,
                            in_last=index + step == width,
                        )
                        now = slice(index, index + step)
                        due[bench.now + Residual.SATURATED] = bool((stream[now] != sums[now]).any())
                        index += step
                        if index == width:
                            end = bench.now + latency
                    elif bench.now != end:
                        bench.drive()
                # Read from the very cycle of `done` on, back to back.
                padded = np.zeros(used * lanes, dtype=np.int64)
                padded[:width] = stream
                order = rng.sample(range(used), used)
                for place, word in enumerate([*order, None]):
                    if place:
                        found = await bench.next()
                        assert not found["done"] and not found["saturated"]
                        last = order[place - 1] * lanes
                        count = min(lanes, width - last)
                        have = unpack(found["read_data"], 32, count)
                        assert have == padded[last : last + count].tolist()
                    if word is None:
                        bench.drive()
                    else:
                        bench.drive(read_en=1, read_addr=word)
    assert clamped_ever


CASES = [
    (64, 8, 1, False),
    (40, 32, 1, True),
    deep(96, 16, 1, False),
    (9, 1, 1, False),
    (96, 8, 8, True),
    deep(64, 32, 32, False),
]


@pytest.mark.parametrize("width, norm_lanes, update_lanes, total", CASES)
def test_residual(width: int, norm_lanes: int, update_lanes: int, total: bool) -> None:
    given = {
        "width": width,
        "norm_lanes": norm_lanes,
        "update_lanes": update_lanes,
        "total": total,
    }
    run_block(Residual(**given), __name__, parameters=given)


def test_parameters() -> None:
    with pytest.raises(ValueError, match="width = 0"):
        Residual(width=0, norm_lanes=8)
    with pytest.raises(ValueError, match="norm_lanes = 3"):
        Residual(width=64, norm_lanes=3)
    with pytest.raises(ValueError, match="width = 65537: with total"):
        Residual(width=65537, norm_lanes=8, total=True)
    with pytest.raises(ValueError, match="update_lanes = 2"):
        Residual(width=64, norm_lanes=8, update_lanes=2)
    with pytest.raises(ValueError, match="taps"):
        Residual(width=64, norm_lanes=8, update_lanes=8, taps=True)
