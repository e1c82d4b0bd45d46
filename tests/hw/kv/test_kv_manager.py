"""The KV manager against a Python model: every operation's answer, effect and duration."""

from itertools import combinations, product

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from tests.coverage import Coverage
from tests.deep import DEEP, deep
from tests.hw.clocked import begin, reset
from tests.hw.kv.kv_model import KvModel
from tests.hw.memory.test_tape_reader import configured
from tokenloom.hw.kv.eviction_policy import MASS_MAX, Weights
from tokenloom.hw.kv.kv_manager import Answer, KvManager
from tokenloom.hw.kv.page_use import PageUse
from tokenloom.sim.bench import run_block

OPERATIONS = {
    "begin": ("slot", "pos0", "rows", "window"),
    "fork": ("slot", "to", "tokens"),
    "release": ("slot",),
    "evict": ("slot", "all"),
}
WEIGHTS = ("recency", "frequency", "mass")
# Uses and ticks per cycle: both, pages that are used again and again, pages that grow old.
RATES = [(0.3, 0.05), (1.0, 0.003), (0.01, 0.2)]
INPUTS = (
    [f"{name}_valid" for name in OPERATIONS]
    + [f"{name}_{field}" for name, fields in OPERATIONS.items() for field in fields]
    + [f"weight_{name}" for name in WEIGHTS]
    + "copy_ready lookup_slot lookup_index tick use_valid use_page use_mass sinks".split()
)


def points(given):
    """What random operations on such a manager have to meet."""
    names = [
        "begin_done", "begin_no_page", "begin_too_long", "fork_done", "fork_in_use",
        "release_done", "evict_no_victim", "used_up", "new_pages", "use_waits",
        "use_while_busy", "tick_while_busy",
    ]  # fmt: skip
    if given["pages"] > 1:
        # Shared, evicted and left behind in a window are only pages beside others.
        names += [
            "begin_gone", "evict_done", "trimmed", "evicted_page_anew", "copied_on_write",
            "copy_waits", "replaced_uncopied", "kept_beside_replaced",
        ]  # fmt: skip
    if given["slots"] > 1:
        names.append("other_in_use")
    if given["slots"] & given["slots"] - 1:
        names += [f"{name}_no_slot" for name in OPERATIONS]
    if given.get("slot_pages"):
        names.append("sequence_longer_than_table")
    return names


class Bench:
    """One manager, its model, and the traffic beside the operations."""

    def __init__(self, dut, given, random):
        self.dut, self.random = dut, random
        tokens, positions = given["page_tokens"], given["positions"]
        self.per_sequence = -(-positions // tokens)
        self.model = KvModel(
            slots=given["slots"],
            pages=given["pages"],
            positions=positions,
            page_tokens=tokens,
            slot_pages=given.get("slot_pages") or self.per_sequence,
        )
        stamp_bits = given.get("stamp_bits") or 12
        self.refresh = PageUse(pages=given["pages"], stamp_bits=stamp_bits).refresh
        # Ids that the ports can say and that are no slot's.
        ids = 1 << len(dut.begin_slot)
        self.strangers = range(given["slots"], ids)
        self.seen = Coverage(*points(given), least=1 + given["turns"] // 500)
        self.lengths = [0] * given["slots"]
        self.windows = [0] * given["slots"]
        self.copies, self.copy_cycles = [], 0
        self.quiet_slot, self.may_tick = None, True
        self.weights, self.sinks = Weights(0, 0, 0), 0
        # Answers that stay until the next one: those of a reset are zero.
        self.told, self.victim = (0, 0), None
        self.uses, self.ticks = RATES[0]
        self.crowded = False  # begins that take all pages, or ask for more

    async def cycle(self):
        """One clock cycle, with uses, ticks and copies of its own."""
        dut, random, model = self.dut, self.random, self.model
        if dut.use_valid.value == 0 and random.random() < self.uses:
            known = [
                page
                for slot, s in enumerate(model.sequences)
                if s and slot != self.quiet_slot
                for page in s.pages.values()
            ]
            if known:
                dut.use_valid.value = 1
                dut.use_page.value = random.choice(known)
                dut.use_mass.value = random.choice([0, 1, random.randrange(4000), MASS_MAX])
        dut.tick.value = self.may_tick and random.random() < self.ticks
        dut.copy_ready.value = random.random() < 0.4
        await RisingEdge(dut.clk)
        if dut.tick.value == 1:
            for state in model.uses.values():
                state.tick()
        if dut.copy_valid.value == 1:
            self.copy_cycles += 1
            ports = (dut.copy_old, dut.copy_new, dut.copy_tokens)
            copy = tuple(int(port.value) for port in ports)
            if self.copy_cycles > 1:
                assert copy == self.copies[-1], "a copy request changed while it waited"
            else:
                self.copies.append(copy)
            self.seen.hit("copy_waits", when=dut.copy_ready.value == 0)
        busy = dut.release_ready.value == 0
        used = dut.use_valid.value == 1 and dut.use_ready.value == 1
        self.seen.sample(
            use_waits=dut.use_valid.value == 1 and not used,
            use_while_busy=used and busy,
            tick_while_busy=dut.tick.value == 1 and busy,
        )
        if used:
            model.uses[int(dut.use_page.value)].use(int(dut.use_mass.value))
        taken = {
            name: getattr(dut, f"{name}_valid").value == 1
            and getattr(dut, f"{name}_ready").value == 1
            for name in OPERATIONS
        }
        await FallingEdge(dut.clk)
        told = int(dut.full.value), int(dut.answer.value)
        assert dut.done.value == 1 or told == self.told, "an answer changed"
        self.told = told
        if used:
            dut.use_valid.value = 0
        return [name for name, yes in taken.items() if yes]

    async def operate(self, name, *values):
        """Plays an operation on model and hardware; returns the model's result."""
        dut, model = self.dut, self.model
        # No use of a page that is about to change hands.
        self.quiet_slot, self.may_tick = values[0], name != "begin"
        while dut.use_valid.value == 1:
            await self.cycle()
        getattr(dut, f"{name}_valid").value = 1
        for field, value in zip(OPERATIONS[name], values, strict=True):
            getattr(dut, f"{name}_{field}").value = value
        # An evict waits until the pages are refreshed that ticks have made due, those that come
        # while it waits too, and for a use; of one page each of them takes up to two cycles.
        waits = 2 * model.pages + 8 if name == "evict" else 0
        while await self.cycle() != [name]:
            waits += 2 * self.refresh + 1 if name == "evict" and dut.tick.value == 1 else -1
            assert waits >= 0, f"{name} was not taken"
        getattr(dut, f"{name}_valid").value = 0
        if name == "evict":
            expected = model.evict(None if values[1] else values[0], self.weights, self.sinks)
        else:
            expected = getattr(model, name)(*values)
        self.copies, self.copy_cycles = [], 0
        cycles = 1
        while dut.done.value == 0:
            # Nothing else is taken meanwhile.
            for other in OPERATIONS:
                assert getattr(dut, f"{other}_ready").value == 0
            await self.cycle()
            cycles += 1
            assert cycles < 10000, "no answer"
        what = f"{name}{values}"
        assert Answer(int(dut.answer.value)) == expected.answer, what
        assert int(dut.full.value) == (expected.answer != Answer.DONE), what
        assert cycles == expected.cycles + self.copy_cycles, what
        if name == "evict":
            self.victim = expected.victim
        if self.victim:
            ports = (dut.victim_slot, dut.victim_index, dut.victim_page)
            assert tuple(int(port.value) for port in ports) == self.victim, what
        found = await self.lookups(model.unknown)
        assert None not in found.values(), what
        names = {-i - 1: page for i, page in enumerate(found.values())}
        assert self.copies == [(o, names[n], t) for o, n, t in expected.copies], what
        model.learn(found)
        self.quiet_slot, self.may_tick = None, True
        return expected

    async def lookups(self, wanted):
        """Pages by (slot, logical page), or None; one look-up per cycle."""
        dut, found = self.dut, {}
        for slot, index in wanted:
            dut.lookup_slot.value, dut.lookup_index.value = slot, index
            await self.cycle()
            found[slot, index] = int(dut.lookup_page.value) if dut.lookup_found.value == 1 else None
        return found

    async def check(self, slots):
        """What every look-up of these slots finds, and how many pages are free."""
        wanted = [(slot, i) for slot in slots for i in range(self.per_sequence)]
        found = await self.lookups(wanted)
        strangers = [(slot, 0) for slot in self.strangers]
        assert not any(page is not None for page in (await self.lookups(strangers)).values())
        for (slot, i), page in found.items():
            sequence = self.model.sequences[slot]
            assert page == (sequence.pages.get(i) if sequence else None), (slot, i)
        assert int(self.dut.free_pages.value) == self.model.free()

    def weigh(self):
        """New weights and sinks for the next evict."""
        random = self.random
        self.weights = Weights(
            *random.choice([(1, 0, 0), (0, 1, 0), (0, 0, 1), (255, 255, 255)])
            if random.random() < 0.4
            else [random.randrange(256) for _ in range(3)]
        )
        most = (1 << len(self.dut.sinks)) - 1
        self.sinks = min(most, random.choice([0, 0, 1, 2]))
        for name in WEIGHTS:
            getattr(self.dut, f"weight_{name}").value = getattr(self.weights, name)
        self.dut.sinks.value = self.sinks

    def draw_stranger(self, slot):
        """An operation with a slot that does not exist."""
        random, positions = self.random, self.model.positions
        stranger = random.choice(self.strangers)
        return random.choice(
            [
                ("begin", (stranger, 0, random.randrange(1, positions + 1), 0)),
                ("fork", (stranger, slot, positions)),
                ("fork", (slot, stranger, positions)),
                ("release", (stranger,)),
                ("evict", (stranger, 0)),
            ]
        )

    def draw(self):
        """A likely operation and its values."""
        random, model, lengths = self.random, self.model, self.lengths
        slot = random.randrange(model.slots)
        if self.strangers and random.random() < 0.05:
            return self.draw_stranger(slot)
        kind = random.random()
        if kind < 0.1:
            return "release", (slot,)
        if kind < 0.28:
            empty = [s for s in range(model.slots) if model.sequences[s] is None]
            live = [s for s in range(model.slots) if s not in empty]
            if live and random.random() < 0.8:
                slot = random.choice(live)
            to = random.randrange(model.slots)
            if empty and random.random() < 0.85:
                to = random.choice(empty)
            tokens = random.choice(
                [model.positions, lengths[slot], random.randrange(1, 1 + model.positions)]
            )
            return "fork", (slot, to, tokens)
        if kind < 0.45:
            self.weigh()
            return "evict", (slot, int(random.random() < 0.4))
        if lengths[slot] >= model.positions and random.random() < 0.5:
            return "release", (slot,)  # nothing fits behind it
        if model.sequences[slot] is None:
            most = random.choice([model.positions, 3 * model.page_tokens])
            window = random.randrange(1, max(2, min(most, model.positions)))
            self.windows[slot] = window if random.random() < 0.5 else 0
        pos0 = lengths[slot]
        rows = random.choice([1, 1, model.page_tokens, random.randrange(1, model.positions + 1)])
        if random.random() < 0.15:
            pos0 = random.randrange(model.positions + 1)
        elif random.random() < 0.15:
            pos0 = max(0, pos0 - random.randrange(2 * model.page_tokens))
        elif random.random() < 0.35:
            # From a page's first token on: what was shared or evicted there needs no copy.
            back = random.randrange(random.choice([4, self.per_sequence + 1]))
            pos0 = max(0, pos0 // model.page_tokens - back) * model.page_tokens
            rows = max(rows, lengths[slot] - pos0)
        elif self.crowded and random.random() < 0.4:
            # All that is free, or one page more.
            held = -(-pos0 // model.page_tokens)
            end = (held + model.free() + random.randrange(2)) * model.page_tokens
            rows = max(1, min(end, model.positions) - pos0)
        rows = min(rows, model.positions)
        return "begin", (slot, pos0, rows, self.windows[slot])

    def follow(self, name, values, result):
        """How long the sequences are after an operation."""
        if result.answer != Answer.DONE:
            return
        if name == "begin":
            self.lengths[values[0]] = values[1] + values[2]
        elif name == "fork":
            self.lengths[values[1]] = min(self.lengths[values[0]], values[2])
            self.windows[values[1]] = self.windows[values[0]]
        elif name == "release":
            self.lengths[values[0]] = 0

    async def play(self, turns):
        """Likely operations, each with what it must have changed; sometimes all slots."""
        random, model, seen = self.random, self.model, self.seen
        for turn in range(turns):
            if random.random() < 0.1:
                self.uses, self.ticks = random.choice(RATES)
                self.crowded = random.random() < 0.35
            name, values = self.draw()
            result = await self.operate(name, *values)
            self.follow(name, values, result)
            for case in {f"{name}_{result.answer.name.lower()}", *result.did} & seen.points:
                seen.hit(case)
            seen.hit("used_up", when=model.free() == 0)
            everything = turn % 8 == 0 or turn + 1 == turns
            await self.check(
                range(model.slots) if everything else sorted({*values[:2]} & {*range(model.slots)})
            )
            for _ in range(random.choice([0, 0, 3])):
                await self.cycle()


@cocotb.test()
async def random_operations(dut):
    given, random, _ = configured()
    await begin(dut, INPUTS)
    bench = Bench(dut, given, random)
    await bench.play(given["turns"])
    if given.get("covered", True):
        bench.seen.check()


@cocotb.test()
async def resets(dut):
    """A reset at any time: all pages are free, no slot has any."""
    given, random, _ = configured()
    await begin(dut, INPUTS)
    for _ in range(12):
        bench = Bench(dut, given, random)
        # Nothing that was under way holds up uses.
        dut.use_valid.value = 1
        for _ in range(3):
            await bench.cycle()
        assert dut.use_valid.value == 0
        await bench.check(range(bench.model.slots))
        await bench.play(min(20, given["turns"] // 20))
        name, values = bench.draw()
        getattr(dut, f"{name}_valid").value = 1
        for field, value in zip(OPERATIONS[name], values, strict=True):
            getattr(dut, f"{name}_{field}").value = value
        for _ in range(random.randrange(20)):
            await bench.cycle()
        await reset(dut, INPUTS)


@cocotb.test()
async def exhaustion_and_reuse(dut):
    given, random, _ = configured()
    await begin(dut, INPUTS)
    bench = Bench(dut, given, random)
    model = bench.model
    tokens, pages = model.page_tokens, model.pages
    for turn in range(3):
        used = 0
        for slot in range(model.slots):
            want = min(model.slot_pages, pages - used)
            if want < model.slot_pages:
                # One page too many: nothing is taken.
                rows = min((want + 1) * tokens, model.positions)
                refused = await bench.operate("begin", slot, 0, rows, 0)
                assert refused.answer == Answer.NO_PAGE
                await bench.check(range(model.slots))
            if want:
                rows = min(want * tokens, model.positions)
                await bench.operate("begin", slot, 0, rows, 0)
            used += want
        assert int(dut.free_pages.value) == pages - used, f"turn {turn}"
        # All are used, unless the tables are too small for them.
        assert used == min(pages, model.slots * model.slot_pages)
        await bench.check(range(model.slots))
        # A pass within the pages that are held needs none.
        inside = min(1, model.positions - 1)
        assert (await bench.operate("begin", 0, inside, 1, 0)).answer == Answer.DONE
        for slot in range(model.slots):
            await bench.operate("release", slot)
        assert int(dut.free_pages.value) == pages


@cocotb.test()
async def refused_behind_a_window(dut):
    """What a window leaves behind is given back even when there are too few pages for the rest."""
    given, random, _ = configured()
    await begin(dut, INPUTS)
    bench = Bench(dut, given, random)
    model, refused = bench.model, 0
    tokens = model.page_tokens
    for held, window in product(range(1, min(model.slot_pages, model.pages)), (1, 2, 0)):
        length = held * tokens
        await bench.operate("begin", 0, 0, length, 0)
        for slot in range(1, model.slots):
            rows = min(model.free() * tokens, model.slot_pages * tokens, model.positions)
            if rows:
                await bench.operate("begin", slot, 0, rows, 0)
        # As many rows as may be, or one that needs a page.
        for rows in (model.positions - length, 1):
            result = await bench.operate(
                "begin", 0, length, rows, window or random.randrange(1, 2 + tokens)
            )
            refused += "trimmed_refused" in result.did
            await bench.check(range(model.slots))
        for slot in range(model.slots):
            await bench.operate("release", slot)
    assert refused or not given.get("covered", True) or model.pages == 1


@cocotb.test()
async def forks_of_a_window(dut):
    """Of a slot that begins behind its sequence's first page, with each number of pages."""
    given, random, _ = configured()
    await begin(dut, INPUTS)
    bench = Bench(dut, given, random)
    model, tokens, did = bench.model, bench.model.page_tokens, set()
    if model.slots == 1:
        return
    for first in range(1, model.positions // tokens):
        held = min(random.randrange(1, 4), model.slot_pages, model.pages)
        rows = min(held * tokens, model.positions - first * tokens)
        await bench.operate("begin", 0, first * tokens, 1, 1)
        await bench.operate("begin", 0, first * tokens, rows, 0)
        for end in range(min(first + held + 2, model.positions // tokens)):
            length = max(1, end * tokens - random.randrange(2))
            result = await bench.operate("fork", 0, 1, length)
            did |= result.did
            await bench.check((0, 1))
            assert (await bench.operate("fork", 0, 1, length)).answer == Answer.IN_USE
            await bench.operate("release", 1)
        await bench.operate("release", 0)
    assert "fork_within_window" in did or model.positions < 3 * tokens
    assert "fork_behind_window" in did or model.positions < 4 * tokens


@cocotb.test()
async def evict_after_evict(dut):
    """Asked for a victim in every cycle: no use waits for ever, no page begins to look young."""
    given, random, _ = configured()
    await begin(dut, INPUTS)
    bench = Bench(dut, given, random)
    model = bench.model
    if model.slots == 1:
        return
    held = min(3, model.slot_pages, model.pages)
    rows = min(held * model.page_tokens, model.positions)
    await bench.operate("begin", 0, 0, rows, 0)
    await bench.operate("begin", 0, rows - 1, 1, 0)
    # A slot that holds nothing: no victim, as fast as can be.
    dut.evict_valid.value, dut.evict_slot.value = 1, model.slots - 1
    stamp = given.get("stamp_bits") or 12
    rest, waited, answers = 3 * bench.refresh, 0, 0
    # Where that is soon: until the epochs' counter has come round.
    for epoch in range((1 << stamp) + 5 if stamp == 10 else 300):
        for i in range(1 + rest):
            bench.ticks = float(i == 0)
            await bench.cycle()
            answers += dut.done.value == 1
            waited = waited + 1 if dut.use_valid.value == 1 else 0
            assert waited < 200, "a use waits for ever"
        bench.uses = 0.3 if epoch % 64 == 0 else 0.0
    assert answers > 50
    dut.evict_valid.value = 0
    for _ in range(40):
        await bench.cycle()
    bench.weights = Weights(255, 255, 255)
    for name in WEIGHTS:
        getattr(dut, f"weight_{name}").value = 255
    await bench.operate("evict", 0, 0)
    await bench.check(range(model.slots))


@cocotb.test()
async def order_of_operations(dut):
    """Offered together, release goes first, then begin, fork and evict; each waits for the last."""
    given, random, _ = configured()
    await begin(dut, INPUTS)
    bench = Bench(dut, given, random)
    dut.begin_rows.value = 1
    dut.fork_to.value = min(1, given["slots"] - 1)
    order = ("release", "begin", "fork", "evict")
    for offered in [set(some) for size in range(5) for some in combinations(order, size)]:
        for name in offered:
            getattr(dut, f"{name}_valid").value = 1
        taken, done = [], 0
        while done < len(offered):
            for name in await bench.cycle():
                taken.append(name)
                getattr(dut, f"{name}_valid").value = 0
            done += dut.done.value == 1
            assert len(taken) - 1 <= done <= len(taken)
        assert taken == [name for name in order if name in offered]


def bench(**given):
    return given


BENCHES = [
    bench(slots=4, pages=14, positions=128, page_tokens=16, turns=1000),
    bench(slots=3, pages=7, positions=90, page_tokens=8, slot_pages=5, stamp_bits=10, turns=1000),
]


@pytest.mark.parametrize(
    "given",
    [
        *BENCHES,
        bench(slots=2, pages=1, positions=64, page_tokens=16, stamp_bits=10, turns=300),
        deep(bench(slots=2, pages=4, positions=8, page_tokens=2, turns=30000)),
        deep(bench(slots=8, pages=40, positions=1024, page_tokens=64, turns=30000)),
        deep(bench(slots=5, pages=1, positions=300, page_tokens=256, turns=3000)),
    ],
)
def test_kv_manager(given):
    turns = given["turns"] * (40 if DEEP and given in BENCHES else 1)
    parameters = {name: value for name, value in given.items() if name != "turns"}
    run_block(
        KvManager(**parameters),
        "tests.hw.kv.test_kv_manager",
        parameters={**given, "turns": turns},
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("slots", 0),
        ("pages", 0),
        ("pages", 65537),
        ("positions", 0),
        ("page_tokens", 48),
        ("page_tokens", 512),
        ("slot_pages", 9),
        ("stamp_bits", 9),
    ],
)
def test_refusals(name, value):
    good = {"slots": 4, "pages": 20, "positions": 256, "page_tokens": 32}
    with pytest.raises(ValueError, match=f"{name} .*{value}"):
        KvManager(**{**good, name: value})
