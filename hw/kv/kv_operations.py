"""The states in which the KV manager carries out its operations.

Each function adds the states of one operation to the manager's state machine. All of them walk
over a slot's logical pages with one address, `i`: in one cycle an entry is read, in the next one
its page's count; the walk ends at `stop`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from amaranth.hdl import Cat, Module, Mux, Signal, Value

from tokenloom.hw.kv.ref_counts import RefOp
from tokenloom.hw.numbers.words import pick

if TYPE_CHECKING:
    from tokenloom.hw.kv.kv_manager import KvManager

__all__ = ["Answer", "Operation", "add_begin", "add_drop", "add_evict", "add_fork", "least", "most"]


class Answer(IntEnum):
    """How an operation ended; after all but DONE nothing was allocated, shared or evicted."""

    DONE = 0
    NO_PAGE = 1
    """A begin needs more pages than are free."""
    TOO_LONG = 2
    """A begin goes beyond `positions`, or the slot would hold more than `slot_pages`."""
    GONE = 3
    """A begin would write behind tokens that left the window or were evicted."""
    IN_USE = 4
    """A fork's new slot holds a sequence."""
    NO_VICTIM = 5
    """No page may be evicted."""
    NO_SLOT = 6
    """There is no such slot."""


def least(a: Value, b: Value) -> Value:
    """The smaller one."""
    return Mux(a < b, a, b)


def most(a: Value, b: Value) -> Value:
    """The larger one."""
    return Mux(a > b, a, b)


class Operation:
    """The operation under way: registers that its states share.

    Parameters
    ----------
    ports : KvManager
        The manager, its ports and parts.

    Members
    -------
    slot, other : the slot, and a fork's second one
    pos0, pos1, window : range of positions (a fork's: 0 long, behind the tokens), window
    releasing, forking, evicting, every : which operation; an evict of all slots
    outside : one of its slots is none
    first, end, floor : the slot's state, see `PageTable`
    keep_from : first logical page in which a row of the pass sees tokens
    write_from, need_end : logical pages that are written: the first one, the end
    i, stop : where the walk is, and its end
    there : the entry read before this one had a page
    missing, dirty, gone : pages to allocate; some of them in place of others; tokens are missing
    shared, old : the page to be replaced is another slot's as well; which it is
    scanning, scanned : the entry read last, of this slot and logical page, may be a candidate
    looking, looked, looked_page : the one before is there, and where
    settle : cycles until the last candidate is judged
    """

    def __init__(self, ports: KvManager) -> None:
        self.ports = ports
        mark, page_bits = len(ports.table.state_end), len(ports.table.lookup_page)
        self.shift = len(ports.copy_tokens)
        self.slot, self.other = Signal.like(ports.begin_slot), Signal.like(ports.begin_slot)
        self.pos0, self.window = Signal.like(ports.begin_pos0), Signal.like(ports.begin_pos0)
        self.pos1 = Signal(len(ports.begin_pos0) + 1)
        self.releasing, self.forking, self.evicting = Signal(), Signal(), Signal()
        self.every, self.outside = Signal(), Signal()
        self.first, self.end, self.floor = Signal(mark), Signal(mark), Signal(mark)
        self.keep_from, self.write_from = Signal(mark), Signal(mark)
        self.need_end = Signal(mark + 1)
        self.i, self.stop, self.there = Signal(mark), Signal(mark), Signal()
        self.missing, self.dirty, self.gone = Signal(mark + 1), Signal(), Signal()
        self.shared, self.old = Signal(), Signal(page_bits)
        place = Signal(len(self.slot) + mark)
        self.scanning, self.scanned = Signal(), Signal.like(place)
        self.looking, self.looked = Signal(), Signal.like(place)
        self.looked_page = Signal(page_bits)
        self.settle = Signal(range(ports.eviction.LATENCY))

    def answer(self, m: Module, value: Answer) -> None:
        """Ends the operation."""
        m.d.sync += [
            self.ports.done.eq(1),
            self.ports.full.eq(value != Answer.DONE),
            self.ports.answer.eq(value),
        ]
        m.next = "idle"


def add_drop(m: Module, op: Operation) -> None:
    """A release, and the first part of a begin: pages i to `stop` are given back.

    The entries are out of reach by then: the slot's range ends before them.
    """
    table, free, counts = op.ports.table, op.ports.free, op.ports.counts
    with m.State("drop"):
        m.d.comb += [
            free.give_valid.eq(op.there & (counts.was == 1)),
            table.entry_read.eq(1),
        ]
        m.next = "dropped"
        with m.If(op.i == op.stop):
            m.d.sync += op.there.eq(0)
            m.next = "begin"
            with m.If(op.releasing):
                op.answer(m, Answer.DONE)
    with m.State("dropped"):
        m.d.comb += [counts.valid.eq(table.entry_there), counts.op.eq(RefOp.DROP)]
        m.d.sync += [op.there.eq(table.entry_there), op.i.eq(op.i + 1)]
        m.next = "drop"


def add_begin(m: Module, op: Operation) -> None:
    """A begin: first what leaves the window is given back, then counted, then allocated."""
    table, free, counts = op.ports.table, op.ports.free, op.ports.counts
    last_end = most(op.need_end, op.end)
    unfinished = op.pos0[: op.shift].any()
    with m.State("begin"):
        m.d.sync += [
            op.i.eq(least(op.write_from, op.end)),
            op.stop.eq(least(op.need_end, op.end)),
            op.missing.eq(Mux(op.need_end > op.end, op.need_end - op.end, 0)),
        ]
        m.next = "survey"
        with m.If(op.pos1 > op.ports.positions):
            op.answer(m, Answer.TOO_LONG)
        with m.Elif(op.keep_from > op.first):
            m.d.comb += [
                table.set_first.eq(op.keep_from),
                table.set_end.eq(most(op.keep_from, op.end)),
                table.state_write.eq(pick(m, table.live, op.slot, 1, op.ports.slots)),
            ]
            m.d.sync += [
                op.first.eq(op.keep_from),
                op.end.eq(table.set_end),
                op.i.eq(op.first),
                op.stop.eq(least(op.keep_from, op.end)),
            ]
            m.next = "drop"
        with m.Elif(op.write_from < op.first):
            op.answer(m, Answer.GONE)
        with m.Elif(last_end - op.first > op.ports.slot_pages):
            op.answer(m, Answer.TOO_LONG)

    # Pages held that the pass writes into: which of them have to be replaced?
    with m.State("survey"):
        with m.If(op.there & (counts.was != 1)):
            m.d.sync += [op.missing.eq(op.missing + 1), op.dirty.eq(1)]
        m.d.comb += table.entry_read.eq(1)
        m.next = "surveyed"
        with m.If(op.i == op.stop):
            m.next = "decide"
    with m.State("surveyed"):
        m.d.comb += [counts.valid.eq(table.entry_there), counts.op.eq(RefOp.READ)]
        m.d.sync += [op.there.eq(table.entry_there), op.i.eq(op.i + 1)]
        with m.If(~table.entry_there):
            m.d.sync += [op.missing.eq(op.missing + 1), op.dirty.eq(1)]
            with m.If((op.i == op.write_from) & unfinished):
                m.d.sync += op.gone.eq(1)
        m.next = "survey"
    with m.State("decide"):
        with m.If(op.dirty):
            m.d.sync += op.i.eq(op.write_from)
        m.next = "give"
        with m.If(op.gone):
            op.answer(m, Answer.GONE)
        with m.Elif(op.missing > free.count):
            op.answer(m, Answer.NO_PAGE)

    # Page by page, up to the end of what is needed.
    with m.State("give"):
        m.d.sync += op.shared.eq(0)
        m.d.comb += [
            table.entry_read.eq(1),
            table.set_end.eq(last_end),
            table.set_floor.eq(op.write_from),
        ]
        m.next = "count"
        with m.If(op.i == op.need_end):
            m.d.comb += table.state_write.eq(1)
            op.answer(m, Answer.DONE)
        with m.Elif(op.i >= op.end):
            m.d.comb += free.take_valid.eq(1)
            m.next = "store"
    with m.State("count"):
        m.d.comb += [counts.valid.eq(table.entry_there), counts.op.eq(RefOp.READ)]
        m.d.sync += [op.there.eq(table.entry_there), op.old.eq(table.entry_page)]
        m.next = "judge"
    with m.State("judge"):
        m.d.sync += op.shared.eq(op.there)
        m.d.comb += free.take_valid.eq(~op.there | (counts.was != 1))
        m.next = "store"
        with m.If(~free.take_valid):
            m.d.sync += op.i.eq(op.i + 1)
            m.next = "give"
        with m.Elif(op.there & (op.i == op.write_from) & unfinished):
            m.next = "copy"
    with m.State("copy"):
        m.d.comb += op.ports.copy_valid.eq(1)
        with m.If(op.ports.copy_ready):
            m.next = "store"
    with m.State("store"):
        m.d.comb += [
            table.entry_write.eq(1),
            counts.valid.eq(1),
            counts.op.eq(RefOp.SET),
            counts.page.eq(free.page),
            op.ports.use.fresh_valid.eq(1),
        ]
        m.d.sync += op.i.eq(op.i + 1)
        m.next = "give"
        with m.If(op.shared):
            m.next = "leave"
    with m.State("leave"):
        m.d.comb += [
            counts.valid.eq(1),
            counts.op.eq(RefOp.DROP),
            counts.page.eq(op.old),
        ]
        m.next = "give"


def add_fork(m: Module, op: Operation) -> None:
    """A fork: entry after entry into the other slot, two cycles each."""
    table, counts = op.ports.table, op.ports.counts
    with m.State("fork"):
        m.d.sync += [
            op.stop.eq(most(op.first, least(op.need_end, op.end))),
            op.floor.eq(least(op.floor, op.write_from)),
        ]
        m.next = "share"
        with m.If(pick(m, table.live, op.other, 1, op.ports.slots) | (op.slot == op.other)):
            op.answer(m, Answer.IN_USE)
    with m.State("share"):
        m.d.comb += [
            table.entry_read.eq(1),
            table.state_slot.eq(op.other),
            table.set_end.eq(op.stop),
        ]
        m.next = "shared"
        with m.If(op.i == op.stop):
            m.d.comb += table.state_write.eq(1)
            op.answer(m, Answer.DONE)
    with m.State("shared"):
        m.d.comb += [
            table.entry_slot.eq(op.other),
            table.entry_write.eq(1),
            table.set_there.eq(table.entry_there),
            table.set_page.eq(table.entry_page),
            counts.valid.eq(table.entry_there),
            counts.op.eq(RefOp.ADD),
        ]
        m.d.sync += op.i.eq(op.i + 1)
        m.next = "share"


def add_evict(m: Module, op: Operation) -> None:
    """An evict: slot after slot, page after page, one per cycle, then the best one goes."""
    table, free, counts, use = op.ports.table, op.ports.free, op.ports.counts, op.ports.use
    eviction = op.ports.eviction

    # Candidates on their way: the entry is read, then count and use, then the choice begins.
    m.d.sync += [
        op.scanned.eq(Cat(op.slot, op.i)),
        op.looking.eq(op.scanning & table.entry_there),
        op.looked.eq(op.scanned),
        op.looked_page.eq(table.entry_page),
    ]
    best_slot, best_index = Signal.like(op.slot), Signal.like(op.i)
    best_page = Signal.like(op.old)
    m.d.comb += [
        use.look_page.eq(table.entry_page),
        eviction.valid.eq(op.looking & (counts.was == 1)),
        eviction.tag.eq(Cat(op.looked, op.looked_page)),
        eviction.age.eq(use.age),
        eviction.frequency.eq(use.frequency),
        eviction.mass.eq(use.mass),
        eviction.weight_recency.eq(op.ports.weight_recency),
        eviction.weight_frequency.eq(op.ports.weight_frequency),
        eviction.weight_mass.eq(op.ports.weight_mass),
        Cat(best_slot, best_index, best_page).eq(eviction.best),
    ]
    with m.State("range"):
        m.d.sync += [
            op.i.eq(most(op.ports.sinks, op.first)),
            op.stop.eq(least(op.floor, op.end)),
        ]
        m.next = "scan"
    with m.State("scan"):
        with m.If(op.i < op.stop):
            m.d.comb += table.entry_read.eq(1)
            m.d.sync += [op.scanning.eq(1), op.i.eq(op.i + 1)]
        with m.Elif(op.every & (op.slot != op.ports.slots - 1)):
            m.d.comb += [table.state_read.eq(1), table.state_slot.eq(op.slot + 1)]
            m.d.sync += op.slot.eq(op.slot + 1)
            m.next = "state"
        with m.Else():
            m.next = "settle"
    with m.State("settle"):
        m.d.sync += op.settle.eq(op.settle - 1)
        with m.If(op.settle == 0):
            m.next = "evict"
    with m.State("evict"):
        m.d.comb += [
            table.entry_slot.eq(best_slot),
            table.entry_index.eq(best_index),
            table.set_there.eq(0),
            counts.page.eq(best_page),
            counts.op.eq(RefOp.DROP),
            free.give_page.eq(best_page),
        ]
        m.d.sync += [
            op.ports.victim_slot.eq(best_slot),
            op.ports.victim_index.eq(best_index),
            op.ports.victim_page.eq(best_page),
        ]
        with m.If(eviction.found):
            m.d.comb += [
                table.entry_write.eq(1),
                counts.valid.eq(1),
                free.give_valid.eq(1),
            ]
            op.answer(m, Answer.DONE)
        with m.Else():
            op.answer(m, Answer.NO_VICTIM)
