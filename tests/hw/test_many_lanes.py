# amaranth: UnusedElaboratable=no
"""A million values through the lanes that take one per cycle, many lanes at once."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
import pytest

from tests.deep import deep
from tests.hw.many import MANY
from tests.hw.side_by_side import SideBySide, play
from tests.hw.words import pack
from tokenloom.hw.array.drain_lane import DrainLane
from tokenloom.hw.attention.reciprocal import ND_BITS, Reciprocal
from tokenloom.hw.attention.rope import Rope
from tokenloom.hw.ffn.swiglu import Swiglu
from tokenloom.hw.numbers import formats
from tokenloom.hw.numbers.tables import rope_frequencies, score_factor
from tokenloom.sim.bench import parameters, run_block, seeded

TAG, LANES, PAIRS = 4, 32, 32
PAIR_BITS = (PAIRS - 1).bit_length()
UNITS = {
    "drain": lambda: DrainLane(tag_bits=TAG),
    "reciprocal": lambda: Reciprocal(tag_bits=TAG),
    "rope": lambda: Rope(pairs_max=PAIRS, tag_bits=TAG),
    "swiglu": lambda: Swiglu(tag_bits=TAG, activation="silu", stages=3, gated=True),
}


def numbers(rng: np.random.Generator, shape: tuple[int, int], bits: int) -> np.ndarray:
    """Signed ones of `bits` bits, of all lengths alike."""
    whole = rng.integers(-(1 << bits - 1), (1 << bits - 1) - 1, shape, endpoint=True)
    return whole >> rng.integers(0, bits, shape)


async def drained(dut: Any, random: Any, rng: np.random.Generator, shape: tuple[int, int]) -> None:
    acc, shift = numbers(rng, shape, 64), rng.integers(0, 64, shape)
    tag = rng.integers(0, 1 << TAG, shape)
    found = await play(
        dut, random,
        {"in_acc": -64, "in_shift": 6, "in_tag": TAG},
        {"out_value": -32, "out_saturated": 1, "out_tag": TAG},
        [{"in_acc": acc, "in_shift": shift, "in_tag": tag}], latency=DrainLane.LATENCY,
    )  # fmt: skip
    assert (found["out_tag"] == tag).all()
    for one in range(64):
        value, count = formats.drain(acc[shift == one], one)
        assert (found["out_value"][shift == one] == value).all(), f"shift {one}"
        assert found["out_saturated"][shift == one].sum() == count, f"shift {one}"


async def inverted(dut: Any, random: Any, rng: np.random.Generator, shape: tuple[int, int]) -> None:
    den = np.abs(numbers(rng, shape, formats.DEN_BITS + 1)).clip(1, (1 << formats.DEN_BITS) - 1)
    tag = rng.integers(0, 1 << TAG, shape)
    found = await play(
        dut, random,
        {"in_den": formats.DEN_BITS, "in_tag": TAG},
        {"out_nd": ND_BITS, "out_rm": 17, "out_tag": TAG},
        [{"in_den": den, "in_tag": tag}], latency=Reciprocal.LATENCY,
    )  # fmt: skip
    assert (found["out_tag"] == tag).all()
    assert (found["out_nd"] == formats.denominator_bits(den)).all()
    assert (found["out_rm"] == formats.reciprocal(den)).all()


async def rotated(dut: Any, random: Any, rng: np.random.Generator, shape: tuple[int, int]) -> None:
    """Pairs of keys and queries, rotated or passing, at any position."""
    table = np.array(rope_frequencies(10000.0, 2 * PAIRS))
    pairs = shape[0] // 2, LANES
    x = numbers(rng, (pairs[0], 2, LANES), 32)
    x[rng.random(x.shape) < 0.1] = -(1 << 31)
    rotate = rng.choice((0, 1, 1, 1), pairs)
    kappa = rng.choice((0, score_factor(2 * PAIRS)[0], 1 << 15, 65535), pairs)
    position, pair = rng.integers(0, 1 << 20, pairs), rng.integers(0, PAIRS, pairs)
    y, clamped = x.copy(), np.zeros_like(x)
    for k in np.unique(kappa):
        some = (rotate == 1) & (kappa == k)
        for i in range(PAIRS):
            mine = some & (pair == i)
            cosine, sine = formats.rope_coefficients(position[mine], table[[i]], int(k) or None)
            values, count = formats.rope(x.swapaxes(1, 2)[mine], cosine, sine)
            c, s, (a, b) = cosine[:, 0], sine[:, 0], x.swapaxes(1, 2)[mine].T
            exact = np.stack([a * c - b * s + 0x8000 >> 16, a * s + b * c + 0x8000 >> 16], axis=1)
            assert (values != exact).sum() == count
            y.swapaxes(1, 2)[mine], clamped.swapaxes(1, 2)[mine] = values, values != exact
    tag = rng.integers(0, 1 << TAG, x.shape)
    flat = lambda both: both.reshape(-1, LANES)  # noqa: E731
    twice = lambda one: np.repeat(one, 2, axis=0)  # noqa: E731
    found = await play(
        dut, random,
        {"in_value": -32, "in_tag": TAG, "in_rotate": 1, "in_kappa": 16, "in_pos": 20,
         "in_pair": PAIR_BITS},
        {"out_value": -32, "out_saturated": 1, "out_tag": TAG},
        [{"in_value": flat(x), "in_tag": flat(tag), "in_rotate": twice(rotate),
          "in_kappa": twice(kappa), "in_pos": twice(position), "in_pair": twice(pair)}],
        latency=Rope.LATENCY,
        setup=[{"cfg_we": (1 << LANES) - 1, "cfg_addr": pack([i] * LANES, PAIR_BITS),
                "cfg_data": pack([word] * LANES, 32)} for i, word in enumerate(table)],
    )  # fmt: skip
    assert (found["out_tag"] == flat(tag)).all()
    assert (found["out_value"] == flat(y)).all()
    assert (found["out_saturated"] == flat(clamped)).all() and clamped.any()


async def gated(dut: Any, random: Any, rng: np.random.Generator, shape: tuple[int, int]) -> None:
    near = rng.integers(-(14 << 16), 14 << 16, shape)
    gate = np.where(rng.random(shape) < 0.8, near, numbers(rng, shape, 32))
    up, shift = numbers(rng, shape, 32), rng.integers(0, 63, shape)
    tag = rng.integers(0, 1 << TAG, shape)
    none, one = np.zeros(shape, dtype=np.int64), np.ones(shape, dtype=np.int64)
    found = await play(
        dut, random,
        {"in_value": -32, "in_is_up": 1, "in_shift": 6, "in_tag": TAG},
        {"out_value": -32, "out_saturated": 1, "out_tag": TAG},
        [{"in_value": gate, "in_is_up": none},
         {"in_value": up, "in_is_up": one, "in_shift": shift, "in_tag": tag}],
        latency=UNITS["swiglu"]().latency,
    )  # fmt: skip
    assert (found["out_tag"] == tag).all()
    for each in range(63):
        some = shift == each
        value, count = formats.swiglu(gate[some], up[some], each, "silu")
        assert (found["out_value"][some] == value).all(), f"shift {each}"
        assert found["out_saturated"][some].sum() == count, f"shift {each}"


@cocotb.test()
async def values(dut: Any) -> None:
    given, random = parameters(), seeded()
    bench = {"drain": drained, "reciprocal": inverted, "rope": rotated, "swiglu": gated}[
        given["unit"]
    ]
    rng = np.random.default_rng(random.getrandbits(32))
    await bench(dut, random, rng, (given["values"] // LANES, LANES))


@pytest.mark.parametrize(
    "unit, values", [("drain", 20_000), *(deep(unit, MANY, id=unit) for unit in UNITS)]
)
def test_many_lanes(unit: str, values: int) -> None:
    block = SideBySide(UNITS[unit], LANES)
    run_block(block, __name__, parameters={"unit": unit, "values": values})
