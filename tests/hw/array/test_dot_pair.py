# amaranth: UnusedElaboratable=no
"""DotPair against sums in Python integers, and the packed product against all there are."""

from __future__ import annotations

import random
from typing import Any

import cocotb
import numpy as np
import pytest
from amaranth.hdl import Cat, Const, Module, Signal, signed
from amaranth.lib.wiring import In, Out
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles

from tests.hw.array.test_dot_element import W_PEAK, X_PEAK
from tests.hw.attention.attention_bench import STALLS, Belt
from tests.hw.many import many_values
from tests.hw.words import pack
from tokenloom.hw.array import packing
from tokenloom.hw.array.dot_pair import DotPair
from tokenloom.hw.array.multiplier import Dsp48e2, fabric_product
from tokenloom.hw.verilog.block import Block, emit
from tokenloom.sim.bench import parameters, run_block, seeded

STAGES = DotPair.LATENCY


def paired(low: list[int], high: list[int]) -> int:
    """The port's bits: the low weight, and the high one less the borrow."""
    codes = [(a & 255) | ((b - (a < 0)) & 511) << 8 for a, b in zip(low, high, strict=True)]
    return sum(code << packing.PAIR_BITS * i for i, code in enumerate(codes))


class Beat:
    """One operand: the ports' values, where it goes, and what it adds to each column."""

    def __init__(self, rng: random.Random, blocks: int, slots: int) -> None:
        lanes = 32 * blocks
        corner = rng.randrange(5)

        def some(low: int, high: int) -> list[int]:
            if corner == 0:  # every field at its ambiguous pattern
                return [low] * lanes
            if corner == 1:
                return [rng.choice((low, high - 1)) for _ in range(lanes)]
            if corner == 2:
                return [rng.choice((-1, 0, 1)) for _ in range(lanes)]
            return [rng.randrange(low, high) for _ in range(lanes)]

        w = [some(-W_PEAK, W_PEAK) for _ in range(2)]
        x = some(-X_PEAK, X_PEAK)
        mant, low = ([[rng.choice((-2047, 2047, 0, rng.randrange(-2047, 2048)))
                       for _ in range(blocks)] for _ in range(2)] for _ in range(2))  # fmt: skip
        left, low_left = ([[rng.randrange(8) for _ in range(blocks)] for _ in range(2)]
                          for _ in range(2))  # fmt: skip
        x_left = [rng.randrange(7) for _ in range(blocks)]
        sums = [sum(x[32 * b : 32 * b + 32]) for b in range(blocks)]
        self.bank, self.slot, self.first = rng.randrange(2), rng.randrange(slots), rng.randrange(2)
        self.ports = {
            "w_codes": paired(*w),
            "w_mant": pack([*mant[0], *mant[1]], 12),
            "w_shift": pack([*left[0], *left[1]], 5),
            "w_min_mant": pack([*low[0], *low[1]], 12),
            "w_min_shift": pack([*low_left[0], *low_left[1]], 5),
            "x_codes": pack(x, 9),
            "x_shift": pack(x_left, 6),
            "x_sum": pack(sums, 14),
        }
        self.adds = [0, 0]
        for c in range(2):
            for b in range(blocks):
                dot = sum(w[c][i] * x[i] for i in range(32 * b, 32 * b + 32))
                self.adds[c] += dot * mant[c][b] << (left[c][b] + x_left[b])
                self.adds[c] += sums[b] * low[c][b] << (low_left[c][b] + x_left[b])


@cocotb.test()
@many_values(64 * 600, only=lambda: parameters().get("lanes") == 32)
async def both_columns(dut: Any) -> None:
    if "lanes" not in parameters():
        return
    rng = seeded()
    slots, blocks = parameters()["slots"], parameters()["lanes"] // 32
    inputs = {name: len(getattr(dut, name)) for name in Beat(rng, blocks, slots).ports}
    inputs |= {"stage": STAGES, "first": 1, "bank": 1, "slot": len(dut.slot)}
    inputs |= {"read_bank": 1, "read_slot": len(dut.read_slot)}
    belt = Belt(dut, inputs, {"acc": 128}, strobes=("stage",), rng=rng)
    await belt.reset()
    held: dict[tuple[int, int], list[int]] = {}
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
                old = [0, 0] if last.first else held[place]
                held[place] = [a + b for a, b in zip(old, last.adds, strict=True)]
            read = rng.randrange(2), rng.randrange(slots)
            belt.drive(**item, read_bank=read[0], read_slot=read[1])
            acc = (await belt.next())["acc"]
            if read in held:
                for c in range(2):
                    found = acc >> 64 * c & ((1 << 64) - 1)
                    assert found == held[read][c] & ((1 << 64) - 1), (read, c)
                checked += 1
    assert checked > 500


@pytest.mark.parametrize(("lanes", "slots"), [(32, 1), (64, 6)])
def test_dot_pair(lanes: int, slots: int) -> None:
    values = {"lanes": lanes, "slots": slots}
    run_block(DotPair(**values), __name__, parameters=values)


@pytest.mark.parametrize("wrong", [{"lanes": 48}, {"slots": 65}])
def test_parameters(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DotPair(**({"lanes": 32, "slots": 2} | wrong))


def test_every_packed_product() -> None:
    """All 2^25: two weights of 8 bits and an activation of 9, in numpy."""
    w = np.arange(-128, 128)
    operands = (w[:, None] << packing.FIELD_BITS) + w
    assert -(1 << 26) <= operands.min() and operands.max() < 1 << 26
    for x in range(-256, 256):
        low, high = packing.unpacked(operands * x)
        assert (low == w * x).all() and (high == (w * x)[:, None]).all(), x


def test_sums_of_packed_products() -> None:
    """The extreme sums, also of the one ambiguous pattern, and random ones."""
    rng = np.random.default_rng(1)
    products = rng.integers(-32640, 32769, (200_000, 2, packing.SUMMANDS))
    products[rng.random(products.shape) < 0.5] = 32768
    products[:1] = 32768
    products[1:2] = -32640
    low, high = products[:, 0].sum(axis=1), products[:, 1].sum(axis=1)
    found = packing.unpacked((high << packing.FIELD_BITS) + low)
    assert (found[0] == low).all() and (found[1] == high).all()


AT_ONCE = 32


class EveryProduct(Block):
    """Counts through all pairs of weights and all activations, `AT_ONCE` of these at a time."""

    def __init__(self) -> None:
        super().__init__({"wrong": Out(16), "over": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Each activation is the counter's upper bits and a constant.
        steps = 512 // AT_ONCE
        count, done = Signal(16 + (steps - 1).bit_length()), Signal()
        low, high = Signal(signed(8)), Signal(signed(8))
        both, w = Signal(packing.PAIR_BITS), Signal(signed(27))
        m.d.comb += [
            low.eq(count[:8]),
            high.eq(count[8:16]),
            both.eq(packing.pair(low, high)),
            w.eq(packing.operand(both)),
        ]
        different = []
        for i in range(AT_ONCE):
            x = Signal(signed(9), name=f"x{i}")
            packed = Signal(signed(packing.PACKED_BITS), name=f"packed{i}")
            m.d.comb += [x.eq(Cat(Const(i, 9 - len(count[16:])), count[16:])), packed.eq(w * x)]
            found, field, borrow = packing.split(packed)
            different.append((found != low * x) | (field + borrow != high * x))
        m.d.sync += [count.eq(count + 1), done.eq(done | count.all())]
        with m.If(Cat(different).any() & ~done):
            m.d.sync += self.wrong.eq(self.wrong + 1)
        m.d.comb += self.over.eq(done)
        return m


@cocotb.test()
async def all_of_them(dut: Any) -> None:
    if "every" not in parameters():
        return
    cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
    dut.en.value, dut.rst.value = 1, 1
    await ClockCycles(dut.clk, 3)
    dut.rst.value = 0
    cycles = (1 << 16) * 512 // AT_ONCE
    await ClockCycles(dut.clk, cycles - 2)
    assert int(dut.over.value) == 0
    await ClockCycles(dut.clk, 4)
    assert int(dut.over.value) == 1 and int(dut.wrong.value) == 0


def test_every_packed_product_in_rtl() -> None:
    run_block(EveryProduct(), __name__, parameters={"every": True})


class Fabric(Block):
    """A product of so many bits, all stages registered."""

    def __init__(self, a: int, b: int, per_stage: int) -> None:
        self._per = per_stage
        super().__init__(
            {"a": In(signed(a)), "b": In(signed(b)), "p": Out(signed(a + b))},
            params=(a, b, per_stage),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()

        def register(name: str, value: Any, stage: int) -> Signal:
            held = Signal(value.shape(), name=f"{name}{stage}")
            m.d.sync += held.eq(value)
            return held

        p = fabric_product(m, "p", self.a, self.b, per_stage=self._per, register=register)
        m.d.comb += self.p.eq(p)
        return m


@cocotb.test()
async def fabric_products(dut: Any) -> None:
    if "fabric" not in parameters():
        return
    rng = seeded()
    a_bits, b_bits, per_stage = parameters()["fabric"]
    belt = Belt(
        dut, {"a": a_bits, "b": b_bits}, {"p": -(a_bits + b_bits)}, strobes=(), rng=rng
    )  # fmt: skip
    await belt.reset()
    stages = -(-b_bits // (2 * per_stage))
    line: list[int | None] = [None] * stages

    def some(bits: int) -> int:
        top = 1 << (bits - 1)
        return rng.choice((-top, 1 - top, top - 1, 0, -1, rng.randrange(-top, top)))

    for step in range(6000):
        belt.stall = STALLS[step % 3]
        found = (await belt.next())["p"]
        want = line.pop()
        assert want is None or found == want & ((1 << (a_bits + b_bits)) - 1)
        a, b = some(a_bits), some(b_bits)
        line.insert(0, a * b)
        belt.drive(a=a, b=b)


@pytest.mark.parametrize("sizes", [(22, 12, 3), (14, 12, 2), (5, 7, 1)], ids=str)
def test_fabric_product(sizes: tuple[int, int, int]) -> None:
    run_block(Fabric(*sizes), __name__, parameters={"fabric": sizes})


def test_vendor_primitive() -> None:
    """One DSP48E2 per lane, combinational, and nothing left to infer."""
    text = emit(DotPair(lanes=32, slots=1, multiplier=Dsp48e2()))["dot_pair"]
    assert text.count("DSP48E2 #(") == 32
    assert text.count(".MREG(32'd0)") == text.count(".OPMODE(9'h005)") == 32
    assert " * " not in text
    with pytest.raises(ValueError, match="27 by 18"):
        Dsp48e2().product(Module(), "p", Signal(signed(28)), Signal(signed(9)))
