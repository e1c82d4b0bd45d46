# amaranth: UnusedElaboratable=no
"""DotElement against sums in Python integers."""

from __future__ import annotations

import random
from typing import Any

import cocotb
import pytest

from tests.hw.attention.attention_bench import STALLS, Belt
from tests.hw.many import many_values
from tests.hw.words import pack
from tokenloom.hw.array.dot_element import DotElement
from tokenloom.sim.bench import parameters, run_block, seeded

STAGES = 5
W_PEAK, X_PEAK = 1 << 7, 1 << 8


class Beat:
    """One operand: the ports' values, where it goes, and what it adds."""

    def __init__(self, rng: random.Random, blocks: int, slots: int) -> None:
        lanes = 32 * blocks
        corner = rng.randrange(4)
        if corner == 0:  # the largest sum a block can have
            w, x = [-W_PEAK] * lanes, [-X_PEAK] * lanes
        elif corner == 1:
            w, x = [W_PEAK - 1] * lanes, [rng.choice((-X_PEAK, X_PEAK - 1))] * lanes
        else:
            w = [rng.randrange(-W_PEAK, W_PEAK) for _ in range(lanes)]
            x = [rng.randrange(-X_PEAK, X_PEAK) for _ in range(lanes)]
        # 22 bits of sum, 11 of mantissa, 6 of shift, 2 of blocks, 8 of beats: no overflow.
        mant, low = ([rng.randrange(-2047, 2048) for _ in range(blocks)] for _ in range(2))
        left, low_left, x_left = ([rng.randrange(top) for _ in range(blocks)] for top in (8, 8, 7))
        sums = [sum(x[32 * b : 32 * b + 32]) for b in range(blocks)]
        self.bank, self.slot, self.first = rng.randrange(2), rng.randrange(slots), rng.randrange(2)
        self.ports = {
            "w_codes": pack(w, 8),
            "w_mant": pack(mant, 12),
            "w_shift": pack(left, 5),
            "w_min_mant": pack(low, 12),
            "w_min_shift": pack(low_left, 5),
            "x_codes": pack(x, 9),
            "x_shift": pack(x_left, 6),
            "x_sum": pack(sums, 14),
        }
        self.adds = 0
        for b in range(blocks):
            dot = sum(w[i] * x[i] for i in range(32 * b, 32 * b + 32))
            self.adds += dot * mant[b] << (left[b] + x_left[b])
            self.adds += sums[b] * low[b] << (low_left[b] + x_left[b])


@cocotb.test()
@many_values(32 * 600, only=lambda: parameters()["lanes"] == 32)
async def sums(dut: Any) -> None:
    rng = seeded()
    slots = parameters()["slots"]
    blocks = parameters()["lanes"] // 32
    inputs = {name: len(getattr(dut, name)) for name in Beat(rng, blocks, slots).ports}
    inputs |= {"stage": STAGES, "first": 1, "bank": 1, "slot": len(dut.slot)}
    inputs |= {"read_bank": 1, "read_slot": len(dut.read_slot)}
    belt = Belt(dut, inputs, {"acc": 64}, strobes=("stage",), rng=rng)
    await belt.reset()
    held: dict[tuple[int, int], int] = {}
    checked = 0
    for stall in STALLS:
        belt.stall = stall
        line: list[Beat | None] = [None] * STAGES
        for _ in range(250):
            beat = Beat(rng, blocks, slots) if rng.random() < 0.8 else None
            line = [beat, *line[:-1]]
            item = {} if beat is None else dict(beat.ports)
            item["stage"] = pack((entry is not None for entry in line), 1)
            last = line[-1]
            if last is not None:
                place = last.bank, last.slot
                last.first |= place not in held
                item |= {"first": last.first, "bank": last.bank, "slot": last.slot}
                held[place] = (0 if last.first else held[place]) + last.adds
            read = rng.randrange(2), rng.randrange(slots)
            belt.drive(**item, read_bank=read[0], read_slot=read[1])
            acc = (await belt.next())["acc"]
            if read in held:
                assert acc == held[read] & ((1 << 64) - 1)
                checked += 1
    assert checked > 500


@pytest.mark.parametrize(("lanes", "slots"), [(32, 1), (64, 6)])
def test_dot_element(lanes: int, slots: int) -> None:
    values = {"lanes": lanes, "slots": slots}
    run_block(DotElement(**values), __name__, parameters=values)


@pytest.mark.parametrize("wrong", [{"lanes": 48}, {"slots": 65}])
def test_parameters(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DotElement(**({"lanes": 32, "slots": 2} | wrong))
