"""The array: C columns of R dot-product elements, and a drain chain per row."""

from __future__ import annotations

from amaranth.hdl import Cat, Module
from amaranth.lib.wiring import In, Out

from tokenloom.hw.array.column import Column
from tokenloom.hw.array.dot_element import X_SHIFT_BITS
from tokenloom.hw.array.drain import Drain
from tokenloom.hw.numbers.formats import ACC_BITS, ACTIVATION_BITS, BLOCK, SUM_BITS
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["Array"]


class Array(Block):
    """Columns and drains, driven cycle by cycle by `ArrayControl`.

    Parameters
    ----------
    columns, lanes, rows, drain, slots : int
        C, K, R, W and the accumulators per bank.

    Members
    -------
    take, pow2 : In(1); codes : In(8·K·C), scale, minimum : In(16·K/32·C), column c's beat
    x_codes, x_shift, x_sum : In, R rows packed
    stage, first, bank, slot, read_bank, read_slot, load, step, select : In, R rows packed
    wide : Out(64·W·R), acc : Out(64·R), the drains' values

    Latency
    -------
    See `Column` and `Drain`; Duration: one beat per cycle.
    """

    def __init__(self, *, columns: int, lanes: int, rows: int, drain: int, slots: int) -> None:
        self._c, self._k, self._r, self._w, self._slots = columns, lanes, rows, drain, slots
        blocks = lanes // BLOCK
        slot_bits = max(1, (slots - 1).bit_length())
        super().__init__(
            {
                "take": In(1),
                "pow2": In(1),
                "codes": In(8 * lanes * columns),
                "scale": In(16 * blocks * columns),
                "minimum": In(16 * blocks * columns),
                "x_codes": In(ACTIVATION_BITS * lanes * rows),
                "x_shift": In(X_SHIFT_BITS * blocks * rows),
                "x_sum": In(SUM_BITS * blocks * rows),
                "stage": In(5 * rows),
                "first": In(rows),
                "bank": In(rows),
                "slot": In(slot_bits * rows),
                "read_bank": In(rows),
                "read_slot": In(slot_bits * rows),
                "load": In(rows),
                "step": In(rows),
                "select": In(max(1, (drain - 1).bit_length()) * rows),
                "wide": Out(ACC_BITS * drain * rows),
                "acc": Out(ACC_BITS * rows),
            },
            params=(columns, lanes, rows, drain, slots),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        columns = []
        for c in range(self._c):
            column = Column(lanes=self._k, rows=self._r, slots=self._slots)
            m.submodules[f"column{c}"] = instance(column, en=self.en)
            columns.append(column)
            m.d.comb += [column.take.eq(self.take), column.pow2.eq(self.pow2)]
            for name in ("codes", "scale", "minimum"):
                port = getattr(column, name)
                m.d.comb += port.eq(getattr(self, name).word_select(c, len(port)))
            for name in ("x_codes", "x_shift", "x_sum", "stage", "first", "bank", "slot",
                         "read_bank", "read_slot"):  # fmt: skip
                m.d.comb += getattr(column, name).eq(getattr(self, name))
        for r in range(self._r):
            drain = Drain(columns=self._c, width=self._w)
            m.submodules[f"drain{r}"] = instance(drain, en=self.en)
            m.d.comb += [
                drain.accs.eq(Cat(column.acc.word_select(r, ACC_BITS) for column in columns)),
                drain.load.eq(self.load[r]),
                drain.step.eq(self.step[r]),
                drain.select.eq(self.select.word_select(r, len(drain.select))),
                self.wide.word_select(r, len(drain.wide)).eq(drain.wide),
                self.acc.word_select(r, ACC_BITS).eq(drain.acc),
            ]
        return m
