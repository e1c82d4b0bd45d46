# amaranth: UnusedElaboratable=no
"""A million values through HeadNorm, 32 of them side by side; test_head_norm has one's corners."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import cocotb
import numpy as np
import pytest

from tests.deep import deep
from tests.hw.attention.test_head_norm import INPUTS, OUTPUTS, TAG
from tests.hw.many import MANY
from tests.hw.side_by_side import Lanes, SideBySide
from tests.hw.words import words
from tokenloom.hw.attention.head_norm import HeadNorm
from tokenloom.hw.numbers import formats as fx
from tokenloom.sim.bench import parameters, run_block, seeded

LANES, HEAD_MAX = 32, 64
SIZES = (2, 4, 32, HEAD_MAX)
LOW, HIGH = -(2**31), 2**31 - 1


class Heads(NamedTuple):
    """What goes in: arrays [heads, lanes], `values` [heads, lanes, size], `eps` per lane."""

    values: np.ndarray
    eps: list[int]
    gains: np.ndarray  # [lanes, tags, size]
    normed: np.ndarray
    tag: np.ndarray
    last: np.ndarray
    index: np.ndarray  # of the head's first value


def some_heads(rng: np.random.Generator, random: random.Random, heads: int, size: int) -> Heads:
    """Large or small, flat or with one outlier, or all zeros."""
    shape = (heads, LANES)
    values = rng.integers(LOW, HIGH, (*shape, size), endpoint=True)
    values >>= rng.integers(0, 32, (*shape, 1))
    kind = rng.integers(0, 6, shape)[..., None]
    end = rng.choice((LOW, HIGH), (*shape, 1))
    here = np.arange(size) == rng.integers(0, size, (*shape, 1))
    values = np.where(kind == 0, 0, values)
    values = np.where((kind == 1) & here | (kind == 2), end, values)
    some = (LANES, 1 << TAG, size)
    gains = rng.integers(-32767, 32767, some, endpoint=True)
    gains = np.where(rng.random(some) < 0.75, rng.choice((32767, -32767, 0), some), gains)
    first = rng.integers(0, 1000, LANES) * size
    return Heads(
        values=values,
        eps=[random.choice((1, 1 << 16, random.getrandbits(60) + 1)) for _ in range(LANES)],
        gains=gains,
        normed=(rng.random(shape) < 0.8).astype(np.int64),
        tag=rng.integers(0, 1 << TAG, shape),
        last=rng.integers(0, 2, shape),
        index=(first + size * np.arange(heads)[:, None]) % (1 << 20),
    )


def clamped_norm(
    stream: np.ndarray, gain: np.ndarray, y: np.ndarray, k: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`formats.norm`, and which values it clamps; it says how many."""
    value, count = fx.norm(stream, gain, y, k)
    at_end = (value == LOW) | (value == HIGH)
    if count != at_end.sum():  # not clamped and still at an end: ask value by value
        for i, j in np.argwhere(at_end):
            at_end[i, j] = fx.norm(stream[i : i + 1, [j]], gain[i, j], y[[i]], k[[i]])[1]
    assert count == at_end.sum()
    return value, at_end


def normed_heads(given: Heads) -> tuple[np.ndarray, np.ndarray]:
    """The values behind the norm and whether they saturated, [heads, lanes, size]."""
    values, saturated = given.values.copy(), np.zeros_like(given.values)
    for lane in range(LANES):
        some = given.normed[:, lane] == 1
        stream, gain = given.values[some, lane], given.gains[lane, given.tag[some, lane]]
        if not len(stream):
            continue
        y, k = fx.rsqrt_rows(fx.norm_sums(fx.sum_squares(stream), given.eps[lane]))
        values[some, lane], saturated[some, lane] = clamped_norm(stream, gain, y, k)
    return values, saturated


def by_cycle(heads: np.ndarray, bits: int, size: int) -> list[int]:
    """A port's words, value by value, of [heads, lanes] or [heads, lanes, size]."""
    if heads.ndim == 2:
        return [word for word in words(heads, bits) for _ in range(size)]
    return words(heads.swapaxes(1, 2).reshape(-1, LANES), bits)


async def play(belt: Lanes, given: Heads, gap: float) -> None:
    heads, _, size = given.values.shape
    index = (given.index[..., None] + np.arange(size)) % (1 << 20)
    last = given.last[..., None] * (np.arange(size) == size - 1)
    feed = {
        "in_value": by_cycle(given.values, 32, size), "in_index": by_cycle(index, 20, size),
        "in_last": by_cycle(last, 1, size), "in_normed": by_cycle(given.normed, 1, size),
        "in_tag": by_cycle(given.tag, TAG, size),
    }  # fmt: skip
    values, saturated = normed_heads(given)
    want = {
        "out_value": by_cycle(values, 32, size), "out_index": by_cycle(index, 20, size),
        "out_last": by_cycle(last, 1, size), "out_tag": by_cycle(given.tag, TAG, size),
        "out_saturated": by_cycle(saturated, 1, size),
    }  # fmt: skip
    belt.drive(head_size=[size] * LANES, eps=given.eps)
    lanes = np.arange(LANES)
    expected: dict[int, int] = {}
    sent = seen = cycle = 0
    answer: Any = None
    coming: Any = None
    while sent < heads * size or expected:
        item: dict[str, Any] = {}
        if sent < heads * size and belt.rng.random() >= gap:
            item = {"in_valid": belt.every, **{name: feed[name][sent] for name in feed}}
            sent += 1
            if sent % size == 0:
                done = cycle + HeadNorm.latency(size) - size + 1
                expected |= {done + i: sent - size + i for i in range(size)}
        belt.drive(**item, **({} if answer is None else {"gain": answer}))
        await belt.next()
        cycle += 1

        asked = belt.word("gain_read")
        assert asked in (0, belt.every), f"cycle {cycle}: some lanes ask for a gain: {asked:b}"
        answer, coming = coming, None
        if asked:
            tag, dim = belt.read("gain_tag"), belt.read("gain_dim")
            coming = given.gains[lanes, tag, dim].tolist()

        place = expected.pop(cycle, None)

        def about(lane: int, place: int | None = place, cycle: int = cycle) -> str:
            if place is None:
                return f"cycle {cycle}, where nothing comes"
            head, dim = divmod(place, size)
            return (
                f"value {dim} of head {head}, {size} in a head, eps {given.eps[lane]}, "
                f"normed {given.normed[head, lane]}, tag {given.tag[head, lane]}"
            )

        if place is None:
            belt.same("out_valid", 0, about)
            belt.same("out_saturated", 0, about)
            continue
        belt.same("out_valid", belt.every, about)
        for name in want:
            belt.same(name, want[name][place], about)
        seen += 1
    assert seen == heads * size


@cocotb.test()
async def norms(dut: Any) -> None:
    random = seeded()
    rng = np.random.default_rng(random.getrandbits(32))
    belt = Lanes(
        dut, random, LANES, INPUTS,
        {**OUTPUTS, "gain_read": 1, "gain_dim": (HEAD_MAX - 1).bit_length(), "gain_tag": TAG},
        strobes=("in_valid",), stable=("head_size", "eps"),
    )  # fmt: skip
    values, compared = parameters()["values"], 0
    plays = [(size, stall) for size in SIZES for stall in (0.0, 0.2)]
    for size, stall in plays:
        heads = -(-values // (LANES * size * len(plays)))
        belt.stall = stall
        await belt.reset()
        await play(belt, some_heads(rng, random, heads, size), gap=stall)
        compared += heads * LANES * size
    assert compared >= values
    print(f"{compared} values compared")


@pytest.mark.parametrize("values", [deep(MANY, id="many")])
def test_head_norm_lanes(values: int) -> None:
    block = SideBySide(lambda: HeadNorm(head_max=HEAD_MAX, tag_bits=TAG), LANES)
    run_block(block, __name__, parameters={"values": values})
