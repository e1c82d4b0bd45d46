"""Takes a row's finished sums out of the array, W at a time or one by one."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Signal
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.formats import ACC_BITS
from tokenloom.hw.verilog.block import Block

__all__ = ["Drain"]


class Drain(Block):
    """One row's drain chain: C holding registers that move W columns per step.

    Parameters
    ----------
    columns, width : int
        C, and W (divides C).

    Members
    -------
    accs : In(64·C), the row's accumulators of one slot; load : In(1), they are taken over
    step : In(1), the chain moves on by W columns
    select : In, which of the W values at the front `acc` shows
    wide : Out(64·W), the W values at the front; acc : Out(64)

    Latency
    -------
    One cycle from `load` to the first values.
    """

    def __init__(self, *, columns: int, width: int) -> None:
        if width < 1 or columns % width:
            raise ValueError(f"drain width is {width}; it must divide the {columns} columns")
        self._columns, self._width = columns, width
        super().__init__(
            {
                "accs": In(ACC_BITS * columns),
                "load": In(1),
                "step": In(1),
                "select": In(max(1, (width - 1).bit_length())),
                "wide": Out(ACC_BITS * width),
                "acc": Out(ACC_BITS),
            },
            params=(columns, width),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        held = [Signal(ACC_BITS, name=f"held{c}") for c in range(self._columns)]
        with m.If(self.load):
            m.d.sync += [h.eq(self.accs.word_select(c, ACC_BITS)) for c, h in enumerate(held)]
        with m.Elif(self.step):
            m.d.sync += [
                h.eq(held[c + self._width] if c + self._width < self._columns else 0)
                for c, h in enumerate(held)
            ]
        for w in range(self._width):
            m.d.comb += self.wide.word_select(w, ACC_BITS).eq(held[w])
        m.d.comb += self.acc.eq(Array(held[: self._width])[self.select])
        return m
