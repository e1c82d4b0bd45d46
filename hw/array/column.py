"""One column of the array: a tape channel's beats run down R dot-product elements."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib.wiring import In, Out

from tokenloom.hw.array.dot_element import MANT_BITS, SHIFT_BITS, X_SHIFT_BITS, DotElement
from tokenloom.hw.numbers.formats import ACC_BITS, ACTIVATION_BITS, BLOCK, SUM_BITS
from tokenloom.hw.numbers.fp16 import decode
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["Column"]


class Column(Block):
    """Takes a beat, decodes its scales, and hands it from row to row, one cycle per row.

    Parameters
    ----------
    lanes, rows, slots : int
        K, R and the accumulators per bank.

    Members
    -------
    take : In(1), the beat at the port is taken in this cycle; it stays until the next take
    codes : In(8·K), scale, minimum : In(16·K/32, rebased fp16; with `pow2` the scale's low five
        bits are a shift and the mantissa is 1), pow2 : In(1)
    x_codes, x_shift, x_sum : In, R rows packed, row r's operand for the beat taken at t in cycle
        t + OPERAND + r
    stage, first, bank, slot : In, R rows packed, see `DotElement`
    read_bank, read_slot : In, R rows packed; acc : Out(64·R)

    Latency
    -------
    A beat taken in cycle t meets row r's operand in cycle t + OPERAND + r and is in that row's
    accumulator from t + OPERAND + r + DotElement.LATENCY on.
    """

    OPERAND = 2

    def __init__(self, *, lanes: int, rows: int, slots: int) -> None:
        blocks = lanes // BLOCK
        self._lanes, self._rows, self._slots, self._blocks = lanes, rows, slots, blocks
        self._slot_bits = max(1, (slots - 1).bit_length())
        super().__init__(
            {
                "take": In(1),
                "codes": In(8 * lanes),
                "scale": In(16 * blocks),
                "minimum": In(16 * blocks),
                "pow2": In(1),
                "x_codes": In(ACTIVATION_BITS * lanes * rows),
                "x_shift": In(X_SHIFT_BITS * blocks * rows),
                "x_sum": In(SUM_BITS * blocks * rows),
                "stage": In(5 * rows),
                "first": In(rows),
                "bank": In(rows),
                "slot": In(self._slot_bits * rows),
                "read_bank": In(rows),
                "read_slot": In(self._slot_bits * rows),
                "acc": Out(ACC_BITS * rows),
            },
            params=(lanes, rows, slots),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The beat as it came.
        codes, pow2 = Signal(8 * self._lanes), Signal()
        scale, minimum = Signal(16 * self._blocks), Signal(16 * self._blocks)
        moved = Signal(self._rows)
        with m.If(self.take):
            m.d.sync += [
                codes.eq(self.codes),
                scale.eq(self.scale),
                minimum.eq(self.minimum),
                pow2.eq(self.pow2),
            ]
        m.d.sync += moved.eq(Cat(self.take, moved)[: self._rows])

        # Mantissas and shifts.
        mants, shifts, min_mants, min_shifts = [], [], [], []
        for b in range(self._blocks):
            word = scale.word_select(b, 16)
            mant, shift = decode(word)
            min_mant, min_shift = decode(minimum.word_select(b, 16))
            mants.append(Mux(pow2, 1, mant)[:MANT_BITS])
            shifts.append(Mux(pow2, word[:SHIFT_BITS], shift)[:SHIFT_BITS])
            min_mants.append(min_mant[:MANT_BITS])
            min_shifts.append(min_shift[:SHIFT_BITS])
        beat = [codes, Cat(mants), Cat(shifts), Cat(min_mants), Cat(min_shifts)]

        # Down the rows.
        for r in range(self._rows):
            held = [Signal(len(value), name=f"w{i}_row{r}") for i, value in enumerate(beat)]
            with m.If(moved[r]):
                m.d.sync += [register.eq(value) for register, value in zip(held, beat, strict=True)]
            element = DotElement(lanes=self._lanes, slots=self._slots)
            m.submodules[f"element{r}"] = instance(element, en=self.en)
            ports = ("w_codes", "w_mant", "w_shift", "w_min_mant", "w_min_shift")
            m.d.comb += [getattr(element, p).eq(v) for p, v in zip(ports, held, strict=True)]
            for name in ("x_codes", "x_shift", "x_sum", "stage", "first", "bank", "slot",
                         "read_bank", "read_slot"):  # fmt: skip
                port = getattr(element, name)
                m.d.comb += port.eq(getattr(self, name).word_select(r, len(port)))
            m.d.comb += self.acc.word_select(r, ACC_BITS).eq(element.acc)
            beat = held
        return m
