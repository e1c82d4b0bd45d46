"""Collector: gathers a lane's values into blocks of 32 for the quantiser."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed
from amaranth.lib.wiring import In, Out

from tokenloom.hw.verilog.block import Block

__all__ = ["Collector"]


class Collector(Block):
    """Gathers values into blocks of 32; a block that is closed early is filled with zeros.

    A block ends with its 32nd value or with a value that comes with `in_close`.

    Parameters
    ----------
    tag_bits : int
        Width of the tag (1 or more).

    Members
    -------
    in_valid : In(1)
        The other inputs hold a value.
    in_value : In(signed(32))
        The block's next value.
    in_close : In(1)
        This value ends the block; the remaining elements are zero.
    in_tag : In(tag_bits)
        Kept only from the value that ends the block.
    out_valid : Out(1)
        High for one cycle per block: the outputs hold it.
    out_values : Out(1024)
        Element i at bits 32i. Stable only while `out_valid` is high.
    out_tag : Out(tag_bits)
        The tag of the value that ended the block.

    Latency
    -------
    `LATENCY` = 1 belt cycle after the value that ends the block.

    Duration
    --------
    One value per cycle, also directly after the end of a block; gaps are allowed anywhere.

    Raises
    ------
    ValueError
        When `tag_bits` is less than 1.
    """

    LATENCY = 1

    def __init__(self, *, tag_bits: int) -> None:
        if tag_bits < 1:
            raise ValueError(f"tag_bits = {tag_bits} is impossible: allowed is 1 or more")
        self._tag_bits = tag_bits
        super().__init__(
            {
                "in_valid": In(1),
                "in_value": In(signed(32)),
                "in_close": In(1),
                "in_tag": In(tag_bits),
                "out_valid": Out(1),
                "out_values": Out(1024),
                "out_tag": Out(tag_bits),
            },
            params=(tag_bits,),
        )

    @property
    def tag_bits(self) -> int:
        """Width of the tag."""
        return self._tag_bits

    def elaborate(self, platform: object) -> Module:
        """One register of 32 elements: the first value clears the others, the rest fill it up."""
        m = Module()

        values = Signal(1024, reset_less=True)
        m.d.comb += self.out_values.eq(values)
        index = Signal(5)
        last = Signal()
        m.d.comb += last.eq(self.in_close | (index == 31))
        m.d.sync += self.out_valid.eq(self.in_valid & last)

        with m.If(self.in_valid):
            with m.If(last):
                m.d.sync += [index.eq(0), self.out_tag.eq(self.in_tag)]
            with m.Else():
                m.d.sync += index.eq(index + 1)
            # The block before has been shown by now: its one cycle is over with this edge.
            with m.If(~index.any()):
                m.d.sync += values.eq(self.in_value.as_unsigned())
            with m.Else():
                m.d.sync += values.word_select(index, 32).eq(self.in_value)

        return m
