"""How many slots have each page."""

from __future__ import annotations

from enum import IntEnum

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.wiring import In, Out

from tokenloom.hw.kv.free_list import check_pages
from tokenloom.hw.verilog.addressed_memory import addressed_memory
from tokenloom.hw.verilog.block import Block

__all__ = ["RefCounts", "RefOp"]


class RefOp(IntEnum):
    """What happens to a page's count."""

    READ = 0
    SET = 1
    """It becomes 1: the page was just taken from the free list."""
    ADD = 2
    DROP = 3


class RefCounts(Block):
    """A counter per page, in a memory; an operation reads it and writes it back.

    Parameters
    ----------
    pages : int
        Counters, at most 65,536.
    most : int
        Largest count.

    Members
    -------
    valid, op, page : In(1), In(2), In
        An operation (`RefOp`). A page's first one must be SET: counts have no initial value.
    was : Out
        The count before it, one cycle later.

    Latency
    -------
    `LATENCY` = 1 cycle to `was`.

    Duration
    --------
    One operation per cycle, on any page: a count that is just being written is handed on. A count
    never wraps: DROP leaves 0 at 0, ADD leaves `most` at `most`.

    Raises
    ------
    ValueError
        When a parameter is out of range.
    """

    belt = False
    LATENCY = 1

    def __init__(self, *, pages: int, most: int) -> None:
        check_pages(pages)
        if most < 1:
            raise ValueError(f"most has to be positive, not {most!r}")
        self._pages, self._most = pages, most
        super().__init__(
            {
                "valid": In(1),
                "op": In(2),
                "page": In(max(1, (pages - 1).bit_length())),
                "was": Out(range(most + 1)),
            },
            params=(pages, most),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = len(self.was)
        m.submodules.counts = counts = addressed_memory(shape=bits, depth=self._pages)
        read, write = counts.read_port(), counts.write_port()

        # Second cycle: the new count is written. A page asked for in that cycle has it by hand.
        valid, op, page = Signal(), Signal(2), Signal.like(self.page)
        by_hand, handed = Signal(), Signal(bits)
        m.d.sync += valid.eq(self.valid)
        with m.If(self.valid):
            m.d.sync += [
                op.eq(self.op),
                page.eq(self.page),
                by_hand.eq(write.en & (page == self.page)),
                handed.eq(write.data),
            ]
        m.d.comb += [
            read.addr.eq(self.page),
            read.en.eq(self.valid),
            self.was.eq(Mux(by_hand, handed, read.data)),
            write.addr.eq(page),
            write.en.eq(valid & (op != RefOp.READ)),
        ]
        with m.Switch(op):
            with m.Case(RefOp.ADD):
                m.d.comb += write.data.eq(self.was + (self.was != self._most))
            with m.Case(RefOp.DROP):
                m.d.comb += write.data.eq(self.was - self.was.any())
            with m.Default():
                m.d.comb += write.data.eq(1)
        return m
