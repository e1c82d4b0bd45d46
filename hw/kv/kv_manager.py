"""The KV cache's page table, its free list, and their keeper."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.words import pick
from tokenloom.hw.verilog.block import Block

__all__ = ["KvManager"]


class KvManager(Block):
    """Gives slots the pages that their sequences need, and takes them back.

    A free page is either one never used since reset (they are handed out by counting) or one that
    a release has put on the stack; stacked pages go first. So no memory needs initial values.

    Parameters
    ----------
    slots : int
        Sequences.
    pages : int
        Physical pages in total.
    positions : int
        Longest sequence.
    page_tokens : int
        Tokens per page.

    Members
    -------
    begin_valid, begin_ready : In(1), Out(1)
        A pass begins: `begin_slot` gets pages for positions below `begin_pos0` + `begin_rows`.
    begin_slot, begin_pos0, begin_rows : In
        The slot, the pass's first position and its rows (1 or more).
    done : Out(1)
        High for one cycle: the answer to the begin or the release that was taken.
    full : Out(1)
        With `done` after a begin: too few pages were free, or the sequence is longer than
        `positions`; nothing was allocated.
    release_valid, release_ready, release_slot : In(1), Out(1), In
        The slot gives back all its pages. A begin offered in the same cycle waits.
    lookup_slot, lookup_index : In
        Slot and number of the page within the sequence.
    lookup_page : Out
        Its physical page, one cycle later; meaningless unless `lookup_found`.
    lookup_found : Out(1)
        The slot has that page (same cycle as `lookup_page`).
    free_pages : Out
        Pages that no slot has.

    Latency
    -------
    A lookup one cycle, one per cycle. A begin 2 cycles and 3 more per new page; a release 2 cycles
    and 2 more per page.

    Raises
    ------
    ValueError
        When a parameter is out of range.
    """

    belt = False

    def __init__(self, *, slots: int, pages: int, positions: int, page_tokens: int) -> None:
        values = {"slots": slots, "positions": positions, "page_tokens": page_tokens}
        for name, value in values.items():
            if value < 1:
                raise ValueError(f"{name} has to be positive, not {value!r}")
        if not 1 <= pages <= 65536:
            raise ValueError(f"pages has to be from 1 to 65536, not {pages!r}")
        self._slots, self._pages = slots, pages
        self._positions, self._page_tokens = positions, page_tokens
        self._per_slot = -(-positions // page_tokens)
        page = max(1, (pages - 1).bit_length())
        slot = max(1, (slots - 1).bit_length())
        index = max(1, (self._per_slot - 1).bit_length())
        super().__init__(
            {
                "begin_valid": In(1),
                "begin_ready": Out(1),
                "begin_slot": In(slot),
                "begin_pos0": In(range(positions + 1)),
                "begin_rows": In(range(positions + 1)),
                "done": Out(1),
                "full": Out(1),
                "release_valid": In(1),
                "release_ready": Out(1),
                "release_slot": In(slot),
                "lookup_slot": In(slot),
                "lookup_index": In(index),
                "lookup_page": Out(page),
                "lookup_found": Out(1),
                "free_pages": Out(range(pages + 1)),
            },
            params=(slots, pages, positions, page_tokens),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        page_bits, index_bits = len(self.lookup_page), len(self.lookup_index)
        table_depth = self._slots << index_bits
        m.submodules.table = table = Memory(shape=page_bits, depth=table_depth, init=[])
        m.submodules.stack = stack = Memory(shape=page_bits, depth=max(2, self._pages), init=[])
        table_write, stack_write = table.write_port(), stack.write_port()
        table_read, look = table.read_port(), table.read_port()
        stack_read = stack.read_port()

        # Pages that each slot holds, and their tokens, so that nothing is divided or multiplied;
        # pages never used; pages on the stack.
        have_bits = self._per_slot.bit_length()
        reach_bits = (2 * self._positions + 2 * self._page_tokens).bit_length()
        held = [Signal(have_bits, name=f"held_{i}") for i in range(self._slots)]
        tokens = [Signal(reach_bits, name=f"tokens_{i}") for i in range(self._slots)]
        fresh = Signal(range(self._pages + 1))
        stacked = Signal(range(self._pages + 1))
        m.d.comb += self.free_pages.eq(self._pages - fresh + stacked)

        # Lookups.
        looked_held = pick(m, Cat(*held), self.lookup_slot, have_bits, self._slots)
        m.d.comb += [
            look.addr.eq(Cat(self.lookup_index, self.lookup_slot)),
            look.en.eq(1),
            self.lookup_page.eq(look.data),
        ]
        m.d.sync += self.lookup_found.eq(self.lookup_index < looked_held)

        # Begin and release: what is under way, at most one of these at a time.
        counting, fetching, giving = Signal(), Signal(), Signal()
        releasing, stacking = Signal(), Signal()
        idle = Signal()
        slot = Signal.like(self.begin_slot)
        asked = Signal.like(self.begin_slot)
        have = Signal(have_bits)
        end = Signal(range(2 * self._positions + 1))
        reach = Signal(reach_bits)
        missing = Signal(have_bits)
        m.d.comb += [
            idle.eq(~(counting | fetching | giving | releasing | stacking)),
            self.release_ready.eq(idle),
            self.begin_ready.eq(idle & ~self.release_valid),
            asked.eq(Mux(self.release_valid, self.release_slot, self.begin_slot)),
            table_read.addr.eq(Cat((have - 1)[:index_bits], slot)),
            table_read.en.eq(releasing),
            stack_read.addr.eq((stacked - 1)[: len(stack_read.addr)]),
            stack_read.en.eq(fetching),
            stack_write.addr.eq(stacked[: len(stack_write.addr)]),
            stack_write.data.eq(table_read.data),
            stack_write.en.eq(stacking),
            table_write.addr.eq(Cat(have[:index_bits], slot)),
            table_write.data.eq(Mux(stacked.any(), stack_read.data, fresh)),
            table_write.en.eq(giving),
        ]
        m.d.sync += self.done.eq(0)
        store, refuse = Signal(), Signal()

        # Take a request.
        with m.If(idle):
            m.d.sync += self.full.eq(0)
            with m.If(self.release_valid | self.begin_valid):
                m.d.sync += [
                    slot.eq(asked),
                    have.eq(pick(m, Cat(*held), asked, have_bits, self._slots)),
                    reach.eq(pick(m, Cat(*tokens), asked, reach_bits, self._slots)),
                    end.eq(self.begin_pos0 + self.begin_rows),
                    missing.eq(0),
                    releasing.eq(self.release_valid),
                    counting.eq(~self.release_valid),
                ]

        # Count the pages that are missing, then take them all or none.
        with m.If(counting):
            with m.If(end > self._positions):
                m.d.comb += refuse.eq(1)
            with m.Elif(reach < end):
                m.d.sync += [reach.eq(reach + self._page_tokens), missing.eq(missing + 1)]
            with m.Elif(missing > self.free_pages):
                m.d.comb += refuse.eq(1)
            with m.Else():
                m.d.sync += [counting.eq(0), fetching.eq(1)]
        with m.If(refuse):
            m.d.sync += [counting.eq(0), self.done.eq(1), self.full.eq(1)]

        # A page: read the stack's top, then write it (or a fresh one) into the table.
        with m.If(fetching):
            m.d.sync += fetching.eq(0)
            with m.If(missing.any()):
                m.d.sync += giving.eq(1)
            with m.Else():
                m.d.comb += store.eq(1)
        with m.If(giving):
            m.d.sync += [
                giving.eq(0),
                fetching.eq(1),
                have.eq(have + 1),
                missing.eq(missing - 1),
            ]
            with m.If(stacked.any()):
                m.d.sync += stacked.eq(stacked - 1)
            with m.Else():
                m.d.sync += fresh.eq(fresh + 1)

        # A release: read the table from its end, push onto the stack.
        with m.If(releasing):
            m.d.sync += releasing.eq(0)
            with m.If(have.any()):
                m.d.sync += stacking.eq(1)
            with m.Else():
                m.d.comb += store.eq(1)
        with m.If(stacking):
            m.d.sync += [
                stacking.eq(0),
                releasing.eq(1),
                stacked.eq(stacked + 1),
                have.eq(have - 1),
            ]
        with m.If(store):
            m.d.sync += self.done.eq(1)
            for i in range(self._slots):
                with m.If(slot == i if i else ~slot.any()):
                    m.d.sync += [held[i].eq(have), tokens[i].eq(Mux(releasing, 0, reach))]
        return m
