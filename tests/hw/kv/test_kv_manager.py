"""The KV manager against a Python model: random passes and releases, exhaustion, reuse."""

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from tests.hw.memory.test_tape_reader import begin, configured
from tokenloom.hw.kv.kv_manager import KvManager
from tokenloom.sim.bench import run_block

INPUTS = (
    "begin_valid begin_slot begin_pos0 begin_rows release_valid release_slot "
    "lookup_slot lookup_index"
).split()


async def finish(dut, ready):
    """Waits for the request to be taken and answered; returns `full`."""
    for _ in range(5):
        await RisingEdge(dut.clk)
        taken = ready.value == 1
        await FallingEdge(dut.clk)
        if taken:
            break
    assert taken
    dut.begin_valid.value = 0
    dut.release_valid.value = 0
    for _ in range(2000):
        if dut.done.value == 1:
            full = int(dut.full.value)
            await FallingEdge(dut.clk)
            assert dut.done.value == 0, "done is one cycle"
            return full
        await FallingEdge(dut.clk)
    raise AssertionError("no answer")


async def start_pass(dut, slot, pos0, rows):
    dut.begin_valid.value = 1
    dut.begin_slot.value, dut.begin_pos0.value, dut.begin_rows.value = slot, pos0, rows
    return await finish(dut, dut.begin_ready)


async def release(dut, slot):
    dut.release_valid.value = 1
    dut.release_slot.value = slot
    assert await finish(dut, dut.release_ready) == 0


async def lookup(dut, slot, index):
    dut.lookup_slot.value, dut.lookup_index.value = slot, index
    await FallingEdge(dut.clk)
    return int(dut.lookup_page.value) if dut.lookup_found.value == 1 else None


async def check_pages(dut, given, held):
    """No page has two owners and every slot has as many as the model says."""
    per_slot = -(-given["positions"] // given["page_tokens"])
    owned = []
    for slot in range(given["slots"]):
        found = [await lookup(dut, slot, i) for i in range(per_slot)]
        assert [p is not None for p in found] == [i < held[slot] for i in range(per_slot)]
        owned += [p for p in found if p is not None]
    assert len(set(owned)) == len(owned)
    assert all(p < given["pages"] for p in owned)
    assert int(dut.free_pages.value) == given["pages"] - len(owned)


@cocotb.test()
async def random_passes(dut):
    given, random, _ = configured()
    tokens, positions = given["page_tokens"], given["positions"]
    await begin(dut, INPUTS)
    held = [0] * given["slots"]
    length = [0] * given["slots"]
    refusals = releases = 0
    for _ in range(400):
        slot = random.randrange(given["slots"])
        if random.random() < 0.12:
            await release(dut, slot)
            held[slot] = length[slot] = 0
            releases += 1
        else:
            rows = random.choice([1, 1, tokens, random.randrange(1, positions + 1)])
            pos0 = min(length[slot], positions)
            need = -(-(pos0 + rows) // tokens)
            missing = max(0, need - held[slot])
            free = given["pages"] - sum(held)
            wrong = pos0 + rows > positions or missing > free
            before = [await lookup(dut, slot, i) for i in range(held[slot])]
            assert await start_pass(dut, slot, pos0, rows) == int(wrong)
            refusals += wrong
            if not wrong:
                held[slot] += missing
                length[slot] = pos0 + rows
            assert before == [await lookup(dut, slot, i) for i in range(len(before))]
        await check_pages(dut, given, held)
    assert refusals > 10
    assert releases > 10


@cocotb.test()
async def exhaustion_and_reuse(dut):
    given, _, _ = configured()
    tokens, pages = given["page_tokens"], given["pages"]
    await begin(dut, INPUTS)
    per_slot = given["positions"] // tokens
    for turn in range(3):
        used = 0
        held = [0] * given["slots"]
        for slot in range(given["slots"]):
            want = min(per_slot, pages - used)
            if want < per_slot:
                # One page too many: nothing is taken.
                assert await start_pass(dut, slot, 0, (want + 1) * tokens) == 1
                await check_pages(dut, given, held)
            if want:
                assert await start_pass(dut, slot, 0, want * tokens) == 0
            held[slot] = want
            used += want
        assert int(dut.free_pages.value) == 0, f"turn {turn}"
        await check_pages(dut, given, held)
        # A pass within the pages that are held needs none.
        assert await start_pass(dut, 0, 1, 1) == 0
        for slot in range(given["slots"]):
            await release(dut, slot)
        assert int(dut.free_pages.value) == pages


@pytest.mark.parametrize(
    "bench",
    [
        {"slots": 4, "pages": 20, "positions": 256, "page_tokens": 32},
        {"slots": 3, "pages": 7, "positions": 500, "page_tokens": 96},
    ],
)
def test_kv_manager(bench):
    run_block(KvManager(**bench), "tests.hw.kv.test_kv_manager", parameters=bench)


@pytest.mark.parametrize("name", ["slots", "pages", "positions", "page_tokens"])
def test_refusals(name):
    good = {"slots": 4, "pages": 20, "positions": 256, "page_tokens": 32}
    with pytest.raises(ValueError, match=name):
        KvManager(**{**good, name: 0})
