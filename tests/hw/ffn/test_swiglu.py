# amaranth: UnusedElaboratable=no
"""Swiglu against formats.swiglu."""

from __future__ import annotations

import random
from typing import Any

import cocotb
import pytest

from tests.deep import deep
from tests.hw.array.lane_bench import STALLS, Item, Lane, expect
from tokenloom.hw.ffn.swiglu import Swiglu
from tokenloom.hw.numbers import formats
from tokenloom.sim.bench import parameters, run_block, seeded

TAG = 9
INPUTS = {"in_valid": 1, "in_value": -32, "in_shift": 6, "in_tag": TAG}
OUTPUTS = {"out_valid": 1, "out_value": -32, "out_tag": TAG, "out_saturated": 1}
LOW, HIGH = -(2**31), 2**31 - 1


def corners() -> list[tuple[int, int, int]]:
    """(gate, up, shift): every segment's ends on both sides of zero, and the largest values."""
    edges = [k << 15 for k in range(9)] + [k << 16 for k in range(5, 14)]
    gates = [s * (edge + d) for edge in edges for d in (-1, 0, 1) for s in (1, -1)]
    found = [(gate, 1 << 16, 16) for gate in gates]
    extremes = (LOW, LOW + 1, -1, 0, 1, HIGH)
    found += [(g, u, s) for g in extremes for u in extremes for s in (0, 1, 16, 31, 32, 61, 62)]
    return found


def some_case(rng: random.Random) -> tuple[int, int, int]:
    gate = rng.randrange(-(14 << 16), 14 << 16) if rng.random() < 0.8 else rng.randrange(LOW, HIGH)
    up = rng.getrandbits(rng.randrange(1, 32)) * rng.choice((1, -1))
    return gate, up, rng.randrange(63)


@cocotb.test()
async def lane(dut: Any) -> None:
    rng = seeded()
    unit = Swiglu(tag_bits=TAG, **(given := parameters()))
    gated, activation = given["gated"], given["activation"]
    bench = Lane(dut, {**INPUTS, **({"in_is_up": 1} if gated else {})}, OUTPUTS, rng=rng)
    await bench.reset()
    for stall in STALLS:
        for gap in (0.0, 0.5):
            cases = corners() if gap == 0.0 else []
            cases += [some_case(rng) for _ in range(300)]
            cycles: list[Item | None] = []
            expected = []
            for gate, up, shift in cases:
                tag = rng.getrandbits(TAG)
                while rng.random() < gap:
                    cycles.append(None)
                if gated:
                    # Shift and tag count with the up value only: noise before.
                    cycles.append({"in_valid": 1, "in_value": gate, "in_is_up": 0})
                    while rng.random() < gap:
                        cycles.append(None)
                else:
                    up = 1 << 16
                value, count = formats.swiglu(gate, up, shift, activation)
                result = {
                    "out_valid": 1,
                    "out_value": int(value),
                    "out_tag": tag,
                    "out_saturated": count,
                }
                expected.append((len(cycles) + unit.latency, result))
                cycles.append(
                    {
                        "in_valid": 1,
                        "in_value": up if gated else gate,
                        **({"in_is_up": 1} if gated else {}),
                        "in_shift": shift,
                        "in_tag": tag,
                    }
                )
            assert {item["out_saturated"] for _, item in expected} == {0, 1}
            expect(await bench.run(cycles, stall=stall), expected)


CASES = [
    ("silu", 3, True),
    ("gelu", 2, False),
    deep("silu", 1, True),
    deep("silu", 2, True),
    deep("gelu_tanh", 5, True),
]


@pytest.mark.parametrize("activation, stages, gated", CASES)
def test_swiglu(activation: str, stages: int, gated: bool) -> None:
    given = {"activation": activation, "stages": stages, "gated": gated}
    run_block(Swiglu(tag_bits=TAG, **given), __name__, parameters=given)


def test_the_chip_has_the_default() -> None:
    assert Swiglu(tag_bits=TAG).latency == Swiglu.LATENCY == 5


def test_parameters() -> None:
    with pytest.raises(ValueError, match="tag_bits = 0"):
        Swiglu(tag_bits=0)
