"""The KV cache's pages: who has which, from allocation over sharing to eviction."""

from __future__ import annotations

from enum import IntEnum

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib.wiring import In, Out

from tokenloom.hw.kv.eviction import Eviction
from tokenloom.hw.kv.eviction_policy import MASS_BITS, WEIGHT_BITS
from tokenloom.hw.kv.free_list import FreeList
from tokenloom.hw.kv.page_table import PageTable
from tokenloom.hw.kv.page_use import PageUse
from tokenloom.hw.kv.ref_counts import RefCounts, RefOp
from tokenloom.hw.numbers.words import pick
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["Answer", "KvManager"]


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


class KvManager(Block):
    """Gives slots the pages that their sequences need, shares, evicts, and takes them back.

    One operation at a time; look-ups and uses go on beside it. A page has as many owners as
    `RefCounts` says, each slot at most once, and is free when it has none.

    * A *begin* gives a slot all pages for the positions below `begin_pos0` + `begin_rows`: all or
      none. A page that the pass will write into (from `begin_pos0` on) and that another slot has
      as well is replaced by a new one; when tokens before `begin_pos0` lie in it, `copy_*` asks
      for them to be copied, and the begin waits. A page evicted from there is allocated anew.
      With a window of W tokens, pages whose tokens no row of the pass attends to (all before
      position `begin_pos0` + 1 - W) are given back first, also when the begin is then refused.
    * A *fork* makes a slot that holds nothing share the pages of another one, as far as they hold
      its first `fork_tokens` tokens. Nothing is copied until one of them writes.
    * A *release* gives back all pages of a slot.
    * An *evict* gives back the page that `eviction_policy.choose` names among those of one slot
      or of all: pages that nobody shares, from logical page `sinks` on, before the page in which
      the slot's last pass began to write (`floor`). Slots count up, and so do their pages.

    Parameters
    ----------
    slots : int
        Sequences.
    pages : int
        Physical pages in total, at most 65,536.
    positions : int
        Longest sequence.
    page_tokens : int
        Tokens per page, a power of two from 2 to 256.
    slot_pages : int, optional
        Pages that a slot holds at most; all of a sequence without it. Less makes a smaller table,
        for windows and evicted sequences.
    stamp_bits : int
        See `PageUse`.

    Members
    -------
    begin_valid, begin_ready : In(1), Out(1)
        A pass begins.
    begin_slot, begin_pos0, begin_rows, begin_window : In
        Its slot, first position and rows (1 or more); tokens of the window, 0 for none.
    fork_valid, fork_ready, fork_slot, fork_to, fork_tokens : In(1), Out(1), In
        `fork_to` shares pages of `fork_slot`.
    release_valid, release_ready, release_slot : In(1), Out(1), In
        A slot gives back all its pages.
    evict_valid, evict_ready, evict_slot, evict_all : In(1), Out(1), In, In(1)
        One page of the slot, or of all slots, is to be evicted.
    done : Out(1)
        High for one cycle: the answer to the operation that was taken. Of operations offered in
        the same cycle, release goes first, then begin, fork, evict.
    full, answer : Out(1), Out(3)
        With `done`: the operation was refused; why (`Answer`).
    victim_slot, victim_index, victim_page : Out
        From `done` after an evict that was not refused: slot, logical and physical page.
    copy_valid, copy_ready, copy_old, copy_new, copy_tokens : Out(1), In(1), Out
        The first so many tokens of one physical page are to be copied to another. `copy_ready`
        says that they were, or that the reads of it are ordered before every later write.
    lookup_slot, lookup_index : In
        Slot and logical page, that is position / page_tokens, in a window as well.
    lookup_page : Out
        Its physical page, one cycle later; meaningless unless `lookup_found`.
    lookup_found : Out(1)
        The slot has that page (same cycle as `lookup_page`): not if it was never reached, left
        the window, or was evicted. A slot being changed shows each page before or after.
    free_pages : Out
        Pages that no slot has.
    tick, use_valid, use_ready, use_page, use_mass : In(1), In(1), Out(1), In, In
        Epochs and uses of pages, see `PageUse`; a use waits while a victim is searched. An
        allocated page begins with none.
    weight_recency, weight_frequency, weight_mass : In(8)
        What each counts for, constant during an evict.
    sinks : In
        Logical pages at a sequence's start that are never evicted.

    Latency
    -------
    A look-up one cycle, one per cycle.

    Duration
    --------
    From taking the operation to `done`: `begin_cycles`, `fork_cycles`, `release_cycles`,
    `evict_cycles`.

    Raises
    ------
    ValueError
        When a parameter is out of range.
    """

    belt = False

    def __init__(
        self,
        *,
        slots: int,
        pages: int,
        positions: int,
        page_tokens: int,
        slot_pages: int | None = None,
        stamp_bits: int = 12,
    ) -> None:
        if positions < 1:
            raise ValueError(f"positions has to be positive, not {positions!r}")
        if not 2 <= page_tokens <= 256 or page_tokens & (page_tokens - 1):
            raise ValueError(
                f"page_tokens has to be a power of two from 2 to 256, not {page_tokens!r}"
            )
        sequence_pages = -(-positions // page_tokens)
        if slot_pages is None:
            slot_pages = sequence_pages
        self._slots, self._pages, self._positions = slots, pages, positions
        self._page_tokens, self._slot_pages, self._stamp = page_tokens, slot_pages, stamp_bits
        self.table = PageTable(
            slots=slots, pages=pages, slot_pages=slot_pages, sequence_pages=sequence_pages
        )
        self.free = FreeList(pages=pages)
        self.counts = RefCounts(pages=pages, most=slots)
        self.use = PageUse(pages=pages, stamp_bits=stamp_bits)
        slot, page = len(self.table.lookup_slot), len(self.table.lookup_page)
        index, mark = len(self.table.lookup_index), len(self.table.state_end)
        self.eviction = Eviction(tag_bits=slot + mark + page)
        super().__init__(
            {
                "begin_valid": In(1),
                "begin_ready": Out(1),
                "begin_slot": In(slot),
                "begin_pos0": In(range(positions + 1)),
                "begin_rows": In(range(positions + 1)),
                "begin_window": In(range(positions + 1)),
                "fork_valid": In(1),
                "fork_ready": Out(1),
                "fork_slot": In(slot),
                "fork_to": In(slot),
                "fork_tokens": In(range(positions + 1)),
                "release_valid": In(1),
                "release_ready": Out(1),
                "release_slot": In(slot),
                "evict_valid": In(1),
                "evict_ready": Out(1),
                "evict_slot": In(slot),
                "evict_all": In(1),
                "done": Out(1),
                "full": Out(1),
                "answer": Out(3),
                "victim_slot": Out(slot),
                "victim_index": Out(index),
                "victim_page": Out(page),
                "copy_valid": Out(1),
                "copy_ready": In(1),
                "copy_old": Out(page),
                "copy_new": Out(page),
                "copy_tokens": Out(page_tokens.bit_length() - 1),
                "lookup_slot": In(slot),
                "lookup_index": In(index),
                "lookup_page": Out(page),
                "lookup_found": Out(1),
                "free_pages": Out(range(pages + 1)),
                "tick": In(1),
                "use_valid": In(1),
                "use_ready": Out(1),
                "use_page": In(page),
                "use_mass": In(MASS_BITS),
                "weight_recency": In(WEIGHT_BITS),
                "weight_frequency": In(WEIGHT_BITS),
                "weight_mass": In(WEIGHT_BITS),
                "sinks": In(mark),
            },
            params=(slots, pages, positions, page_tokens, slot_pages, stamp_bits),
        )

    @staticmethod
    def begin_cycles(
        *, written: int, new: int, trimmed: int | None = None, kept: int = 0, evicted: int = 0,
        shared: int = 0, copies: int = 0,
    ) -> int:  # fmt: skip
        """Cycles of a begin that is not refused.

        Parameters
        ----------
        written : int
            Pages held that the pass writes into; when none of them is shared or evicted, the next
            three count as 0.
        new : int
            Pages beyond those held.
        trimmed : int or None
            Pages that the sequence held and that leave the window; None when it does not move.
        kept, evicted, shared : int
            Written pages of one's own, missing ones, shared ones.
        copies : int
            Cycles of `copy_valid`.
        """
        trim = 0 if trimmed is None else 2 * trimmed + 2
        act = 3 * kept + 4 * evicted + 5 * shared + copies + 2 * new
        return 6 + trim + 2 * written + act

    @staticmethod
    def fork_cycles(pages: int) -> int:
        """Cycles of a fork that shares so many pages (or would, had they not been evicted)."""
        return 4 + 2 * pages

    @staticmethod
    def release_cycles(pages: int) -> int:
        """Cycles of a release of a slot with so many pages, from first to end."""
        return 3 + 2 * pages

    @staticmethod
    def evict_cycles(candidates: int, slots: int = 1) -> int:
        """Cycles of an evict among so many pages (shared and evicted ones too) of those slots."""
        return 2 + 3 * slots + candidates + Eviction.LATENCY

    def elaborate(self, platform: object) -> Module:
        m = Module()
        table, free, counts = self.table, self.free, self.counts
        m.submodules.page_table = instance(table)
        m.submodules.free_list = instance(free)
        m.submodules.ref_counts = instance(counts)
        m.submodules.page_use = instance(self.use)
        m.submodules.eviction = instance(self.eviction)
        shift = self._page_tokens.bit_length() - 1
        mark, page_bits = len(table.state_end), len(table.lookup_page)

        # The operation: its slot (the second one of a fork), its range of positions and window,
        # and what the table says of the slot.
        slot, other = Signal.like(self.begin_slot), Signal.like(self.begin_slot)
        pos0, window = Signal.like(self.begin_pos0), Signal.like(self.begin_pos0)
        pos1 = Signal(range(2 * self._positions + 1))
        every = Signal()
        first, end, floor = Signal(mark), Signal(mark), Signal(mark)
        # Logical pages: the first that is written and the end of what is needed.
        write_from, need_end = Signal(mark), Signal(mark + 1)
        i, stop = Signal(mark), Signal(mark)
        # The entry read last was there; pages to allocate, and whether all are beyond `end`.
        there, missing, dirty, gone = Signal(), Signal(mark + 1), Signal(), Signal()
        scanning = Signal()
        shared, old, settle = Signal(), Signal(page_bits), Signal(range(Eviction.LATENCY))

        m.d.comb += [
            table.lookup_slot.eq(self.lookup_slot),
            table.lookup_index.eq(self.lookup_index),
            self.lookup_page.eq(table.lookup_page),
            self.lookup_found.eq(table.lookup_found),
            self.free_pages.eq(free.count),
            table.state_slot.eq(slot),
            table.set_live.eq(1),
            table.set_first.eq(first),
            table.set_end.eq(end),
            table.set_floor.eq(floor),
            table.entry_slot.eq(slot),
            table.entry_index.eq(i),
            table.set_there.eq(1),
            table.set_page.eq(free.page),
            free.give_page.eq(table.entry_page),
            counts.page.eq(table.entry_page),
            counts.valid.eq(scanning),
            self.use.tick.eq(self.tick),
            self.use.use_valid.eq(self.use_valid),
            self.use_ready.eq(self.use.use_ready),
            self.use.use_page.eq(self.use_page),
            self.use.use_mass.eq(self.use_mass),
            self.use.fresh_page.eq(free.page),
            self.use.look_page.eq(table.entry_page),
            self.copy_old.eq(old),
            self.copy_new.eq(free.page),
            self.copy_tokens.eq(pos0[:shift]),
        ]
        m.d.sync += self.done.eq(0)
        # The first page of which a row of the pass sees tokens; the range's end after a begin.
        over, keep_from = Signal.like(pos1), Signal(mark)
        m.d.comb += over.eq(pos0 + 1)
        with m.If(window.any() & (over > window)):
            m.d.comb += keep_from.eq((over - window)[: len(pos0)] >> shift)
        last_end = Mux(need_end > end, need_end, end)

        def answer(value: Answer) -> None:
            m.d.sync += [self.done.eq(1), self.full.eq(value != Answer.DONE), self.answer.eq(value)]
            m.next = "idle"

        def least(a: Value, b: Value) -> Value:
            return Mux(a < b, a, b)

        # Candidates on their way: the entry is read, then count and use, then the choice begins.
        looking = Signal()
        scanned, looked = (Signal(len(slot) + mark, name=n) for n in ("scanned", "looked"))
        looked_page = Signal(page_bits)
        m.d.sync += [
            scanned.eq(Cat(slot, i)),
            looking.eq(scanning & table.entry_there),
            looked.eq(scanned),
            looked_page.eq(table.entry_page),
        ]
        best_slot, best_index, best_page = (Signal(n) for n in (len(slot), mark, page_bits))
        m.d.comb += [
            self.eviction.valid.eq(looking & (counts.was == 1)),
            self.eviction.tag.eq(Cat(looked, looked_page)),
            self.eviction.age.eq(self.use.age),
            self.eviction.frequency.eq(self.use.frequency),
            self.eviction.mass.eq(self.use.mass),
            self.eviction.weight_recency.eq(self.weight_recency),
            self.eviction.weight_frequency.eq(self.weight_frequency),
            self.eviction.weight_mass.eq(self.weight_mass),
            Cat(best_slot, best_index, best_page).eq(self.eviction.best),
        ]
        m.d.sync += scanning.eq(0)

        releasing, evicting, forking = Signal(), Signal(), Signal()
        m.d.comb += self.use.hold.eq(evicting)
        with m.FSM():
            with m.State("idle"):
                m.d.comb += [
                    self.release_ready.eq(1),
                    self.begin_ready.eq(~self.release_valid),
                    self.fork_ready.eq(~self.release_valid & ~self.begin_valid),
                    self.evict_ready.eq(
                        ~self.release_valid & ~self.begin_valid & ~self.fork_valid
                    ),
                    table.state_read.eq(1),
                ]
                m.d.sync += [
                    slot.eq(table.state_slot),
                    other.eq(self.fork_to),
                    pos0.eq(Mux(self.begin_valid, self.begin_pos0, self.fork_tokens)),
                    pos1.eq(
                        Mux(self.begin_valid, self.begin_pos0 + self.begin_rows, self.fork_tokens)
                    ),
                    window.eq(self.begin_window),
                    releasing.eq(0),
                    forking.eq(0),
                    evicting.eq(0),
                ]
                with m.If(self.release_valid):
                    m.d.comb += table.state_slot.eq(self.release_slot)
                    m.d.sync += releasing.eq(1)
                    m.next = "state"
                with m.Elif(self.begin_valid):
                    m.d.comb += table.state_slot.eq(self.begin_slot)
                    m.next = "state"
                with m.Elif(self.fork_valid):
                    m.d.comb += table.state_slot.eq(self.fork_slot)
                    m.d.sync += forking.eq(1)
                    m.next = "state"
                with m.Elif(self.evict_valid):
                    m.d.comb += [
                        table.state_slot.eq(Mux(self.evict_all, 0, self.evict_slot)),
                        self.eviction.clear.eq(1),
                    ]
                    m.d.sync += [every.eq(self.evict_all), evicting.eq(1)]
                    m.next = "state"
            with m.State("state"):
                m.d.sync += [
                    first.eq(table.state_first),
                    end.eq(table.state_end),
                    floor.eq(table.state_floor),
                    write_from.eq(pos0 >> shift),
                    need_end.eq((pos1 + (self._page_tokens - 1)) >> shift),
                    i.eq(table.state_first),
                    stop.eq(table.state_end),
                    there.eq(0),
                    dirty.eq(0),
                    gone.eq(0),
                    shared.eq(0),
                    settle.eq(Eviction.LATENCY - 1),
                ]
                with m.If(releasing):
                    m.d.comb += [table.state_write.eq(1), table.set_live.eq(0)]
                    m.next = "drop"
                with m.Elif(forking):
                    m.next = "fork"
                with m.Elif(evicting):
                    m.next = "range"
                with m.Else():
                    m.next = "begin"

            # Pages i to `stop` are given back: two cycles each.
            with m.State("drop"):
                m.d.comb += [
                    free.give_valid.eq(there & (counts.was == 1)),
                    table.entry_read.eq(1),
                ]
                m.next = "dropped"
                with m.If(i == stop):
                    m.d.sync += there.eq(0)
                    m.next = "begin"
                    with m.If(releasing):
                        answer(Answer.DONE)
            with m.State("dropped"):
                m.d.comb += [counts.valid.eq(table.entry_there), counts.op.eq(RefOp.DROP)]
                m.d.sync += [there.eq(table.entry_there), i.eq(i + 1)]
                m.next = "drop"

            # A begin. What leaves the window goes first.
            with m.State("begin"):
                m.d.sync += [
                    i.eq(least(write_from, end)),
                    stop.eq(least(need_end, end)),
                    missing.eq(Mux(need_end > end, need_end - end, 0)),
                ]
                m.next = "survey"
                with m.If(pos1 > self._positions):
                    answer(Answer.TOO_LONG)
                with m.Elif(keep_from > first):
                    m.d.comb += [
                        table.set_first.eq(keep_from),
                        table.set_end.eq(Mux(keep_from > end, keep_from, end)),
                        table.state_write.eq(pick(m, table.live, slot, 1, self._slots)),
                    ]
                    m.d.sync += [
                        first.eq(keep_from),
                        end.eq(table.set_end),
                        i.eq(first),
                        stop.eq(least(keep_from, end)),
                    ]
                    m.next = "drop"
                with m.Elif(write_from < first):
                    answer(Answer.GONE)
                with m.Elif(last_end - first > self._slot_pages):
                    answer(Answer.TOO_LONG)

            # Pages held that the pass writes into: which of them have to be replaced?
            with m.State("survey"):
                with m.If(there & (counts.was != 1)):
                    m.d.sync += [missing.eq(missing + 1), dirty.eq(1)]
                m.d.comb += table.entry_read.eq(1)
                m.next = "surveyed"
                with m.If(i == stop):
                    m.next = "decide"
            with m.State("surveyed"):
                m.d.comb += [counts.valid.eq(table.entry_there), counts.op.eq(RefOp.READ)]
                m.d.sync += [there.eq(table.entry_there), i.eq(i + 1)]
                with m.If(~table.entry_there):
                    m.d.sync += [missing.eq(missing + 1), dirty.eq(1)]
                    with m.If((i == write_from) & pos0[:shift].any()):
                        m.d.sync += gone.eq(1)
                m.next = "survey"
            with m.State("decide"):
                with m.If(dirty):
                    m.d.sync += i.eq(write_from)
                m.next = "give"
                with m.If(gone):
                    answer(Answer.GONE)
                with m.Elif(missing > free.count):
                    answer(Answer.NO_PAGE)

            # Page by page, up to the end of what is needed.
            with m.State("give"):
                m.d.sync += shared.eq(0)
                m.d.comb += [
                    table.entry_read.eq(1),
                    table.set_end.eq(last_end),
                    table.set_floor.eq(write_from),
                ]
                m.next = "count"
                with m.If(i == need_end):
                    m.d.comb += table.state_write.eq(1)
                    answer(Answer.DONE)
                with m.Elif(i >= end):
                    m.d.comb += free.take_valid.eq(1)
                    m.next = "store"
            with m.State("count"):
                m.d.comb += [counts.valid.eq(table.entry_there), counts.op.eq(RefOp.READ)]
                m.d.sync += [there.eq(table.entry_there), old.eq(table.entry_page)]
                m.next = "judge"
            with m.State("judge"):
                m.d.sync += shared.eq(there)
                m.d.comb += free.take_valid.eq(~there | (counts.was != 1))
                m.next = "store"
                with m.If(~free.take_valid):
                    m.d.sync += i.eq(i + 1)
                    m.next = "give"
                with m.Elif(there & (i == write_from) & pos0[:shift].any()):
                    m.next = "copy"
            with m.State("copy"):
                m.d.comb += self.copy_valid.eq(1)
                with m.If(self.copy_ready):
                    m.next = "store"
            with m.State("store"):
                m.d.comb += [
                    table.entry_write.eq(1),
                    counts.valid.eq(1),
                    counts.op.eq(RefOp.SET),
                    counts.page.eq(free.page),
                    self.use.fresh_valid.eq(1),
                ]
                m.d.sync += i.eq(i + 1)
                m.next = "give"
                with m.If(shared):
                    m.next = "leave"
            with m.State("leave"):
                m.d.comb += [
                    counts.valid.eq(1),
                    counts.op.eq(RefOp.DROP),
                    counts.page.eq(old),
                ]
                m.next = "give"

            # A fork: entry after entry into the other slot, two cycles each.
            with m.State("fork"):
                m.d.sync += [
                    stop.eq(Mux(least(need_end, end) > first, least(need_end, end), first)),
                    floor.eq(least(floor, write_from)),
                ]
                m.next = "share"
                with m.If(pick(m, table.live, other, 1, self._slots) | (slot == other)):
                    answer(Answer.IN_USE)
            with m.State("share"):
                m.d.comb += [
                    table.entry_read.eq(1),
                    table.state_slot.eq(other),
                    table.set_end.eq(stop),
                ]
                m.next = "shared"
                with m.If(i == stop):
                    m.d.comb += table.state_write.eq(1)
                    answer(Answer.DONE)
            with m.State("shared"):
                m.d.comb += [
                    table.entry_slot.eq(other),
                    table.entry_write.eq(1),
                    table.set_there.eq(table.entry_there),
                    table.set_page.eq(table.entry_page),
                    counts.valid.eq(table.entry_there),
                    counts.op.eq(RefOp.ADD),
                ]
                m.d.sync += i.eq(i + 1)
                m.next = "share"

            # An evict: slot after slot, page after page, one per cycle.
            with m.State("range"):
                m.d.sync += [
                    i.eq(Mux(self.sinks > first, self.sinks, first)),
                    stop.eq(least(floor, end)),
                ]
                m.next = "scan"
            with m.State("scan"):
                with m.If(i < stop):
                    m.d.comb += table.entry_read.eq(1)
                    m.d.sync += [scanning.eq(1), i.eq(i + 1)]
                with m.Elif(every & (slot != self._slots - 1)):
                    m.d.comb += [table.state_read.eq(1), table.state_slot.eq(slot + 1)]
                    m.d.sync += slot.eq(slot + 1)
                    m.next = "state"
                with m.Else():
                    m.next = "settle"
            with m.State("settle"):
                m.d.sync += settle.eq(settle - 1)
                with m.If(settle == 0):
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
                    self.victim_slot.eq(best_slot),
                    self.victim_index.eq(best_index),
                    self.victim_page.eq(best_page),
                ]
                with m.If(self.eviction.found):
                    m.d.comb += [
                        table.entry_write.eq(1),
                        counts.valid.eq(1),
                        free.give_valid.eq(1),
                    ]
                    answer(Answer.DONE)
                with m.Else():
                    answer(Answer.NO_VICTIM)
        return m
