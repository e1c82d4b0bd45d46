"""The KV manager in Python: what each operation does, and how many cycles it takes."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenloom.hw.kv.eviction_policy import PageState, Weights, choose
from tokenloom.hw.kv.kv_manager import Answer, KvManager

__all__ = ["KvModel", "Result", "Sequence"]


@dataclass
class Sequence:
    """A slot's logical pages first..end-1; those that are there, and where."""

    first: int = 0
    end: int = 0
    floor: int = 0
    pages: dict[int, int] = field(default_factory=dict)


@dataclass
class Result:
    """An operation's answer and effect; `did` names the cases of a begin that it met."""

    answer: Answer
    cycles: int
    copies: list[tuple[int, int, int]] = field(default_factory=list)
    victim: tuple[int, int, int] | None = None
    did: set[str] = field(default_factory=set)


NO_SLOT = Result(Answer.NO_SLOT, 2)


@dataclass
class KvModel:
    """Counts owners and uses; physical pages are the ones that the hardware took.

    A page that is newly given is `None` until `learn` says which one the hardware chose: any
    free one is right, so the model does not copy the free list's order.
    """

    slots: int
    pages: int
    positions: int
    page_tokens: int
    slot_pages: int

    def __post_init__(self) -> None:
        self.sequences: list[Sequence | None] = [None] * self.slots
        self.uses = {page: PageState() for page in range(self.pages)}
        self.unknown: list[tuple[int, int]] = []

    def owners(self, page: int) -> int:
        return sum(page in s.pages.values() for s in self.sequences if s)

    def free(self) -> int:
        taken = {p for s in self.sequences if s for p in s.pages.values()}
        return self.pages - len(taken)

    def learn(self, found: dict[tuple[int, int], int]) -> None:
        """Which pages the hardware gave for `unknown` (slot, logical page)."""
        assert set(found) == set(self.unknown)
        taken = {p for s in self.sequences if s for p in s.pages.values() if p >= 0}
        for (slot, index), page in found.items():
            assert 0 <= page < self.pages
            assert page not in taken, f"page {page} was given twice"
            taken.add(page)
            sequence = self.sequences[slot]
            assert sequence is not None
            sequence.pages[index] = page
            self.uses[page] = PageState()
        self.unknown = []

    def _new(self, slot: int, sequence: Sequence, index: int) -> int:
        self.unknown.append((slot, index))
        sequence.pages[index] = -len(self.unknown)
        return sequence.pages[index]

    def begin(self, slot: int, pos0: int, rows: int, window: int) -> Result:
        if slot >= self.slots:
            return NO_SLOT
        live = self.sequences[slot]
        sequence = live or Sequence()
        tokens, position_end = self.page_tokens, pos0 + rows
        need_end, write_from = -(-position_end // tokens), pos0 // tokens
        if position_end > self.positions:
            return Result(Answer.TOO_LONG, 3)
        first, end = sequence.first, sequence.end
        trimmed = None
        keep_from = max(0, pos0 + 1 - window) // tokens if window else 0
        if keep_from > first:
            trimmed = max(0, min(keep_from, end) - first)
            first, end = keep_from, max(end, keep_from)
            if live:
                live.first, live.end = first, end
                live.pages = {i: p for i, p in live.pages.items() if i >= first}
        early = 3 + (0 if trimmed is None else 2 * trimmed + 2)
        met = {"trimmed_refused"} if trimmed else set()
        if write_from < first:
            return Result(Answer.GONE, early, did=met)
        if max(end, need_end) - first > self.slot_pages:
            return Result(Answer.TOO_LONG, early, did=met)
        written = range(min(write_from, end), min(need_end, end))
        evicted = [i for i in written if i not in sequence.pages]
        shared = [i for i in written if i in sequence.pages and self.owners(sequence.pages[i]) > 1]
        new = range(end, need_end)
        late = early + 2 + 2 * len(written)
        if write_from in evicted and pos0 % tokens:
            return Result(Answer.GONE, late, did=met)
        if len(evicted) + len(shared) + len(new) > self.free():
            return Result(Answer.NO_PAGE, late, did=met)
        copies = []
        for i in evicted + shared:
            old = sequence.pages.get(i)
            page = self._new(slot, sequence, i)
            if i in shared and i == write_from and pos0 % tokens:
                copies.append((old, page, pos0 % tokens))
        for i in new:
            self._new(slot, sequence, i)
        sequence.first, sequence.end, sequence.floor = first, max(end, need_end), write_from
        self.sequences[slot] = sequence
        dirty = evicted + shared
        cases = {
            "new_pages": new,
            "trimmed": trimmed,
            "evicted_page_anew": evicted,
            "copied_on_write": copies,
            "replaced_uncopied": len(shared) > len(copies),
            "kept_beside_replaced": dirty and len(written) > len(dirty),
            "sequence_longer_than_table": sequence.end > self.slot_pages,
        }
        cycles = KvManager.begin_cycles(
            written=len(written),
            new=len(new),
            trimmed=trimmed,
            kept=len(written) - len(dirty) if dirty else 0,
            evicted=len(evicted),
            shared=len(shared),
        )
        did = {name for name, met in cases.items() if met}
        return Result(Answer.DONE, cycles, copies, did=did)

    def fork(self, slot: int, to: int, tokens: int) -> Result:
        if max(slot, to) >= self.slots:
            return NO_SLOT
        if self.sequences[to] or slot == to:
            return Result(Answer.IN_USE, 3, did={"other_in_use"} if slot != to else set())
        parent = self.sequences[slot] or Sequence()
        wanted = -(-tokens // self.page_tokens)
        end = max(parent.first, min(parent.end, wanted))
        self.sequences[to] = Sequence(
            parent.first,
            end,
            min(parent.floor, tokens // self.page_tokens),
            {i: p for i, p in parent.pages.items() if i < end},
        )
        did = {"fork_behind_window"} if wanted < parent.first else set()
        if 0 < parent.first < end:
            did.add("fork_within_window")
        return Result(Answer.DONE, KvManager.fork_cycles(end - parent.first), did=did)

    def release(self, slot: int) -> Result:
        if slot >= self.slots:
            return NO_SLOT
        sequence = self.sequences[slot] or Sequence()
        self.sequences[slot] = None
        return Result(Answer.DONE, KvManager.release_cycles(sequence.end - sequence.first))

    def evict(self, slot: int | None, weights: Weights, sinks: int) -> Result:
        if slot is not None and slot >= self.slots:
            return NO_SLOT
        candidates = []
        scanned = 0
        slots = range(self.slots) if slot is None else [slot]
        for s in slots:
            sequence = self.sequences[s] or Sequence()
            for i in range(max(sequence.first, sinks), min(sequence.floor, sequence.end)):
                scanned += 1
                page = sequence.pages.get(i)
                if page is not None and self.owners(page) == 1:
                    candidates.append((s, i, page))
        cycles = KvManager.evict_cycles(scanned, len(slots))
        best = choose((self.uses[page] for _, _, page in candidates), weights)
        if best is None:
            return Result(Answer.NO_VICTIM, cycles)
        s, i, page = candidates[best]
        sequence = self.sequences[s]
        assert sequence is not None
        del sequence.pages[i]
        return Result(Answer.DONE, cycles, victim=(s, i, page))
