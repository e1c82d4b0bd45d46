"""The pages that nobody has: a stack of returned ones above a counter of those never used."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.wiring import In, Out

from tokenloom.hw.verilog.addressed_memory import addressed_memory
from tokenloom.hw.verilog.block import Block

__all__ = ["FreeList", "check_pages"]


def check_pages(pages: int) -> None:
    """Raises ValueError unless a page's number fits in 16 bits."""
    if not 1 <= pages <= 65536:
        raise ValueError(f"pages has to be from 1 to 65536, not {pages!r}")


class FreeList(Block):
    """Hands out free pages, the one returned last first, and takes pages back.

    A free page is either one never used since reset (these are handed out by counting) or one on
    the stack. So the stack needs no initial contents, and a reset is one cycle.

    Parameters
    ----------
    pages : int
        Pages 0..pages-1, all free after a reset; at most 65,536.

    Members
    -------
    take_valid, take_ready : In(1), Out(1)
        One page is wanted; there is one and none is being given back.
    page : Out
        The page taken last, from the cycle after until the next one is taken.
    give_valid, give_page : In(1), In
        A page comes back; always taken. It must be one that was handed out.
    count : Out
        Free pages.

    Latency
    -------
    `LATENCY` = 1 cycle from a take to `page`.

    Duration
    --------
    One page per cycle, in or out.

    Raises
    ------
    ValueError
        When `pages` is out of range.
    """

    belt = False
    LATENCY = 1

    def __init__(self, *, pages: int) -> None:
        check_pages(pages)
        self._pages = pages
        page_bits = max(1, (pages - 1).bit_length())
        super().__init__(
            {
                "take_valid": In(1),
                "take_ready": Out(1),
                "page": Out(page_bits),
                "give_valid": In(1),
                "give_page": In(page_bits),
                "count": Out(range(pages + 1)),
            },
            params=(pages,),
        )
        # The first page that was never used; pages on the stack.
        self.fresh, self.stacked = Signal(range(pages + 1)), Signal(range(pages + 1))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        page_bits = len(self.page)
        m.submodules.stack = stack = addressed_memory(shape=page_bits, depth=self._pages)
        read, write = stack.read_port(), stack.write_port()

        fresh, stacked = self.fresh, self.stacked
        take, from_stack, was_fresh = Signal(), Signal(), Signal(page_bits)
        m.d.comb += [
            self.count.eq(self._pages - fresh + stacked),
            self.take_ready.eq(self.count.any() & ~self.give_valid),
            take.eq(self.take_valid & self.take_ready),
            read.addr.eq((stacked - 1)[: len(read.addr)]),
            read.en.eq(take),
            write.addr.eq(stacked[: len(write.addr)]),
            write.data.eq(self.give_page),
            write.en.eq(self.give_valid),
            self.page.eq(Mux(from_stack, read.data, was_fresh)),
        ]
        with m.If(self.give_valid):
            m.d.sync += stacked.eq(stacked + 1)
        with m.Elif(take):
            m.d.sync += [from_stack.eq(stacked.any()), was_fresh.eq(fresh)]
            with m.If(stacked.any()):
                m.d.sync += stacked.eq(stacked - 1)
            with m.Else():
                m.d.sync += fresh.eq(fresh + 1)
        return m
