"""Registers on the way from one part of the FPGA to another."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib.wiring import In, Out

from tokenloom.hw.verilog.block import Block

__all__ = ["Crossing"]


class Crossing(Block):
    """A delay: `hops` registers for the borders, and `waits` cycles that merely pass.

    Parameters
    ----------
    bits : int
    hops : int
        Registers that may not become a shift register, so that placing can lay them on both
        sides of a border (`shreg_extract`, as Vivado reads it).
    waits : int
        Cycles for which any kind of register will do.

    Members
    -------
    near : In(bits); far : Out(bits)

    Latency
    -------
    hops + waits.

    Raises
    ------
    ValueError
        When there is nothing to delay.
    """

    def __init__(self, *, bits: int, hops: int, waits: int) -> None:
        if bits < 1 or hops < 0 or waits < 0 or not hops + waits:
            raise ValueError(
                f"bits, hops, waits are {bits}, {hops}, {waits}; allowed: 1 bit or more, and at "
                "least one register"
            )
        self._bits, self._hops, self._waits = bits, hops, waits
        super().__init__({"near": In(bits), "far": Out(bits)}, params=(bits, hops, waits))
        self.module_name = f"crossing_{bits}_{hops}_{waits}"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        value = self.near
        for k in range(self._hops + self._waits):
            attrs = {"shreg_extract": "no"} if k < self._hops else {}
            # Without a reset, or the waits could not become shift registers.
            register = Signal(self._bits, name=f"stage{k}", attrs=attrs, reset_less=True)
            m.d.sync += register.eq(value)
            value = register
        m.d.comb += self.far.eq(value)
        return m
