"""Which physical page holds which part of each slot's sequence."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.kv.free_list import check_pages
from tokenloom.hw.numbers.words import pick
from tokenloom.hw.verilog.block import Block

__all__ = ["PageTable"]


class PageTable(Block):
    """A ring of entries per slot, and where each slot's sequence begins and ends in it.

    A slot holds the logical pages `first` to `end` - 1 of its sequence; page i lies in entry
    i mod 2^k of the slot's ring, so a sequence may be longer than the ring as long as what it
    holds is not. An entry says whether the page is there (an evicted page is not) and which
    physical page it is. Nothing outside of that range is ever looked at, so neither memory needs
    initial contents: only the slots' `live` bits are registers.

    Parameters
    ----------
    slots : int
        Sequences.
    pages : int
        Physical pages, at most 65,536.
    slot_pages : int
        Pages that a slot holds at most; its ring has the next power of two of entries.
    sequence_pages : int
        Pages of the longest sequence, held or not: logical pages are 0..sequence_pages-1.

    Members
    -------
    lookup_slot, lookup_index : In
        Slot and logical page.
    lookup_page, lookup_found : Out, Out(1)
        Its physical page, one cycle later, and whether the slot holds it: the page is
        meaningless unless it does.
    live : Out(slots)
        Slots that hold a sequence.
    state_slot, state_read, state_write : In, In(1), In(1)
        Read or write a slot's state (not both in one cycle).
    state_first, state_end, state_floor : Out
        From the cycle after a read until the next: the range held, and the logical page from
        which on the slot's pages may be being written; 0, 0, 0 of a slot that is not live.
    set_live, set_first, set_end, set_floor : In
        What is written.
    entry_slot, entry_index, entry_read, entry_write : In, In, In(1), In(1)
        Read or write an entry by its logical page (not both in one cycle).
    entry_there, entry_page : Out(1), Out
        From the cycle after a read until the next.
    set_there, set_page : In(1), In
        What is written.

    Latency
    -------
    `LATENCY` = 1 cycle for each of the three reads, one of each per cycle. A read in the cycle of
    a write gets what was there before.

    Raises
    ------
    ValueError
        When a parameter is out of range.
    """

    belt = False
    LATENCY = 1

    def __init__(self, *, slots: int, pages: int, slot_pages: int, sequence_pages: int) -> None:
        check_pages(pages)
        if slots < 1:
            raise ValueError(f"slots has to be positive, not {slots!r}")
        if not 1 <= slot_pages <= sequence_pages:
            raise ValueError(
                f"slot_pages has to be from 1 to sequence_pages = {sequence_pages}, "
                f"not {slot_pages!r}"
            )
        self._slots, self._pages, self._slot_pages = slots, pages, slot_pages
        slot = max(1, (slots - 1).bit_length())
        page = max(1, (pages - 1).bit_length())
        index = max(1, (sequence_pages - 1).bit_length())
        mark = sequence_pages.bit_length()
        super().__init__(
            {
                "lookup_slot": In(slot),
                "lookup_index": In(index),
                "lookup_page": Out(page),
                "lookup_found": Out(1),
                "live": Out(slots),
                "state_slot": In(slot),
                "state_read": In(1),
                "state_write": In(1),
                "state_first": Out(mark),
                "state_end": Out(mark),
                "state_floor": Out(mark),
                "set_live": In(1),
                "set_first": In(mark),
                "set_end": In(mark),
                "set_floor": In(mark),
                "entry_slot": In(slot),
                "entry_index": In(mark),
                "entry_read": In(1),
                "entry_write": In(1),
                "entry_there": Out(1),
                "entry_page": Out(page),
                "set_there": In(1),
                "set_page": In(page),
            },
            params=(slots, pages, slot_pages, sequence_pages),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        mark, ring = len(self.set_end), max(1, (self._slot_pages - 1).bit_length())
        m.submodules.entries = entries = Memory(
            shape=1 + len(self.set_page), depth=1 << (ring + len(self.entry_slot)), init=[]
        )
        m.submodules.states = states = Memory(
            shape=3 * mark, depth=1 << len(self.state_slot), init=[]
        )
        # One port of each memory is for look-ups; the other reads or writes.
        look, look_state = entries.read_port(), states.read_port()
        entry_read, entry_write = entries.read_port(), entries.write_port()
        state_read, state_write = states.read_port(), states.write_port()

        def is_live(slot: Value) -> Signal:
            ids = 1 << len(slot)  # more than there are slots: the others hold nothing
            return pick(m, Cat(self.live, Const(0, ids - self._slots)), slot, 1, ids)

        # Look-ups: entry and range are read in the same cycle.
        asked, looked_live = Signal.like(self.lookup_index), Signal()
        m.d.sync += [asked.eq(self.lookup_index), looked_live.eq(is_live(self.lookup_slot))]
        low, high = look_state.data[:mark], look_state.data[mark : 2 * mark]
        m.d.comb += [
            look.addr.eq(Cat(self.lookup_index[:ring], self.lookup_slot)),
            look.en.eq(1),
            look_state.addr.eq(self.lookup_slot),
            look_state.en.eq(1),
            self.lookup_page.eq(look.data[1:]),
            self.lookup_found.eq(look.data[0] & looked_live & (asked >= low) & (asked < high)),
        ]

        # Slots' states.
        read_live = Signal()
        m.d.comb += [
            state_read.addr.eq(self.state_slot),
            state_read.en.eq(self.state_read),
            state_write.addr.eq(self.state_slot),
            state_write.en.eq(self.state_write),
            state_write.data.eq(Cat(self.set_first, self.set_end, self.set_floor)),
            Cat(self.state_first, self.state_end, self.state_floor).eq(
                Mux(read_live, state_read.data, 0)
            ),
        ]
        with m.If(self.state_read):
            m.d.sync += read_live.eq(is_live(self.state_slot))
        with m.If(self.state_write):
            for i in range(self._slots):
                with m.If(self.state_slot == i):
                    m.d.sync += self.live[i].eq(self.set_live)

        # Entries.
        entry = Cat(self.entry_index[:ring], self.entry_slot)
        m.d.comb += [
            entry_read.addr.eq(entry),
            entry_read.en.eq(self.entry_read),
            entry_write.addr.eq(entry),
            entry_write.en.eq(self.entry_write),
            entry_write.data.eq(Cat(self.set_there, self.set_page)),
            self.entry_there.eq(entry_read.data[0]),
            self.entry_page.eq(entry_read.data[1:]),
        ]
        return m
