"""Drain: an accumulator that leaves the array becomes a fixed32 value."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.arith import round_shift, sat32
from tokenloom.hw.verilog.block import Block

__all__ = ["DrainLane"]


class DrainLane(Block):
    """`value = sat32(rs(acc, shift))`, one accumulator per cycle.

    Parameters
    ----------
    tag_bits : int
        Width of the tag that travels with each value (1 or more).

    Members
    -------
    in_valid : In(1)
        The other inputs hold an accumulator.
    in_acc : In(signed(64))
        The accumulator.
    in_shift : In(6)
        The operation's shift, 0..63.
    in_tag : In(tag_bits)
        Handed on unchanged.
    out_valid : Out(1)
        The outputs hold a value.
    out_value : Out(signed(32))
        The value.
    out_saturated : Out(1)
        Strobe: this value was clamped. Low without `out_valid`.
    out_tag : Out(tag_bits)
        The tag that came with the accumulator.

    Latency
    -------
    `LATENCY` = 2 belt cycles.

    Duration
    --------
    One accumulator per cycle, with or without gaps.

    Raises
    ------
    ValueError
        When `tag_bits` is less than 1.
    """

    LATENCY = 2

    def __init__(self, *, tag_bits: int) -> None:
        if tag_bits < 1:
            raise ValueError(f"tag_bits = {tag_bits} is impossible: allowed is 1 or more")
        self._tag_bits = tag_bits
        super().__init__(
            {
                "in_valid": In(1),
                "in_acc": In(signed(64)),
                "in_shift": In(6),
                "in_tag": In(tag_bits),
                "out_valid": Out(1),
                "out_value": Out(signed(32)),
                "out_saturated": Out(1),
                "out_tag": Out(tag_bits),
            },
            params=(tag_bits,),
        )

    @property
    def tag_bits(self) -> int:
        """Width of the tag."""
        return self._tag_bits

    def elaborate(self, platform: object) -> Module:
        """Shift in the first cycle, clamp in the second."""
        m = Module()

        valid = Signal()
        rounded = Signal(signed(64), reset_less=True)
        tag = Signal(self._tag_bits, reset_less=True)
        m.d.sync += valid.eq(self.in_valid)
        with m.If(self.in_valid):
            m.d.sync += [
                rounded.eq(round_shift(self.in_acc, self.in_shift)),
                tag.eq(self.in_tag),
            ]

        value, saturated = sat32(rounded)
        m.d.sync += [self.out_valid.eq(valid), self.out_saturated.eq(valid & saturated)]
        with m.If(valid):
            m.d.sync += [self.out_value.eq(value), self.out_tag.eq(tag)]

        return m
