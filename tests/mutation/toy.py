"""A counter, a bench that looks at all it does, and one that looks away."""

from __future__ import annotations

import cocotb
from amaranth.hdl import Module, Signal
from amaranth.lib.wiring import In, Out
from cocotb.triggers import FallingEdge

from tests.hw.clocked import begin
from tokenloom.hw.verilog.block import Block
from tokenloom.sim.bench import parameters


class Toy(Block):
    """Counts to nine; one of its terms can never matter.

    Members
    -------
    step : In(1), clear : In(1), count : Out(4), wrapped : Out(1)
    """

    belt = False

    def __init__(self) -> None:
        super().__init__({"step": In(1), "clear": In(1), "count": Out(4), "wrapped": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        never = Signal()
        m.d.comb += never.eq(self.count == 12)
        with m.If(self.clear):
            m.d.sync += self.count.eq(0)
        with m.Elif(self.step):
            m.d.sync += self.count.eq(self.count + 1)
            with m.If((self.count == 9) | never):
                m.d.sync += self.count.eq(0)
        m.d.comb += self.wrapped.eq(self.step & (self.count == 9))
        return m


@cocotb.test()
async def count(dut) -> None:
    await begin(dut, ["step", "clear"])
    want = 0
    for turn in range(200):
        dut.step.value = step = int(turn % 3 != 1)
        dut.clear.value = clear = int(turn % 47 == 46)
        await FallingEdge(dut.clk)
        if parameters()["look"]:
            want = 0 if clear else (want + step) % 10
            assert int(dut.count.value) == want
            assert int(dut.wrapped.value) == int(step and want == 9)
