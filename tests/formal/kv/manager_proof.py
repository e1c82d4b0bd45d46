"""The KV manager with its invariant: what proves that no page is lost or shared by mistake.

For each page: either it is free, or it has just been taken and is nowhere else, or slots have it,
as many as its count says, each once. The invariant says so in every cycle of every operation, so
it names the pages that are on their way (`held`), and whatever the states rely on. The hardware is
the real one, but for what only chooses a victim: uses and scores may be anything.
"""

from amaranth.hdl import Assert, C, Cat, Elaboratable, Module, Mux, Signal
from amaranth.lib.wiring import In

from tokenloom.hw.kv.eviction import Eviction
from tokenloom.hw.kv.free_list import FreeList
from tokenloom.hw.kv.kv_manager import KvManager
from tokenloom.hw.kv.page_table import PageTable
from tokenloom.hw.kv.page_use import PageUse
from tokenloom.hw.kv.ref_counts import RefCounts

__all__ = ["ManagerProof", "total", "words_of"]


def total(bits):
    """How many of some bits are high."""
    return sum((Mux(bit, 1, 0) for bit in bits), start=0)


def words_of(m, memory, depth, name):
    """What every word of a memory holds."""
    words = []
    for i in range(depth):
        port = memory.read_port(domain="comb")
        word = Signal(len(port.data), name=f"{name}{i}")
        m.d.comb += [port.addr.eq(i), word.eq(port.data)]
        words.append(word)
    return words


class SpiedFreeList(FreeList):
    def elaborate(self, platform):
        m = super().elaborate(platform)
        self.words = words_of(m, m.submodules.stack, self._pages, "stacked")
        return m


class SpiedTable(PageTable):
    def elaborate(self, platform):
        m = super().elaborate(platform)
        entries, states = m.submodules.entries, m.submodules.states
        self.words = words_of(m, entries, entries.depth, "entry")
        self.states = words_of(m, states, self._slots, "state")
        return m


class SpiedCounts(RefCounts):
    """`now` is what each count will be when the operation under way is written back."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        counts = m.submodules.counts
        self.write = write = counts.write_ports[0]
        words = words_of(m, counts, self._pages, "count")
        self.now = []
        for p, word in enumerate(words):
            now = Signal(len(word), name=f"now{p}")
            m.d.comb += now.eq(Mux(write.en & (write.addr == p), write.data, word))
            self.now.append(now)
        self.stored = words
        return m


class ForgetfulCounts(SpiedCounts):
    """Every count that is written is zero."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        m.d.comb += self.write.data.eq(0)
        return m


class AnyUse(PageUse):
    """Any values at all: what decides when a use or an evict is taken is an input of the proof."""

    def elaborate(self, platform):
        return Module()


class AnyChoice(Eviction):
    """Any of the candidates it saw, as late as the real one."""

    def elaborate(self, platform):
        m = Module()
        self.keep = Signal()
        self.stages = []
        valid, tag = self.valid, self.tag
        for i in range(self.LATENCY - 1):
            later = (Signal(name=f"valid{i}"), Signal.like(tag, name=f"tag{i}"))
            m.d.sync += [later[0].eq(valid), later[1].eq(tag)]
            self.stages.append(later)
            valid, tag = later
        with m.If(self.clear):
            m.d.sync += self.found.eq(0)
        with m.Elif(valid & (~self.found | self.keep)):
            m.d.sync += [self.found.eq(1), self.best.eq(tag)]
        return m


class SpiedManager(KvManager):
    """With a view of its parts."""

    def __init__(self, *, counts, **given):
        super().__init__(**given)
        slots, pages = given["slots"], given["pages"]
        sequence_pages = -(-given["positions"] // given["page_tokens"])
        self.table = SpiedTable(
            slots=slots, pages=pages, slot_pages=given["slot_pages"], sequence_pages=sequence_pages
        )
        self.free, self.counts = SpiedFreeList(pages=pages), counts(pages=pages, most=slots)
        self.use = AnyUse(pages=pages)
        self.eviction = AnyChoice(tag_bits=len(self.eviction.tag))
        self.sequence_pages = sequence_pages

    def elaborate(self, platform):
        m = super().elaborate(platform)
        self.fsm = m._generated["fsm"]
        return m


class ManagerProof(Elaboratable):
    """All inputs are free in every cycle.

    Parameters
    ----------
    counts : type, optional
        The manager's reference counts.
    """

    def __init__(self, *, counts=SpiedCounts, **given):
        self.dut = dut = SpiedManager(counts=counts, **given)
        self.slots, self.pages = given["slots"], given["pages"]
        names = [name for name, (_, flow) in dut.flat_ports().items() if flow is In]
        self.ports = [getattr(dut, name) for name in names]

    def elaborate(self, platform):
        m = Module()
        dut = self.dut
        m.submodules.dut = dut.elaborate(platform)
        # Elaborate the parts now: their words are wanted below.
        op, table, free, counts = dut.operation, dut.table, dut.free, dut.counts
        for part in (table, free, counts, dut.eviction):
            module = part.elaborate(platform)
            part.elaborate = lambda platform, module=module: module
        self.ports += [dut.eviction.keep, dut.use.use_ready, dut.use.due]
        sequence, mark = range(dut.sequence_pages), len(op.end)
        ring = (len(table.words) // self.slots).bit_length() - 1
        page_bits = len(free.page)

        def on(*states):
            return Cat(dut.fsm.ongoing(state) for state in states).any()

        def always(condition, text):
            m.d.comb += Assert(condition, text, src_loc_at=1)

        def when(condition, *facts, text=None):
            for fact in facts:
                m.d.comb += Assert(~condition | fact, text, src_loc_at=1)

        # What the table says: slot s holds logical page i, and where.
        first, end, there, page = [], [], [], []
        for s in range(self.slots):
            first.append(table.states[s][:mark])
            end.append(table.states[s][mark : 2 * mark])
            rows = [table.words[(s << ring) + (i & ((1 << ring) - 1))] for i in sequence]
            there.append([row[0] for row in rows])
            page.append([row[1:] for row in rows])
        live = table.live

        # Pages that a slot has beyond its range, because an operation is on its way.
        dropping = on("drop", "dropped")
        giving = on("give", "count", "judge", "copy", "store", "leave")
        sharing = on("share", "shared")
        low, high, whose = Signal(mark), Signal(mark), Signal.like(op.slot)
        with m.If(dropping):
            m.d.comb += [low.eq(op.i), high.eq(op.stop), whose.eq(op.slot)]
        with m.Elif(giving):
            m.d.comb += [low.eq(op.end), high.eq(op.i), whose.eq(op.slot)]
        with m.Elif(sharing):
            m.d.comb += [low.eq(op.first), high.eq(op.i), whose.eq(op.other)]
        has = []
        for s in range(self.slots):
            row = []
            for i in sequence:
                within = Signal(name=f"within_{s}_{i}")
                m.d.comb += within.eq(
                    (live[s] & (first[s] <= i) & (i < end[s]))
                    | ((whose == s) & (low <= i) & (i < high))
                )
                row.append(within)
                when(within & there[s][i], page[s][i] < self.pages)
            has.append(row)
            when(
                live[s],
                first[s] <= end[s],
                end[s] - first[s] <= dut.slot_pages,
                end[s] <= dut.sequence_pages,
                text="a slot's range",
            )

        # The invariant proper.
        taken = on("copy", "store")
        gone_now = dut.free.give_valid & on("drop")
        is_free = []
        for p in range(self.pages):
            refs = []
            for s in range(self.slots):
                mine = Signal(dut.sequence_pages + 1, name=f"mine_{s}_{p}")
                m.d.comb += mine.eq(
                    Cat(
                        *(has[s][i] & there[s][i] & (page[s][i] == p) for i in sequence),
                        on("leave") & (op.slot == s) & (op.old == p),
                    )
                )
                always(total(mine) <= 1, "a slot has a page twice")
                refs.append(mine.any())
            owners = Signal(range(self.slots + 1), name=f"owners{p}")
            stack = Signal(self.pages, name=f"on_stack{p}")
            listed = Signal(name=f"listed{p}")
            m.d.comb += [
                owners.eq(total(refs)),
                stack.eq(Cat((j < free.stacked) & (free.words[j] == p) for j in range(self.pages))),
                listed.eq((free.fresh <= p) | stack.any()),
            ]
            is_free.append(listed)
            given = gone_now & (free.give_page == p)
            away = taken & (free.page == p)
            always(total(stack) + (free.fresh <= p) <= 1, "a page is on the free list twice")
            always(total([listed, given, away, owners.any()]) == 1, "a page is lost or shared")
            when(owners.any(), counts.now[p] == owners, text="a page's count is wrong")
        always(free.count == total(is_free), "the number of free pages is wrong")
        always(free.stacked <= free.fresh, "more pages on the stack than were used")
        always(free.fresh <= self.pages, "more pages than there are")
        when(free.take_valid, free.take_ready, text="a page is taken of none")
        when(taken, free.page < self.pages)

        rows = []

        def entry(slot, index):
            row = Signal(1 + page_bits, name=f"row{len(rows)}")
            rows.append(row)
            place = Cat(index[:ring], slot)
            m.d.comb += row.eq(Cat(*table.words).word_select(place, 1 + page_bits))
            return row[0], row[1:]

        here_there, here_page = entry(op.slot, op.i)
        before = Signal(mark)
        m.d.comb += before.eq(op.i - 1)
        was_there, was_page = entry(op.slot, before)

        def count_of(number):
            return Cat(*(now for now in counts.now)).word_select(number, len(counts.was))

        def same(read_there, read_page):
            return (table.entry_there == read_there) & (
                ~read_there | (table.entry_page == read_page)
            )

        # The operation's copy of its slot's state.
        mine_live = live.bit_select(op.slot, 1)
        state = Cat(*table.states).word_select(op.slot, 3 * mark)
        begins = on("begin", "survey", "surveyed", "decide") | giving | (dropping & ~op.releasing)
        when(
            (begins | on("fork") | sharing | on("range", "scan")) & mine_live,
            Cat(op.first, op.end) == state[: 2 * mark],
            text="the operation's range",
        )
        when(
            begins | on("fork") | sharing | on("range", "scan"),
            op.first <= op.end,
            op.end - op.first <= dut.slot_pages,
            op.end <= dut.sequence_pages,
        )
        when(begins & ~mine_live, op.first == op.end)
        when(on("fork", "range", "scan") & ~mine_live, op.end == 0)
        when(sharing & ~mine_live, op.end == 0)
        when(
            on("state"),
            Cat(table.state_first, table.state_end) == Mux(mine_live, state[: 2 * mark], 0),
            text="the state read",
        )
        always(on(*dut.fsm.encoding), "a state that does not exist")
        kinds = op.releasing + op.forking + op.evicting
        when(~on("idle"), kinds <= 1)
        when(begins | (on("state") & (kinds == 0)), ~op.forking, ~op.evicting)
        when(begins, ~op.releasing)
        when(on("fork", "share", "shared"), op.forking)
        when(on("range", "scan", "settle", "evict"), op.evicting)

        # Dropping.
        when(dropping, op.i <= op.stop, op.stop - op.i <= dut.slot_pages)
        when(on("dropped"), op.i < op.stop, same(here_there, here_page))
        when(dropping & op.releasing, ~mine_live, op.stop <= dut.sequence_pages)
        when(
            dropping & ~op.releasing & (op.i != op.stop),
            mine_live,
            op.stop <= op.first,
            (op.first == op.end) | ((op.stop == op.first) & (op.end - op.i <= dut.slot_pages)),
            op.stop <= dut.sequence_pages,
        )
        when(
            on("drop", "survey") & op.there,
            table.entry_there,
            counts.write.addr == table.entry_page,
            counts.was == Cat(*counts.stored).word_select(table.entry_page, len(counts.was)),
        )
        when(on("drop") & op.there, counts.write.en, counts.was != 0, table.entry_page < self.pages)
        when(on("drop") & op.there, counts.write.data == counts.was - 1)

        # A begin: budget and walk.
        reach = Mux(op.need_end > op.end, op.need_end, op.end)
        walking = on("survey", "surveyed", "decide") | giving
        start = Mux(op.write_from < op.end, op.write_from, op.end)
        edge = Mux(op.need_end < op.end, op.need_end, op.end)
        when(
            walking,
            op.write_from >= op.first,
            op.need_end >= op.write_from,
            op.need_end <= dut.sequence_pages,
            reach - op.first <= dut.slot_pages,
            op.stop == edge,
        )
        when(on("survey", "surveyed", "decide"), op.i >= start, op.i <= op.stop)
        when(on("decide"), op.i == op.stop)
        when(on("state", "range", "scan"), op.pos1 >= op.pos0)
        when(
            on("begin") | (dropping & ~op.releasing),
            op.pos1 >= op.pos0,
            op.write_from == op.pos0 >> op.shift,
            (op.pos1 > dut.positions)
            | (op.need_end == (op.pos1 + ((1 << op.shift) - 1)) >> op.shift),
        )
        when(on("begin"), ~op.there)
        when(on("begin") | (dropping & ~op.releasing), ~op.dirty)
        when(dropping & ~op.releasing, op.pos1 <= dut.positions)
        when(
            (on("begin") & (op.pos1 <= dut.positions)) | (dropping & ~op.releasing),
            op.keep_from <= op.write_from,
        )
        when(on("surveyed"), op.i < op.stop, same(here_there, here_page))
        when(on("survey") & op.there, was_there, was_page == table.entry_page, op.i > start)
        when(on("survey") & op.there, counts.was == count_of(was_page))

        # How many of the pages from `start` to `stop` have to be replaced: before i, from i on.
        done_bits, left_bits = [], []
        for i in sequence:
            row_there, row_page = entry(op.slot, C(i, mark))
            needs = Signal(name=f"needs_{i}")
            m.d.comb += needs.eq(~row_there | (count_of(row_page) != 1))
            inside = (i >= start) & (i < edge)
            done_bits.append(inside & (i < op.i) & needs)
            left_bits.append(inside & (i >= op.i) & needs)
        extra = Mux(op.need_end > op.end, op.need_end - op.end, 0)
        late = on("survey") & op.there & (counts.was != 1)
        when(
            on("survey", "surveyed", "decide"),
            op.missing + late == extra + total(done_bits),
            text="pages missing",
        )
        when(on("survey", "surveyed", "decide"), (op.dirty | late) == (total(done_bits) != 0))
        beyond = Mux(op.i > op.end, op.i, op.end)
        rest = Mux(op.need_end > beyond, op.need_end - beyond, 0)
        # The page for i is taken already in these states.
        in_hand = taken
        when(
            giving,
            total(left_bits) + rest <= free.count + in_hand,
            op.i >= start,
            op.i <= op.need_end,
            text="pages left",
        )
        when(on("count", "judge"), op.i < edge)
        when(on("store"), op.i < op.need_end, (op.i >= op.end) | left_bits_at(left_bits, op.i))
        when(on("copy"), op.i < edge, op.shared)
        when(on("count"), same(here_there, here_page))
        when(on("judge"), op.there == here_there)
        when(
            on("judge") & op.there,
            op.old == here_page,
            table.entry_page == here_page,
            counts.was == count_of(here_page),
        )
        when(on("copy", "store") & op.shared, op.i < op.end, here_there, op.old == here_page)
        when(on("copy", "store") & op.shared, count_of(op.old) > 1)
        when(on("store") & ~op.shared & (op.i < op.end), ~here_there)
        when(
            on("leave"), op.old < self.pages, count_of(op.old) > 1, op.i > op.first, op.i <= op.end
        )
        when(dut.copy_valid, dut.copy_old != dut.copy_new)

        # A fork.
        other_live = live.bit_select(op.other, 1)
        when(
            sharing,
            ~other_live,
            op.other != op.slot,
            op.first <= op.i,
            op.i <= op.stop,
            (op.stop <= op.end) | (op.stop == op.first),
        )
        for i in sequence:
            old_row, new_row = entry(op.slot, C(i, mark)), entry(op.other, C(i, mark))
            when(
                sharing & (op.first <= i) & (i < op.i),
                new_row[0] == old_row[0],
                ~old_row[0] | (new_row[1] == old_row[1]),
            )
        when(on("fork"), op.i == op.first)
        when(on("shared"), op.i < op.stop, same(here_there, here_page))

        # An evict: every candidate is a page that one slot alone has.
        def good(tag, valid):
            slot, index = tag[: len(op.slot)], tag[len(op.slot) : len(op.slot) + mark]
            number = tag[len(op.slot) + mark :]
            row_there, row_page = entry(slot, index)
            bounds = Cat(*table.states).word_select(slot, 3 * mark)
            facts = (
                row_there,
                row_page == number,
                live.bit_select(slot, 1),
                bounds[:mark] <= index,
                index < bounds[mark : 2 * mark],
                count_of(number) == 1,
            )
            when(valid, *facts, text="a candidate for eviction")

        choice = dut.eviction
        for valid, place, number in (
            (op.scanning, op.scanned, table.entry_page),
            (op.looking, op.looked, op.looked_page),
        ):
            slot, index = place[: len(op.slot)], place[len(op.slot) :]
            row_there, row_page = entry(slot, index)
            bounds = Cat(*table.states).word_select(slot, 3 * mark)
            when(
                valid,
                live.bit_select(slot, 1),
                bounds[:mark] <= index,
                index < bounds[mark : 2 * mark],
            )
            if valid is op.scanning:
                when(valid, table.entry_there == row_there, ~row_there | (row_page == number))
            else:
                when(valid, row_there, row_page == number, counts.was == count_of(number))
        good(choice.best, choice.found & ~on("idle"))
        good(choice.tag, choice.valid)
        for valid, tag in choice.stages:
            good(tag, valid)
        when(choice.found & ~on("idle"), op.evicting)
        # Nothing is on its way but during a search.
        chain = [op.scanning, op.looking, *(valid for valid, _ in choice.stages)]
        searching = on("state", "range", "scan", "settle", "evict") & op.evicting
        when(~searching, *(~bit for bit in chain))
        when(searching, ~counts.write.en)
        when(on("scan"), op.i >= op.first, op.stop <= op.end)
        when(on("range", "scan"), op.settle == Eviction.LATENCY - 1)
        for k in range(Eviction.LATENCY):
            when(
                on("settle") & (op.settle == Eviction.LATENCY - 1 - k),
                *(~b for b in chain[: k + 1]),
            )
        when(on("evict"), *(~bit for bit in chain))
        return m


def left_bits_at(bits, index):
    """The bit of `bits` that `index` names."""
    return Cat(*bits).bit_select(index, 1)
