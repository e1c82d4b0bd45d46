"""Two neighbouring columns' elements in one: a multiplier for two products, scales in tables."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, Value, signed
from amaranth.lib.wiring import In, Out

from tokenloom.hw.array import packing
from tokenloom.hw.array.dot_element import (
    DOT_BITS,
    MANT_BITS,
    SHIFT_BITS,
    X_SHIFT_BITS,
    add_accumulators,
    check_element,
    shifted,
)
from tokenloom.hw.array.multiplier import Multiplier, fabric_product
from tokenloom.hw.numbers.arith import sum_tree
from tokenloom.hw.numbers.formats import ACC_BITS, ACTIVATION_BITS, BLOCK, SUM_BITS
from tokenloom.hw.verilog.block import Block

__all__ = ["DotPair"]


class DotPair(Block):
    """What two `DotElement`s of a row do, with one 27 by 9 bit multiplier per lane.

    The columns of a row have their activations in common, so one multiplier takes both columns'
    weights (`packing`). Mantissas and minima are multiplied in look-up tables: as multipliers they
    would be 4 more per 32.

    Parameters
    ----------
    lanes : int
        K, products per column and cycle, a multiple of 32.
    slots : int
        Accumulators per bank and column.
    multiplier : Multiplier
        What multiplies.

    Members
    -------
    w_codes : In(17·K), `packing.pair` of each lane; x_codes : In(9·K)
    w_mant, w_min_mant, w_shift, w_min_shift : In, `DotElement`'s of the low column, then the high's
    x_shift, x_sum, first, bank, slot, read_bank, read_slot : In, as `DotElement`'s
    stage : In(LATENCY), valid flags of the stages; first, bank, slot : at the last stage
    acc : Out(2·64), the low column's accumulator, then the high's

    Latency
    -------
    An operand at the ports in cycle t is in `acc` from cycle t + LATENCY on: one more than
    `DotElement`'s, for the mantissa's product in two stages.

    Raises
    ------
    ValueError
        When a parameter is out of range.
    """

    LATENCY = 6
    COLUMNS = 2

    def __init__(self, *, lanes: int, slots: int, multiplier: Multiplier | None = None) -> None:
        check_element(lanes, slots)
        self._multiplier = multiplier or Multiplier()
        blocks = lanes // BLOCK
        self._blocks, self._slots = blocks, slots
        slot_bits = max(1, (slots - 1).bit_length())
        pairs = self.COLUMNS * blocks
        super().__init__(
            {
                "w_codes": In(packing.PAIR_BITS * lanes),
                "w_mant": In(MANT_BITS * pairs),
                "w_shift": In(SHIFT_BITS * pairs),
                "w_min_mant": In(MANT_BITS * pairs),
                "w_min_shift": In(SHIFT_BITS * pairs),
                "x_codes": In(ACTIVATION_BITS * lanes),
                "x_shift": In(X_SHIFT_BITS * blocks),
                "x_sum": In(SUM_BITS * blocks),
                "stage": In(self.LATENCY),
                "first": In(1),
                "bank": In(1),
                "slot": In(slot_bits),
                "read_bank": In(1),
                "read_slot": In(slot_bits),
                "acc": Out(ACC_BITS * self.COLUMNS),
            },
            params=(lanes, slots, self._multiplier.name),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        terms: list[list[Value]] = [[], []]
        for b in range(self._blocks):
            for column, dot in enumerate(self._dots(m, b)):
                terms[column] += self._terms(m, b, column, dot)
        for column in range(self.COLUMNS):
            total = Signal(signed(ACC_BITS), name=f"total{column}")
            with m.If(self.stage[self.LATENCY - 2]):
                m.d.sync += total.eq(sum_tree(terms[column]))
            acc = self.acc.word_select(column, ACC_BITS)
            add_accumulators(m, self, f"bank_memory{column}", total, self.stage[-1], acc)
        return m

    def _register(self, m: Module, name: str, value: Value, stage: int) -> Signal:
        register = Signal(value.shape(), name=f"{name}_s{stage}")
        with m.If(self.stage[stage]):
            m.d.sync += register.eq(value)
        return register

    def _dots(self, m: Module, b: int) -> tuple[Value, Value]:
        """Stages 0 and 1 of a block: four packed products at a time, then both exact sums."""

        def product(lane: int) -> Value:
            w = packing.operand(self.w_codes.word_select(lane, packing.PAIR_BITS))
            x = self.x_codes.word_select(lane, ACTIVATION_BITS).as_signed()
            return self._multiplier.product(m, f"product{lane}", w, x)

        lows, highs, borrows = [], [], []
        for q in range(BLOCK * b, BLOCK * (b + 1), packing.SUMMANDS):
            packed = sum_tree([product(lane) for lane in range(q, q + packing.SUMMANDS)])
            packed = self._register(m, f"quad{q}", packed[: packing.PACKED_BITS].as_signed(), 0)
            low, high, borrow = packing.split(packed)
            lows.append(low)
            highs.append(high)
            borrows.append(borrow)
        dots = []
        for name, terms in (("low", lows), ("high", [*highs, sum_tree(borrows)])):
            dot = sum_tree(terms)[:DOT_BITS].as_signed()
            dots.append(self._register(m, f"{name}_dot_{b}", dot, 1))
        return dots[0], dots[1]

    def _terms(self, m: Module, b: int, column: int, dot: Value) -> list[Value]:
        """The rest of one block and column: scaled and shifted sum, and the minimum's term."""
        name = f"{b}_{column}"

        def field(port: Value, bits: int) -> Value:
            return port.word_select(column * self._blocks + b, bits)

        def delayed(what: str, value: Value, first: int, last: int) -> Value:
            for stage in range(first, last + 1):
                value = self._register(m, f"{what}_{name}", value, stage)
            return value

        x_shift = self.x_shift.word_select(b, X_SHIFT_BITS)
        scaled = fabric_product(
            m, f"scaled_{name}", dot, delayed("mant", field(self.w_mant, MANT_BITS), 0, 1),
            per_stage=3, register=lambda what, value, at: self._register(m, what, value, at + 2),
        )  # fmt: skip
        # The minimum is there from the beginning, so its product takes three stages.
        low = fabric_product(
            m, f"minimum_{name}", self.x_sum.word_select(b, SUM_BITS),
            field(self.w_min_mant, MANT_BITS),
            per_stage=2, register=lambda what, value, at: self._register(m, what, value, at),
        )  # fmt: skip
        low = delayed("minimum", low, 3, 3).as_signed()
        shift = delayed("shift", field(self.w_shift, SHIFT_BITS) + x_shift, 0, 3)
        low_shift = delayed("min_shift", field(self.w_min_shift, SHIFT_BITS) + x_shift, 0, 3)
        return [
            shifted(m, f"dot_{name}", scaled, shift),
            shifted(m, f"minimum_{name}", low, low_shift),
        ]
