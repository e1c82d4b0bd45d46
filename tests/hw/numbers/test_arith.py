"""The helpers of hw/numbers/arith.py, each an output of one small block, against integers."""

from __future__ import annotations

from typing import Any

import cocotb
import pytest
from amaranth.hdl import Const, Module, Signal, signed
from amaranth.lib.wiring import In, Out

from tests.hw.array.lane_bench import STALLS, Item, Lane, expect, spread
from tests.hw.words import to_signed
from tokenloom.hw.numbers.arith import bit_length, or_tree, round_shift, sat32, sum_tree
from tokenloom.hw.verilog.block import Block
from tokenloom.sim.bench import run_block, seeded

CONSTANTS = (0, 1, 7, 15, 16, 17)  # shifts of the 16-bit operand
LENGTHS = (1, 2, 3, 31, 32, 33, 48)
INPUTS = {"in_valid": 1, "in_wide": -64, "in_shift": 6, "in_narrow": 16, "in_far": 6}
OUTPUTS = {
    "out_valid": 1,
    "out_wide": -64,
    "out_unsigned": 64,
    "out_narrow": -16,
    "out_value": -32,
    "out_clamped": 1,
    "out_or": 8,
    "out_sum": -11,
    **{f"out_constant{s}": -16 for s in CONSTANTS},
    **{f"out_length{n}": n.bit_length() for n in LENGTHS},
}


def rs(value: int, shift: int) -> int:
    return (value + (1 << shift >> 1)) >> shift


class ArithProbe(Block):
    """Registers each helper's result."""

    def __init__(self) -> None:
        def shape(bits: int) -> Any:
            return signed(-bits) if bits < 0 else bits

        super().__init__(
            {name: In(shape(bits)) for name, bits in INPUTS.items()}
            | {name: Out(shape(bits)) for name, bits in OUTPUTS.items()}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        narrow = Signal(signed(16))
        m.d.comb += narrow.eq(self.in_narrow)
        value, saturated = sat32(self.in_wide)
        bytes_ = [self.in_wide[8 * i : 8 * i + 8] for i in range(7)]
        results = {
            "wide": round_shift(self.in_wide, self.in_shift),
            "unsigned": round_shift(self.in_wide.as_unsigned(), self.in_shift),
            # A shift may be larger than the operand.
            "narrow": round_shift(narrow, self.in_far),
            "value": value,
            "clamped": saturated,
            "or": or_tree(bytes_),
            "sum": sum_tree(b.as_signed() for b in bytes_),
            **{f"constant{s}": round_shift(narrow, s) for s in CONSTANTS},
            **{f"length{n}": bit_length(self.in_wide[:n]) for n in LENGTHS},
        }
        m.d.sync += self.out_valid.eq(self.in_valid)
        for name, result in results.items():
            port = getattr(self, f"out_{name}")
            # No helper's result is wider than it has to be.
            assert len(result) <= len(port), f"{name}: {len(result)} bits"
            with m.If(self.in_valid):
                m.d.sync += port.eq(result)
        return m


def results_of(item: Item) -> Item:
    wide, shift = item["in_wide"], item["in_shift"]
    narrow = to_signed(item["in_narrow"], 16)
    pattern = wide & (2**64 - 1)
    clamped = min(max(wide, -(2**31)), 2**31 - 1)
    parts = [(pattern >> 8 * i) & 255 for i in range(7)]
    joined = 0
    for part in parts:
        joined |= part
    return {
        "out_valid": 1,
        "out_wide": rs(wide, shift),
        "out_unsigned": rs(pattern, shift),
        "out_narrow": rs(narrow, item["in_far"]),
        "out_value": clamped,
        "out_clamped": int(clamped != wide),
        "out_or": joined,
        "out_sum": sum(to_signed(part, 8) for part in parts),
        **{f"out_constant{s}": rs(narrow, s) for s in CONSTANTS},
        **{f"out_length{n}": (pattern & ((1 << n) - 1)).bit_length() for n in LENGTHS},
    }


@cocotb.test()
async def helpers(dut: Any) -> None:
    rng = seeded()
    bench = Lane(dut, INPUTS, OUTPUTS, rng=rng)
    await bench.reset()
    edges = [2**31 - 1, 2**31, -(2**31), -(2**31) - 1]
    wides = [0, -1, 1, 2**63 - 1, -(2**63), *edges]
    wides += [sign * (1 << bit) + d for bit in range(62) for sign in (1, -1) for d in (-1, 0)]
    for stall in STALLS:
        for gap in (0.0, 0.5):
            values = list(wides) + [
                rng.getrandbits(rng.randrange(1, 64)) * rng.choice((1, -1)) for _ in range(300)
            ]
            items: list[Item] = []
            for number, wide in enumerate(values):
                items.append(
                    {
                        "in_valid": 1,
                        "in_wide": wide,
                        "in_shift": number % 64 if number % 2 else rng.randrange(64),
                        "in_narrow": rng.choice((0, 0x7FFF, 0x8000, 0xFFFF, rng.getrandbits(16))),
                        "in_far": rng.randrange(64),
                    }
                )
            cycles = spread(items, rng, gap)
            expected = [
                (cycle + 1, results_of(item))
                for cycle, item in enumerate(cycles)
                if item is not None
            ]
            expect(await bench.run(cycles, stall=stall), expected)


def test_arith() -> None:
    run_block(ArithProbe(), __name__)


def test_refused() -> None:
    with pytest.raises(ValueError, match="shift = -1"):
        round_shift(Const(3, signed(8)), -1)
    with pytest.raises(TypeError, match="is signed"):
        round_shift(Const(3, signed(8)), Signal(signed(4)))
    with pytest.raises(TypeError, match="is unsigned"):
        sat32(Const(3, 40))
    with pytest.raises(TypeError, match="is signed"):
        bit_length(Const(3, signed(8)))
    with pytest.raises(ValueError, match="or_tree of nothing"):
        or_tree([])
    with pytest.raises(ValueError, match="sum_tree of nothing"):
        sum_tree([])
