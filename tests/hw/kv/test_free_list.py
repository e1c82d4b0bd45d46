"""The free list against a set: every page once, the one returned last first."""

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from tests.coverage import Coverage
from tests.deep import deep
from tests.hw.clocked import begin
from tests.hw.memory.test_tape_reader import configured
from tokenloom.hw.kv.free_list import FreeList
from tokenloom.sim.bench import run_block

INPUTS = "take_valid give_valid give_page".split()


@cocotb.test()
async def random_traffic(dut):
    given, random, _ = configured()
    pages = given["pages"]
    await begin(dut, INPUTS)
    stack, fresh, out = [], 0, []
    # A single page cannot be taken twice in a row.
    twice = ("take_after_take", "give_after_give") if pages > 1 else ()
    seen = Coverage(
        "empty", "take_from_empty", "full", "give_to_empty", "give_before_take", "take_fresh",
        "take_returned", "take_after_give", "page_kept", "reset_with_pages_out", *twice, least=20,
    )  # fmt: skip
    before = None
    for turn in range(4000):
        if turn % 160 == 159:
            seen.hit("reset_with_pages_out", when=out)
            dut.take_valid.value, dut.give_valid.value, dut.rst.value = 0, 0, 1
            await FallingEdge(dut.clk)
            dut.rst.value = 0
            stack, fresh, out, before = [], 0, [], None
        # Phases that drain it and phases that fill it.
        taking = 0.8 if turn // 40 % 2 else 0.3
        give = bool(out) and random.random() > taking
        dut.take_valid.value = take = int(random.random() < taking)
        dut.give_valid.value = int(give)
        if give:
            returned = out.pop(random.randrange(len(out)))
            dut.give_page.value = returned
        free = pages - fresh + len(stack)
        seen.sample(
            empty=free == 0,
            take_from_empty=free == 0 and take and not give,
            full=free == pages,
            give_to_empty=free == 0 and give,
            give_before_take=give and take,
        )
        await RisingEdge(dut.clk)
        assert int(dut.count.value) == free
        assert int(dut.take_ready.value) == int(free > 0 and not give)
        taken = take and dut.take_ready.value == 1
        await FallingEdge(dut.clk)
        now = "give" if give else "take" if taken else None
        if now and before and (before, now) != ("take", "give"):
            seen.hit(f"{now}_after_{before}")
        before = now
        if give:
            stack.append(returned)
        if taken:
            seen.hit("take_returned" if stack else "take_fresh")
            expected = stack.pop() if stack else fresh
            fresh += expected == fresh
            assert int(dut.page.value) == expected
            assert expected not in out
            out.append(expected)
        elif out and turn % 3:
            # The page taken last stays.
            latest = int(dut.page.value)
            dut.take_valid.value = 0
            dut.give_valid.value = 0
            await FallingEdge(dut.clk)
            assert int(dut.page.value) == latest
            seen.hit("page_kept")
            before = None
    seen.check()


@pytest.mark.parametrize("pages", [5, deep(8), deep(1)])
def test_free_list(pages):
    run_block(FreeList(pages=pages), "tests.hw.kv.test_free_list", parameters={"pages": pages})


@pytest.mark.parametrize("pages", [0, 65537])
def test_refusals(pages):
    with pytest.raises(ValueError, match=f"pages .*{pages}"):
        FreeList(pages=pages)
