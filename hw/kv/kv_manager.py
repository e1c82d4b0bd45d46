"""The KV cache's pages: who has which, from allocation over sharing to eviction."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.wiring import In, Out

from tokenloom.hw.kv.eviction import Eviction
from tokenloom.hw.kv.eviction_policy import MASS_BITS, WEIGHT_BITS
from tokenloom.hw.kv.free_list import FreeList
from tokenloom.hw.kv.kv_operations import (
    Answer,
    Operation,
    add_begin,
    add_drop,
    add_evict,
    add_fork,
)
from tokenloom.hw.kv.page_table import PageTable
from tokenloom.hw.kv.page_use import PageUse
from tokenloom.hw.kv.ref_counts import RefCounts, RefOp
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["Answer", "KvManager"]


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
        One page of the slot, or of all slots, is to be evicted. Waits for a use that waits,
        and while pages have to be refreshed: `PageUse.refresh` cycles after a tick (twice that
        with a single page), so ticks have to come more slowly.
    done : Out(1)
        High for one cycle: the answer to the operation that was taken. Of operations offered in
        the same cycle, release goes first, then begin, fork, evict.
    full, answer : Out(1), Out(3)
        From `done` until the next one: the operation was refused; why (`Answer`). 0 after a reset.
        A slot that does not exist is refused as well, and changes nothing.
    victim_slot, victim_index, victim_page : Out
        From `done` after an evict that was not refused until the next evict's: slot, logical and
        physical page.
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
    `evict_cycles`; 2 where there is no such slot.

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
        self.operation = Operation(self)

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

    @property
    def slots(self) -> int:
        """Sequences."""
        return self._slots

    @property
    def positions(self) -> int:
        """Longest sequence."""
        return self._positions

    @property
    def slot_pages(self) -> int:
        """Pages that a slot holds at most."""
        return self._slot_pages

    @property
    def _strange(self) -> bool:
        """The ports can name slots that do not exist."""
        return self._slots < 1 << len(self.begin_slot)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        table, free, counts, use = self.table, self.free, self.counts, self.use
        m.submodules.page_table = instance(table)
        m.submodules.free_list = instance(free)
        m.submodules.ref_counts = instance(counts)
        m.submodules.page_use = instance(use)
        m.submodules.eviction = instance(self.eviction)
        op = self.operation

        # What the parts see unless a state says otherwise.
        m.d.comb += [
            table.lookup_slot.eq(self.lookup_slot),
            table.lookup_index.eq(self.lookup_index),
            self.lookup_page.eq(table.lookup_page),
            self.lookup_found.eq(table.lookup_found),
            self.free_pages.eq(free.count),
            table.state_slot.eq(op.slot),
            table.set_live.eq(1),
            table.set_first.eq(op.first),
            table.set_end.eq(op.end),
            table.set_floor.eq(op.floor),
            table.entry_slot.eq(op.slot),
            table.entry_index.eq(op.i),
            table.set_there.eq(1),
            table.set_page.eq(free.page),
            free.give_page.eq(table.entry_page),
            counts.valid.eq(op.scanning),
            counts.op.eq(RefOp.READ),
            counts.page.eq(table.entry_page),
            use.tick.eq(self.tick),
            use.use_valid.eq(self.use_valid),
            self.use_ready.eq(use.use_ready),
            use.use_page.eq(self.use_page),
            use.use_mass.eq(self.use_mass),
            use.fresh_page.eq(free.page),
            self.copy_old.eq(op.old),
            self.copy_new.eq(free.page),
            self.copy_tokens.eq(op.pos0),
        ]
        m.d.sync += [self.done.eq(0), op.scanning.eq(0)]

        with m.FSM() as fsm:
            # Not between two evicts: a use and the refreshing go on there.
            m.d.comb += use.hold.eq(op.evicting & ~fsm.ongoing("idle"))
            with m.State("idle"):
                self._take(m, op)
            with m.State("state"):
                self._prepare(m, op)
            add_drop(m, op)
            add_begin(m, op)
            add_fork(m, op)
            add_evict(m, op)
        return m

    def _take(self, m: Module, op: Operation) -> None:
        """An operation is taken, and its slot's state asked for."""
        table, begin = self.table, self.begin_valid
        evicts = self.evict_ready & self.evict_valid
        m.d.comb += [
            self.release_ready.eq(1),
            self.begin_ready.eq(~self.release_valid),
            self.fork_ready.eq(~self.release_valid & ~begin),
            # A use that waits goes first: evicts one after another might never let it.
            self.evict_ready.eq(
                ~self.release_valid
                & ~begin
                & ~self.fork_valid
                & ~self.use.due
                & (self.use_ready | ~self.use_valid)
            ),
            table.state_read.eq(1),
            self.eviction.clear.eq(1),
        ]
        m.d.sync += [
            op.slot.eq(table.state_slot),
            op.other.eq(self.fork_to),
            op.pos0.eq(Mux(begin, self.begin_pos0, self.fork_tokens)),
            op.pos1.eq(Mux(begin, self.begin_pos0 + self.begin_rows, self.fork_tokens)),
            op.window.eq(self.begin_window),
            op.every.eq(self.evict_all),
            op.releasing.eq(self.release_valid),
            op.forking.eq(self.fork_ready & self.fork_valid),
            op.evicting.eq(evicts),
        ]
        with m.If(self.release_valid):
            m.d.comb += table.state_slot.eq(self.release_slot)
        with m.Elif(begin):
            m.d.comb += table.state_slot.eq(self.begin_slot)
        with m.Elif(self.fork_valid):
            m.d.comb += table.state_slot.eq(self.fork_slot)
        with m.Else():
            m.d.comb += table.state_slot.eq(Mux(self.evict_all, 0, self.evict_slot))
        with m.If(self.release_valid | begin | self.fork_valid | evicts):
            m.next = "state"
        if self._strange:
            outside = table.state_slot >= self._slots
            other = ~self.release_valid & ~begin & self.fork_valid & (self.fork_to >= self._slots)
            m.d.sync += op.outside.eq(outside | other)

    def _prepare(self, m: Module, op: Operation) -> None:
        """Its slot's state is known: positions become logical pages."""
        table = self.table
        over = Signal.like(op.pos1)
        m.d.comb += over.eq(op.pos0 + 1)
        m.d.sync += [
            op.first.eq(table.state_first),
            op.end.eq(table.state_end),
            op.floor.eq(table.state_floor),
            op.keep_from.eq(0),
            op.write_from.eq(op.pos0 >> op.shift),
            op.need_end.eq((op.pos1 + (self._page_tokens - 1)) >> op.shift),
            op.i.eq(table.state_first),
            op.stop.eq(table.state_end),
            op.there.eq(0),
            op.dirty.eq(0),
            op.gone.eq(0),
            op.shared.eq(0),
            op.settle.eq(Eviction.LATENCY - 1),
        ]
        with m.If(op.window.any() & (over > op.window)):
            m.d.sync += op.keep_from.eq((over - op.window)[: len(op.pos0)] >> op.shift)
        m.next = "begin"
        with m.If(op.releasing):
            m.d.comb += [table.state_write.eq(1), table.set_live.eq(0)]
            m.next = "drop"
        with m.Elif(op.forking):
            m.next = "fork"
        with m.Elif(op.evicting):
            m.next = "range"
        if self._strange:
            with m.If(op.outside):
                m.d.comb += table.state_write.eq(0)
                op.answer(m, Answer.NO_SLOT)
