"""One column of the array, or two: tape channels' beats run down R dot-product elements."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib.wiring import In, Out

from tokenloom.hw.array import packing
from tokenloom.hw.array.dot_element import MANT_BITS, SHIFT_BITS, X_SHIFT_BITS, DotElement
from tokenloom.hw.array.dot_pair import DotPair
from tokenloom.hw.array.multiplier import Multiplier
from tokenloom.hw.array.serial_element import SerialElement
from tokenloom.hw.numbers.formats import ACC_BITS, ACTIVATION_BITS, BLOCK, SUM_BITS
from tokenloom.hw.numbers.fp16 import decode
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["Column"]


class Column(Block):
    """Takes a beat, decodes its scales, and hands it from row to row, one cycle per row.

    Parameters
    ----------
    lanes, rows, slots : int
        K, R and the accumulators per bank. With less than 32 lanes a beat is a block all the same,
        and each step takes 32/K cycles (`SerialElement`).
    packed : bool
        Two neighbouring columns with `DotPair`s for elements, whose beats come at the same time;
        their values lie side by side in `codes`, `scale`, `minimum` and in each row's `acc`.
    multiplier : Multiplier
        What multiplies the codes.

    Members
    -------
    take : In(1), the beat at the port is taken in this cycle; it stays until the next take
    codes : In(8·K), scale, minimum : In(16·K/32, rebased fp16; with `pow2` the scale's low five
        bits are a shift and the mantissa is 1), pow2 : In(1)
    x_codes, x_shift, x_sum : In, R rows packed, row r's operand for the beat taken at t in cycle
        t + OPERAND + r
    stage, first, bank, slot : In, R rows packed, see `DotElement`
    read_bank, read_slot : In, R rows packed; acc : Out(64·R), of two columns row by row
    phase, tick : In, only with less than 32 lanes, see `SerialElement`

    Latency
    -------
    A beat taken in cycle t meets row r's operand in cycle t + OPERAND + r and is in that row's
    accumulator from t + OPERAND + r + the element's LATENCY on.
    """

    OPERAND = 2

    def __init__(
        self, *, lanes: int, rows: int, slots: int, packed: bool = False,
        multiplier: Multiplier | None = None,
    ) -> None:  # fmt: skip
        self._packed, self._multiplier = packed, multiplier or Multiplier()
        self.element: type[DotPair | DotElement | SerialElement]
        self.element = DotPair if packed else DotElement if lanes >= BLOCK else SerialElement
        self._own_lanes, lanes = lanes, max(lanes, BLOCK)
        phases = BLOCK // self._own_lanes
        serial = {"phase": In(range(phases)), "tick": In(1)} if phases > 1 else {}
        self._serial = phases > 1
        blocks = lanes // BLOCK
        self._lanes, self._rows, self._slots = lanes, rows, slots
        self._blocks = blocks * self.element.COLUMNS
        columns = self.element.COLUMNS
        self._slot_bits = max(1, (slots - 1).bit_length())
        super().__init__(
            {
                "take": In(1),
                "codes": In(8 * lanes * columns),
                "scale": In(16 * self._blocks),
                "minimum": In(16 * self._blocks),
                "pow2": In(1),
                "x_codes": In(ACTIVATION_BITS * lanes * rows),
                "x_shift": In(X_SHIFT_BITS * blocks * rows),
                "x_sum": In(SUM_BITS * blocks * rows),
                "stage": In(self.element.LATENCY * rows),
                "first": In(rows),
                "bank": In(rows),
                "slot": In(self._slot_bits * rows),
                "read_bank": In(rows),
                "read_slot": In(self._slot_bits * rows),
                "acc": Out(ACC_BITS * columns * rows),
                **serial,
            },
            params=(self._own_lanes, rows, slots, packed, self._multiplier.name),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The beat as it came.
        codes, pow2 = Signal.like(self.codes), Signal()
        scale, minimum = Signal(16 * self._blocks), Signal(16 * self._blocks)
        moved = Signal(self._rows)

        def stepping(enable: Value) -> Value:
            return enable & self.tick if self._serial else enable

        with m.If(stepping(self.take)):
            m.d.sync += [
                codes.eq(self.codes),
                scale.eq(self.scale),
                minimum.eq(self.minimum),
                pow2.eq(self.pow2),
            ]
        shift = moved.eq(Cat(self.take, moved)[: self._rows])
        if self._serial:
            with m.If(self.tick):
                m.d.sync += shift
        else:
            m.d.sync += shift

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
        if self._packed:
            low, high = (codes.word_select(c, 8 * self._lanes) for c in range(2))
            codes = Cat(
                packing.pair(low.word_select(i, 8), high.word_select(i, 8))
                for i in range(self._lanes)
            )
        beat = [codes, Cat(mants), Cat(shifts), Cat(min_mants), Cat(min_shifts)]

        # Down the rows.
        for r in range(self._rows):
            held = [Signal(len(value), name=f"w{i}_row{r}") for i, value in enumerate(beat)]
            with m.If(stepping(moved[r])):
                m.d.sync += [register.eq(value) for register, value in zip(held, beat, strict=True)]
            element = self.element(
                lanes=self._own_lanes, slots=self._slots, multiplier=self._multiplier
            )
            if isinstance(element, SerialElement):
                m.d.comb += [element.phase.eq(self.phase), element.tick.eq(self.tick)]
            m.submodules[f"element{r}"] = instance(element, en=self.en)
            ports = ("w_codes", "w_mant", "w_shift", "w_min_mant", "w_min_shift")
            m.d.comb += [getattr(element, p).eq(v) for p, v in zip(ports, held, strict=True)]
            for name in ("x_codes", "x_shift", "x_sum", "stage", "first", "bank", "slot",
                         "read_bank", "read_slot"):  # fmt: skip
                port = getattr(element, name)
                m.d.comb += port.eq(getattr(self, name).word_select(r, len(port)))
            m.d.comb += self.acc.word_select(r, len(element.acc)).eq(element.acc)
            beat = held
        return m
