# amaranth: UnusedElaboratable=no
"""Quantiser against formats.mx_quantise."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import cocotb
import pytest

from tests.coverage import Coverage
from tests.hw.array.lane_bench import STALLS, Item, Lane, expect, spread
from tests.hw.many import many_values
from tests.hw.words import pack
from tokenloom.hw.array.quantiser import Quantiser
from tokenloom.hw.kv.kv_pack import pack_codes
from tokenloom.hw.numbers import formats
from tokenloom.sim.bench import parameters, run_block, seeded

TAG = 5
INPUTS = {"in_valid": 1, "in_values": 1024, "in_floor": 5, "in_narrow": 1}
OUTPUTS = {
    "out_valid": 1,
    "out_codes": 288,
    "narrow_codes": 256,
    "out_sx": 6,
    "out_sum": -14,
}
LOW, HIGH = -(2**31), 2**31 - 1


def corners() -> list[tuple[list[int], int]]:
    """(block, floor) pairs."""
    blocks = [[0] * 32, [LOW] * 32, [HIGH] * 32, [-1] * 32, [LOW, HIGH] * 16]
    for bit in range(31):
        place = bit * 5 % 32
        # One hot; just below a power of two (the clamp); the same, negative.
        for value in (1 << bit, (2 << bit) - 1, -(1 << bit), -(1 << bit) - 1):
            blocks.append([value if i == place else 0 for i in range(32)])
    for bit in range(32):
        blocks.append([HIGH if i == bit else LOW + 1 for i in range(32)])
    found = [(block, 0) for block in blocks]
    found += [(block, floor) for block in blocks[:5] for floor in range(21)]
    # Halves on both sides of zero, under each floor.
    found += [([(i - 16) << floor >> 1 for i in range(32)], floor) for floor in range(21)]
    return found


def some_block(rng: random.Random) -> tuple[list[int], int]:
    top = rng.randrange(1, 32)
    return [rng.randrange(-(1 << top), 1 << top) for _ in range(32)], rng.randrange(21)


def cover(seen: Coverage, block: list[int], floor: int, bits: int, shift: int, total: int) -> None:
    """The points that a block of codes of `bits` bits hits."""
    top = 1 << bits - 1
    need = max(0, max(v if v >= 0 else ~v for v in block).bit_length() - (bits - 1))
    half = 1 << shift - 1 if shift else 0
    rest = (1 << shift) - 1
    seen.sample(
        zero_block=not any(block),
        no_shift=shift == 0,
        below_floor=need < floor,
        at_floor=need == floor > 0,
        above_floor=need > floor > 0,
        largest_shift=shift == 32 - bits,
        clamped=any((v + half) >> shift >= top for v in block),
        lowest_code=any((v + half) >> shift == -top for v in block),
        half=shift and any(v > 0 and v & rest == half for v in block),
        half_of_negative=shift and any(v < 0 and v & rest == half for v in block),
        lowest_sum=total == -top * len(block),
    )


POINTS = (
    "zero_block", "no_shift", "below_floor", "at_floor", "above_floor", "largest_shift", "clamped",
    "lowest_code", "half", "half_of_negative", "lowest_sum",
)  # fmt: skip


@cocotb.test()
@many_values(6 * 150 * 32)
async def lane(dut: Any) -> None:
    rng = seeded()
    given = parameters()
    bits, tag = given["kv_bits"], given["tag_bits"]
    outputs = {**OUTPUTS, "narrow_codes": 32 * bits, "out_tag": tag}
    bench = Lane(dut, {**INPUTS, "in_tag": tag}, outputs, rng=rng)
    await bench.reset()
    seen = {narrow: Coverage(*POINTS, least=3) for narrow in (0, 1)}
    order = Coverage(
        *(f"{a}_after_{b}" for a in ("narrow", "wide", "gap") for b in ("narrow", "wide", "gap")),
        least=20,
    )
    for stall in given.get("stalls", STALLS):
        for gap in (0.0, 0.5):
            cases = [(*corner, narrow) for corner in corners() for narrow in (0, 1) if gap == 0.0]
            cases += [(*some_block(rng), rng.randrange(2)) for _ in range(150)]
            blocks = [
                (
                    block,
                    {
                        "in_valid": 1,
                        "in_floor": floor,
                        "in_narrow": narrow,
                        "in_tag": rng.getrandbits(tag),
                    },
                )
                for block, floor, narrow in cases
            ]
            items: list[Item] = [{**rest, "in_values": pack(block, 32)} for block, rest in blocks]
            results = []
            for block, rest in blocks:
                codes, shift, total = formats.mx_quantise(
                    block,
                    rest["in_floor"],
                    bits if rest["in_narrow"] else formats.ACTIVATION_BITS,
                )
                cover(
                    seen[rest["in_narrow"]],
                    block,
                    rest["in_floor"],
                    bits if rest["in_narrow"] else formats.ACTIVATION_BITS,
                    int(shift) + rest["in_floor"],
                    int(total),
                )
                low = [int(code) for code in codes]
                if rest["in_narrow"]:
                    # What the port carries is what lies in memory.
                    stored = bytes(pack_codes(codes, bits))
                    assert pack(low, bits) == int.from_bytes(stored, "little")
                results.append(
                    {
                        "out_valid": 1,
                        "out_codes": pack(low, 9),
                        "narrow_codes": pack(low, bits),
                        "out_sx": int(shift),
                        "out_sum": int(total),
                        "out_tag": rest["in_tag"],
                    }
                )
            cycles = spread(items, rng, gap)
            places = [i for i, item in enumerate(cycles) if item is not None]
            expected = [
                (cycle + Quantiser.LATENCY, result)
                for cycle, result in zip(places, results, strict=True)
            ]
            kinds = [("narrow" if c["in_narrow"] else "wide") if c else "gap" for c in cycles]
            for before, now in pairwise(kinds):
                order.hit(f"{now}_after_{before}")
            expect(await bench.run(cycles, stall=stall), expected)
    for coverage in (*seen.values(), order):
        coverage.check()


@pytest.mark.parametrize("kv_bits", [8, 4])
def test_quantiser(kv_bits: int) -> None:
    given = {"tag_bits": TAG, "kv_bits": kv_bits}
    run_block(Quantiser(**given), __name__, parameters=given)


def test_parameters() -> None:
    with pytest.raises(ValueError, match="tag_bits = 0"):
        Quantiser(tag_bits=0)
    with pytest.raises(ValueError, match="kv_bits = 5"):
        Quantiser(tag_bits=1, kv_bits=5)
