"""ContextBuffer: one token row's attention output, written in words, read in blocks of 32."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.formats import BLOCK
from tokenloom.hw.verilog.addressed_memory import addressed_memory
from tokenloom.hw.verilog.block import Block

__all__ = ["ContextBuffer"]


class ContextBuffer(Block):
    """The fixed32 attention output of one token row.

    Parameters
    ----------
    width_max : int
        Values of the longest row: a multiple of 32.
    drain : int
        W, values per write: a power of two up to 32.

    Members
    -------
    in_valid : In(1)
        Write `in_values`.
    in_index : In
        Index of the first of W consecutive values, a multiple of W.
    in_values : In(32 * W)
        Element i at bits 32i.
    read : In(1), read_block : In
        Ask for values 32 * `read_block` and following.
    read_values : Out(1024)
        32 values one cycle after `read`; kept until the next. Element i at bits 32i.

    Latency
    -------
    `WRITE_LATENCY` = 1: a `read` in the cycle after a write sees it. `READ_LATENCY` = 1.

    Duration
    --------
    A write and a read per cycle; not both of one block.

    Raises
    ------
    ValueError
        When a parameter is outside its range.
    """

    WRITE_LATENCY = 1
    READ_LATENCY = 1

    def __init__(self, *, width_max: int, drain: int) -> None:
        if width_max < BLOCK or width_max % BLOCK:
            raise ValueError(f"width_max = {width_max} is impossible: allowed is a multiple of 32")
        if drain not in (1, 2, 4, 8, 16, 32):
            raise ValueError(f"drain = {drain} is impossible: allowed is a power of two up to 32")
        self._width_max, self._drain = width_max, drain
        super().__init__(
            {
                "in_valid": In(1),
                "in_index": In((width_max - 1).bit_length()),
                "in_values": In(32 * drain),
                "read": In(1),
                "read_block": In(max(1, (width_max // BLOCK - 1).bit_length())),
                "read_values": Out(32 * BLOCK),
            },
            params=(width_max, drain),
        )

    def elaborate(self, platform: object) -> Module:
        """One memory, a block per row, written in words."""
        m = Module()
        words = BLOCK // self._drain
        drop = self._drain.bit_length() - 1
        m.submodules.memory = memory = addressed_memory(
            shape=32 * BLOCK, depth=self._width_max // BLOCK
        )
        write = memory.write_port(granularity=32 * self._drain)
        read = memory.read_port()
        place = Signal(words)
        if words == 1:
            m.d.comb += place.eq(1)
        else:
            m.d.comb += place.bit_select(self.in_index[drop:5], 1).eq(1)
        with m.If(self.in_valid):
            m.d.comb += write.en.eq(place)
        m.d.comb += [
            write.addr.eq(self.in_index >> 5),
            write.data.eq(self.in_values.replicate(words)),
            read.en.eq(self.read),
            read.addr.eq(self.read_block),
            self.read_values.eq(read.data),
        ]
        return m
