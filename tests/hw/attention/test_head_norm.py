# amaranth: UnusedElaboratable=no
"""HeadNorm against formats.rsqrt and formats.norm: every value, its place and its cycle."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
import pytest

from tests.hw.belt_bench import STALLS, Belt
from tokenloom.hw.attention.head_norm import GAIN_BITS, HeadNorm
from tokenloom.hw.numbers import formats as fx
from tokenloom.sim.bench import parameters, run_block, seeded

TAG = 6
INPUTS = {
    "head_size": 9, "eps": fx.EPS_BITS, "in_valid": 1, "in_value": -32, "in_index": 20,
    "in_last": 1, "in_normed": 1, "in_tag": TAG, "gain": -GAIN_BITS,
}  # fmt: skip
OUTPUTS = {
    "out_valid": 1, "out_value": -32, "out_index": 20, "out_last": 1, "out_tag": TAG,
    "out_saturated": 1,
}  # fmt: skip


def some_head(rng: Any, size: int) -> list[int]:
    """Large or small, flat or with one outlier, or all zeros."""
    bits = rng.randrange(1, 33)
    head = [rng.getrandbits(32) - (1 << 31) >> 32 - bits for _ in range(size)]
    kind = rng.randrange(6)
    if kind == 0:
        head = [0] * size
    elif kind == 1:
        head[rng.randrange(size)] = rng.choice((2**31 - 1, -(2**31)))
    elif kind == 2:
        head = [rng.choice((2**31 - 1, -(2**31)))] * size
    return head


@cocotb.test()
async def norms(dut: Any) -> None:
    rng = seeded()
    head_max = parameters()["head_max"]
    dims = {"gain_read": 1, "gain_dim": (head_max - 1).bit_length(), "gain_tag": TAG}
    belt = Belt(
        dut, INPUTS, {**OUTPUTS, **dims}, rng=rng, strobes=("in_valid",),
        stable=("head_size", "eps"),
    )  # fmt: skip
    seen = {"saturated": 0, "zeros": 0, "plain": 0}
    for size in (2, 4, head_max // 2 // 2 * 2, head_max):
        await belt.reset()
        eps = rng.choice((1, 1 << 16, rng.getrandbits(60) + 1))
        gains = [
            [rng.choice((32767, -32767, 0, rng.randrange(-32767, 32768))) for _ in range(size)]
            for _ in range(1 << TAG)
        ]
        belt.drive(head_size=size, eps=eps)
        expected: dict[int, dict[str, int]] = {}
        head: list[int] = []
        index, answer = rng.randrange(1000) * size, 0
        gap, normed, tag = 0.0, 1, 0
        cycles = max(900, 12 * size)
        for cycle in range(cycles):
            if cycle % 300 == 0:
                belt.stall, gap = rng.choice(STALLS), rng.choice((0.0, 0.0, 0.4))
            found = await belt.next()
            want = expected.pop(belt.now, None)
            assert found["out_valid"] == (want is not None), belt.now
            if want is not None:
                assert {name: found[name] for name in want} == want, belt.now
                seen["saturated"] += want["out_saturated"]
            else:
                assert not found["out_saturated"]
            item = {}
            if not head:
                head = some_head(rng, size)
                normed, tag = int(rng.random() < 0.8), rng.getrandbits(TAG)
                values, place = list(head), index
                last = rng.getrandbits(1)
            if rng.random() >= gap and cycle < cycles - 3 * size - 60:
                item = {
                    "in_valid": 1, "in_value": head.pop(0), "in_index": index, "in_tag": tag,
                    "in_normed": normed, "in_last": last if not head else 0,
                }  # fmt: skip
                index = (index + 1) % (1 << 20)
                if not head:
                    stream = np.array([values], dtype=np.int64)
                    counted = [0] * size
                    if normed:
                        y, k = fx.rsqrt_rows(fx.norm_sums(fx.sum_squares(stream), eps))
                        one = [fx.norm(stream[:, [i]], gains[tag][i], y, k) for i in range(size)]
                        values = [int(value[0, 0]) for value, _ in one]
                        counted = [count for _, count in one]
                        seen["zeros"] += not any(stream[0])
                    else:
                        seen["plain"] += 1
                    done = belt.now + HeadNorm.latency(size) - size + 1
                    for i, value in enumerate(values):
                        expected[done + i] = {
                            "out_value": value, "out_index": (place + i) % (1 << 20),
                            "out_last": int(last and i == size - 1), "out_tag": tag,
                            "out_saturated": counted[i],
                        }  # fmt: skip
            belt.drive(gain=answer, **item)
            answer = rng.getrandbits(16)
            if found["gain_read"]:
                answer = gains[found["gain_tag"]][found["gain_dim"]]
        assert not expected, size
    dut._log.info(f"seen: {seen}")
    assert seen["zeros"] and seen["plain"]


@pytest.mark.parametrize("head_max", [16, 64])
def test_head_norm(head_max: int) -> None:
    given = {"head_max": head_max}
    run_block(HeadNorm(head_max=head_max, tag_bits=TAG), __name__, parameters=given)


def test_parameters() -> None:
    with pytest.raises(ValueError, match="head_max = 1"):
        HeadNorm(head_max=1, tag_bits=1)
    with pytest.raises(ValueError, match="tag_bits = 0"):
        HeadNorm(head_max=2, tag_bits=0)
