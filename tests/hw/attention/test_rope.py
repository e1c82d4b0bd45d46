# amaranth: UnusedElaboratable=no
"""Rope against formats.rope_coefficients and formats.rope."""

from __future__ import annotations

import random
from typing import Any

import cocotb
import pytest

from tests.deep import deep
from tests.hw.array.lane_bench import STALLS, Item, Lane, expect
from tokenloom.hw.attention.rope import Rope
from tokenloom.hw.numbers import formats
from tokenloom.hw.numbers.tables import rope_frequencies, score_factor
from tokenloom.sim.bench import parameters, run_block, seeded

TAG = 6
LOW, HIGH = -(2**31), 2**31 - 1


def frequencies(pairs: int) -> list[int]:
    return list(rope_frequencies(10000.0, 2 * pairs))


def some_value(rng: random.Random) -> int:
    pick = rng.random()
    if pick < 0.1:
        return rng.choice((LOW, HIGH, 0, 1, -1))
    return rng.getrandbits(rng.randrange(1, 32)) * rng.choice((1, -1))


def heads(pairs: int, rng: random.Random) -> list[list[dict[str, Any]]]:
    """Heads as lists of pairs: plain keys, scaled queries and passing values, mixed."""
    kappas = [0, score_factor(2 * pairs)[0], 1 << 15, 65535]
    found = []
    for number in range(40):
        head = []
        position = rng.choice((0, 1, number, rng.getrandbits(11), (1 << 20) - 1))
        kappa = kappas[number % 4]
        rotate = int(number % 7 != 3)
        for pair in range(pairs):
            values = [some_value(rng), some_value(rng)]
            if number < 6:
                # Largest values: the sum leaves 32 bits.
                values = [rng.choice((LOW, HIGH)), rng.choice((LOW, HIGH))]
            head.append(
                {
                    "values": values,
                    "pair": pair,
                    "pos": position,
                    "kappa": kappa,
                    "rotate": rotate,
                }
            )
        found.append(head)
    return found


def outputs_of(pair: dict[str, Any], table: list[int]) -> list[tuple[int, int]]:
    """(value, saturated) of the pair's two outputs."""
    if not pair["rotate"]:
        return [(value, 0) for value in pair["values"]]
    cosine, sine = formats.rope_coefficients(
        pair["pos"], [table[pair["pair"]]], pair["kappa"] or None
    )
    rotated, _ = formats.rope(pair["values"], cosine, sine)
    # Which of the two was clamped: formats counts pairs' values together.
    x0, x1, c, s = *pair["values"], int(cosine[0]), int(sine[0])
    exact = [(x0 * c - x1 * s + 0x8000) >> 16, (x0 * s + x1 * c + 0x8000) >> 16]
    return [(int(y), int(y != e)) for y, e in zip(rotated, exact, strict=True)]


@cocotb.test()
async def lane(dut: Any) -> None:
    rng = seeded()
    pairs = parameters()["pairs"]
    bits = max(1, (pairs - 1).bit_length())
    inputs = {
        "in_valid": 1,
        "in_value": -32,
        "in_tag": TAG,
        "in_rotate": 1,
        "in_kappa": 16,
        "in_pos": 20,
        "in_pair": bits,
        "cfg_we": 1,
        "cfg_addr": bits,
        "cfg_data": 32,
    }
    outputs = {"out_valid": 1, "out_value": -32, "out_tag": TAG, "out_saturated": 1}
    bench = Lane(dut, inputs, outputs, rng=rng, valid=("in_valid", "cfg_we"))
    await bench.reset()
    table = frequencies(pairs)
    writes: list[Item | None] = [
        {"cfg_we": 1, "cfg_addr": i, "cfg_data": value} for i, value in enumerate(table)
    ]
    assert await bench.run(writes, stall=0.5) == []
    for stall in STALLS:
        for gap in (0.0, 0.5):
            cycles: list[Item | None] = []
            expected = []
            for head in heads(pairs, rng):
                for pair in head:
                    while rng.random() < gap:
                        cycles.append(None)
                    for place, (value, saturated) in enumerate(outputs_of(pair, table)):
                        item = {
                            "in_valid": 1,
                            "in_value": pair["values"][place],
                            "in_tag": rng.getrandbits(TAG),
                            "in_rotate": pair["rotate"],
                        }
                        if place == 0:
                            # The odd value's copies are not looked at: noise there.
                            item |= {f"in_{n}": pair[n] for n in ("kappa", "pos", "pair")}
                        elif not pair["rotate"] and rng.random() < gap:
                            cycles.append(None)
                        result = {
                            "out_valid": 1,
                            "out_value": value,
                            "out_tag": item["in_tag"],
                            "out_saturated": saturated,
                        }
                        expected.append((len(cycles) + Rope.LATENCY, result))
                        cycles.append(item)
            assert {item["out_saturated"] for _, item in expected} == {0, 1}
            expect(await bench.run(cycles, stall=stall), expected)


@pytest.mark.parametrize("pairs", [1, deep(4), 32])
def test_rope(pairs: int) -> None:
    run_block(Rope(pairs_max=pairs, tag_bits=TAG), __name__, parameters={"pairs": pairs})


def test_parameters() -> None:
    with pytest.raises(ValueError, match="tag_bits = 0"):
        Rope(pairs_max=4, tag_bits=0)
    with pytest.raises(ValueError, match="pairs_max = 0"):
        Rope(pairs_max=0, tag_bits=4)
