# amaranth: UnusedElaboratable=no
"""Context against formats.context."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
import pytest

from tests.hw.array.lane_bench import STALLS, Item, Lane, expect
from tests.hw.many import many_values
from tests.hw.words import pack
from tokenloom.hw.attention.context_lane import ContextLane
from tokenloom.hw.numbers import formats
from tokenloom.sim.bench import parameters, run_block, seeded


@cocotb.test()
@many_values(6000, only=lambda: parameters()["head_max"] == 32)
async def lane(dut: Any) -> None:
    rng = seeded()
    p = parameters()
    width, slots, bits = p["drain"], p["slot_groups"], p["acc_bits"]
    slot_bits, dim_bits = len(dut.in_slot), len(dut.in_dim)
    inputs = {
        "den_valid": 1,
        "den_bank": 1,
        "den_slot": slot_bits,
        "den": formats.DEN_BITS,
        "in_valid": 1,
        "in_accs": bits * width,
        "in_bank": 1,
        "in_slot": slot_bits,
        "in_dim": dim_bits,
        "in_floor_v": 5,
    }
    outputs = {
        "out_valid": 1,
        "out_values": 32 * width,
        "out_slot": slot_bits,
        "out_dim": dim_bits,
        "out_saturated": 1,
    }
    head_max = p.get("head_max", 0)
    if head_max:
        inputs |= {"in_place": len(dut.in_place), "in_opens": 1, "in_closes": 1}
    bench = Lane(dut, inputs, outputs, rng=rng, valid=("in_valid", "den_valid"))
    await bench.reset()

    def some_den() -> int:
        top = rng.choice((18, 18, 20, 25, 30, 35))
        return rng.choice(((1 << top) - 1, 1 << (top - 1), rng.randrange(1 << (top - 1), 1 << top)))

    known: dict[tuple[int, int], int] = {}  # denominators as accumulators see them
    saturations = 0
    sums: dict[tuple[int, int], Any] = {}  # (slot, first dim in the head): of the chunks so far
    floors: dict[tuple[int, int], int] = {}
    latest: tuple[int, int] | None = None
    divided = 0
    for stall in STALLS:
        on_the_way: dict[int, tuple[tuple[int, int], int]] = {}
        cycles: list[Item | None] = []
        expected = []
        for cycle in range(400):
            item: Item = {}
            if cycle in on_the_way:
                place, den = on_the_way.pop(cycle)
                known[place] = den
            # First every slot once, then a new denominator now and then, of slots in use too.
            if cycle < 2 * slots or rng.random() < 0.2:
                index = cycle if cycle < 2 * slots else rng.randrange(2 * slots)
                place = index % 2, index // 2
                den = some_den()
                item |= {"den_valid": 1, "den_bank": place[0], "den_slot": place[1], "den": den}
                on_the_way[cycle + ContextLane.DEN_LATENCY] = place, den
            before, latest = latest, None
            if cycle >= 2 * slots + ContextLane.DEN_LATENCY and rng.random() < 0.8:
                place = rng.choice(sorted(known))
                floor = rng.choice((0, 0, 1, 7, 17))
                opens = closes = True
                if head_max:
                    latest = place[1], rng.randrange(head_max // width) * width
                    going = sorted(at for at in sums if at != before)  # again after two cycles
                    if latest == before or (going and rng.random() < 0.7):
                        latest = rng.choice(going) if going else None
                if head_max and latest:
                    place = place[0], latest[0]
                    opens, closes = latest not in sums or rng.random() < 0.1, rng.random() < 0.4
                    floor = floor if opens else floors[latest]
                nd = int(formats.denominator_bits(known[place]))
                # Up to what fits 63 bits; mostly in range after the division.
                top = min(bits - 1, 62 - floor, rng.choice((30 + nd - floor, 31 + nd, 62)))
                top -= 6 if head_max else 0  # sums of up to 64 chunks
                accs = [rng.randrange(-(1 << top), 1 << top) for _ in range(width)]
                if rng.random() < 0.1:
                    accs = [rng.choice((-(1 << top), (1 << top) - 1, 0, -1)) for _ in accs]
                total = np.array(accs, dtype=np.int64)
                if head_max and latest is None:
                    cycles.append(item)
                    continue
                if latest:
                    total = total if opens else total + sums[latest]
                    sums[latest], floors[latest] = total, floor
                    if closes:
                        del sums[latest]
                dim = rng.getrandbits(dim_bits)
                item |= {
                    "in_valid": 1,
                    "in_accs": pack(accs, bits),
                    "in_bank": place[0],
                    "in_slot": place[1],
                    "in_dim": dim,
                    "in_floor_v": floor,
                }
                if latest:
                    item |= {"in_place": latest[1], "in_opens": opens, "in_closes": closes}
                if closes:
                    values, count = formats.context(total, known[place], floor)
                    saturations += count
                    divided += not opens
                    result = {
                        "out_valid": 1,
                        "out_values": pack(values, 32),
                        "out_slot": place[1],
                        "out_dim": dim,
                        "out_saturated": int(count > 0),
                    }
                    expected.append((cycle + ContextLane.LATENCY, result))
            cycles.append(item)
        expect(await bench.run(cycles, stall=stall), expected)
        for _, (place, den) in sorted(on_the_way.items()):
            known[place] = den
    assert saturations > 0
    assert bool(head_max) == (divided > 20)


@pytest.mark.parametrize(
    ("drain", "slot_groups", "acc_bits", "head_max"),
    [(2, 2, 64, 0), (8, 3, 48, 0), (2, 2, 64, 6), (8, 3, 64, 32)],
)
def test_context(drain: int, slot_groups: int, acc_bits: int, head_max: int) -> None:
    values = {
        "drain": drain,
        "slot_groups": slot_groups,
        "width_max": 64,
        "acc_bits": acc_bits,
        "head_max": head_max,
    }
    run_block(ContextLane(**values), __name__, parameters=values)


@pytest.mark.parametrize(
    "wrong",
    [
        {"drain": 0},
        {"slot_groups": 0},
        {"width_max": 1},
        {"acc_bits": 39},
        {"head_max": 3},
        {"head_max": 66},
        {"drain": 3, "head_max": 6},
    ],
)
def test_parameters(wrong: dict[str, int]) -> None:
    values = {"drain": 2, "slot_groups": 2, "width_max": 64, "acc_bits": 64} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ContextLane(**values)
