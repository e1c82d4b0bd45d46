"""Ages, frequencies and masses against `PageState`, over more epochs than a record counts."""

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from tests.deep import DEEP, deep
from tests.hw.clocked import begin
from tests.hw.memory.test_tape_reader import configured
from tokenloom.hw.kv.eviction_policy import AGE_MAX, FREQUENCY_MAX, MASS_MAX, PageState
from tokenloom.hw.kv.page_use import PageUse
from tokenloom.sim.bench import run_block

INPUTS = "tick use_valid use_page use_mass fresh_valid fresh_page hold look_page".split()


class Reads:
    """Whose record is read in which cycle: what `due` and `use_ready` have to be."""

    def __init__(self, pages, refresh):
        self.pages, self.each = pages, refresh
        self.owed = self.turn = 0
        self.pending = None  # the page whose record is being written

    @property
    def due(self):
        return self.owed > 0

    def use_ready(self, page, fresh, hold):
        return not (self.due or hold or fresh is not None or self.pending == page)

    def step(self, tick, use, fresh, hold):
        """A clock edge; `use` is a page that was used."""
        refresh = self.due and not hold and fresh is None and self.pending != self.turn
        reads = [fresh, self.turn if refresh else None, use]
        self.pending = next((page for page in reads if page is not None), None)
        self.owed += self.each * (tick and self.owed <= self.pages) - refresh
        self.turn = (self.turn + refresh) % self.pages


@cocotb.test()
async def random_traffic(dut):
    given, random, _ = configured()
    pages = given["pages"]
    reads = Reads(pages, PageUse(pages=pages, stamp_bits=given["stamp_bits"]).refresh)
    await begin(dut, INPUTS)
    states = {}
    epochs = refused = 0
    seen = set()

    async def cycle(*, tick, use=None, mass=0, fresh=None, hold=0):
        nonlocal epochs, refused
        dut.tick.value, dut.hold.value = tick, hold
        dut.use_valid.value = use is not None
        dut.use_page.value = random.randrange(pages) if use is None else use
        dut.use_mass.value = mass
        dut.fresh_valid.value = fresh is not None
        dut.fresh_page.value = random.randrange(pages) if fresh is None else fresh
        await RisingEdge(dut.clk)
        taken = use is not None and dut.use_ready.value == 1
        assert dut.due.value == reads.due
        page = int(dut.use_page.value)
        assert dut.use_ready.value == reads.use_ready(page, fresh, hold)
        reads.step(bool(tick), use if taken else None, fresh, hold)
        if use is not None and not taken:
            refused += 1
        await FallingEdge(dut.clk)
        if tick:
            epochs += 1
            for state in states.values():
                state.tick()
        if taken:
            states[use].use(mass)
        if fresh is not None:
            states[fresh] = PageState()
        return taken

    async def look(length):
        """Everything is frozen; uses wait, epochs go on behind it."""
        known = {page: vars(state).copy() for page, state in states.items()}
        await cycle(tick=0, hold=1)
        order = random.choices(list(known), k=length) if known else []
        for page in order:
            dut.look_page.value = page
            assert not await cycle(tick=random.random() < 0.2, use=page, hold=1)
            found = {n: int(getattr(dut, n).value) for n in ("age", "frequency", "mass")}
            assert found == known[page]
            seen.update((n, v) for n, v in found.items() if n != "mass" or v in (0, MASS_MAX))
        await cycle(tick=0)

    busy = 0
    for turn in range(given["turns"]):
        if turn % 50 == 0:
            # Often used pages, long forgotten ones, many epochs.
            busy, ticking = random.choice([(0.9, 0.02), (0.3, 0.3), (0.02, 0.5), (1.0, 0.01)])
        page = random.randrange(min(pages, 3) if random.random() < 0.5 else pages)
        fresh = page if page not in states or random.random() < 0.02 else None
        use = page if fresh is None and random.random() < busy else None
        mass = random.choice([0, random.randrange(300), MASS_MAX])
        await cycle(tick=random.random() < ticking / given["rest"], use=use, mass=mass, fresh=fresh)
        if turn % 20 == 0:
            await look(random.choice([1, 3, pages]))
    # A page that nobody touches for longer than the record's epochs stays old.
    for _ in range(3 << given["stamp_bits"]):
        await cycle(tick=1)
        for _ in range(given["rest"] - 1):
            await cycle(tick=0)
    await look(2 * pages)
    # As many uses as count.
    for _ in range(FREQUENCY_MAX + 3):
        while not await cycle(tick=0, use=0, mass=MASS_MAX // 200):
            pass
        await cycle(tick=0)
    await look(20 * pages)  # page 0 is among them
    print(f"{epochs} epochs, {refused} uses waited")
    assert {("age", 0), ("age", AGE_MAX), ("frequency", 0), ("frequency", FREQUENCY_MAX)} <= seen
    assert {("mass", 0), ("mass", MASS_MAX)} <= seen
    assert refused > 20


@pytest.mark.parametrize(
    "given", [{"pages": 5, "stamp_bits": 10}, deep({"pages": 300, "stamp_bits": 10})]
)
def test_page_use(given):
    block = PageUse(**given)
    # Cycles per epoch, at least, on average: a refresh each, and room for what delays it.
    parameters = {**given, "turns": 60000 if DEEP else 3000, "rest": 2 * block.refresh}
    run_block(block, "tests.hw.kv.test_page_use", parameters=parameters)


def test_refresh():
    assert PageUse(pages=65536).refresh == 64
    assert PageUse(pages=1).refresh == 1


@pytest.mark.parametrize(("name", "value"), [("pages", 0), ("stamp_bits", 9)])
def test_refusals(name, value):
    with pytest.raises(ValueError, match=f"{name} .*{value}"):
        PageUse(**{"pages": 4, name: value})
