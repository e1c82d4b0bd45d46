"""The operand buffer: what was written comes back two cycles after the question."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
import pytest

from tests.hw.belt_bench import STALLS, Belt
from tests.hw.words import pack
from tokenloom.hw.array.operand_buffer import OPERAND_SUM, OperandBuffer
from tokenloom.hw.numbers import formats
from tokenloom.sim.bench import parameters, run_block, seeded

INPUTS = (
    "we addr codes sx sum cfg_we cfg_addr cfg_data p_we p_addr p_hi p_lo p_sx "
    "read_addr read_values read_digit read_mask"
).split()
CORNERS = (-256, 255, 0, -1)


@cocotb.test()
async def reads_and_writes(dut: Any) -> None:
    rng = seeded()
    given = parameters()
    belt = Belt(
        dut,
        {name: len(getattr(dut, name)) for name in INPUTS},
        {name: len(getattr(dut, name)) for name in ("x_codes", "x_shift", "x_sum")},
        strobes=("we", "cfg_we", "p_we"),
        rng=rng,
    )
    await belt.reset()
    per_beat = given["beat_blocks"]
    operands: dict[int, dict[str, int]] = {}
    digits: dict[int, tuple[dict[str, int], dict[str, int]]] = {}

    def beat_of(held: Any, beat: int, mask: int, digit: int | None) -> dict[str, int]:
        """A beat's blocks side by side, those outside of the mask without codes."""
        blocks = [held[beat * per_beat + b] for b in range(per_beat)]
        if digit is not None:
            blocks = [block[digit] for block in blocks]
        bits = {"x_codes": 9 * 32, "x_shift": 6, "x_sum": formats.SUM_BITS}
        shown = {name: 0 for name in bits}
        for b, block in enumerate(blocks):
            for name, size in bits.items():
                if name != "x_codes" or mask >> b & 1:
                    shown[name] |= block[name] << size * b
        return shown

    def whole(held: Any) -> list[int]:
        """Beats whose blocks are all known."""
        beats = {block // per_beat for block in held}
        return sorted(
            beat for beat in beats if all(beat * per_beat + b in held for b in range(per_beat))
        )

    line: list[dict[str, int] | None] = [None] * OperandBuffer.LATENCY
    fresh: tuple[bool, int] | None = None
    checked = at_once = 0
    for cycle in range(1500):
        belt.stall = STALLS[cycle // 500]
        found = await belt.next()
        want = line.pop(0)
        if want is not None:
            assert found == want, cycle
            checked += 1
        item: dict[str, int] = {}

        # A question, often about what was written in the last cycle.
        values = rng.random() < 0.5
        known = whole(digits if values else operands)
        asked = None
        if fresh is not None and rng.random() < 0.6:
            held = digits if fresh[0] else operands
            if fresh[1] // per_beat in whole(held):
                values, asked = fresh[0], fresh[1] // per_beat
                at_once += 1
        if asked is None and known:
            asked = rng.choice(known)
        fresh = None
        if asked is None:
            line.append(None)
        else:
            digit = rng.getrandbits(1)
            mask = rng.getrandbits(per_beat)
            item |= {"read_addr": asked, "read_values": int(values), "read_digit": digit}
            item["read_mask"] = mask
            held = digits if values else operands
            line.append(beat_of(held, asked, mask, digit if values else None))

        if rng.random() < 0.6:
            addr = rng.randrange(given["blocks"])
            if (addr // per_beat, False) != (asked, values):
                codes = [rng.choice((*CORNERS, rng.randrange(-256, 256))) for _ in range(32)]
                sx = rng.randrange(formats.ACTIVATION_SHIFT_MAX + 1)
                total = sum(codes)
                item |= {"we": 1, "addr": addr, "codes": pack(codes, 9), "sx": sx, "sum": total}
                item["sum"] &= (1 << formats.SUM_BITS) - 1
                operands[addr] = {
                    "x_codes": item["codes"], "x_shift": sx, "x_sum": item["sum"]
                }  # fmt: skip
                fresh = False, addr
                if rng.random() < 0.3:  # the same by way of the configuration
                    word = item["codes"] | sx << 288 | item["sum"] << OPERAND_SUM
                    item |= {"we": 0, "cfg_we": 1, "cfg_addr": addr, "cfg_data": word}
                    item["addr"] = rng.randrange(given["blocks"])
        if rng.random() < 0.6:
            addr = rng.randrange(given["p_blocks"])
            if (addr // per_beat, True) != (asked, values):
                weights = [rng.getrandbits(42) >> rng.randrange(42) for _ in range(32)]
                probs, shift = formats.prob_quantise(np.array(weights, dtype=np.int64))
                high, low = formats.prob_split(probs)
                sx = int(shift)
                item |= {
                    "p_we": 1, "p_addr": addr, "p_hi": pack(high, 8), "p_lo": pack(low, 8),
                    "p_sx": sx,
                }  # fmt: skip
                digits[addr] = (
                    {"x_codes": pack(high, 9), "x_shift": sx + 8, "x_sum": 0},
                    {"x_codes": pack(low, 9), "x_shift": sx, "x_sum": 0},
                )
                fresh = True, addr
        belt.drive(**item)
    assert checked > 1000 and at_once > 300


@pytest.mark.parametrize(("blocks", "p_blocks", "beat_blocks"), [(11, 4, 1), (6, 24, 2)])
def test_operand_buffer(blocks: int, p_blocks: int, beat_blocks: int) -> None:
    given = {"blocks": blocks, "p_blocks": p_blocks, "beat_blocks": beat_blocks}
    run_block(OperandBuffer(**given), __name__, parameters=given)


def test_whole_beats() -> None:
    with pytest.raises(ValueError, match="p_blocks is 6; allowed: multiples of beat_blocks = 4"):
        OperandBuffer(blocks=8, p_blocks=6, beat_blocks=4)
