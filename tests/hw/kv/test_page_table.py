"""The page table against dictionaries: all three ports in every cycle."""

import cocotb
import pytest
from cocotb.triggers import FallingEdge

from tests.coverage import Coverage
from tests.deep import deep
from tests.hw.clocked import begin
from tests.hw.memory.test_tape_reader import configured
from tokenloom.hw.kv.page_table import PageTable
from tokenloom.sim.bench import run_block

INPUTS = (
    "lookup_slot lookup_index state_slot state_read state_write set_live set_first set_end "
    "set_floor entry_slot entry_index entry_read entry_write set_there set_page"
).split()


@cocotb.test()
async def random_traffic(dut):
    given, random, _ = configured()
    slots, pages = given["slots"], given["pages"]
    length, most = given["sequence_pages"], given["slot_pages"]
    ring = 1 << max(1, (most - 1).bit_length())
    await begin(dut, INPUTS)
    live, states, entries = [False] * slots, {}, {}
    read_state = read_entry = None
    seen = Coverage(
        "found", "slot_not_live", "before_first", "at_end", "evicted", "dead_slot_is_empty",
        "slot_ends", "look_up_beside_entry_write", "look_up_beside_state_write", "all_ports",
        "reset_with_live_slots",
        # A ring that holds every page of a sequence never wraps.
        *(["wrapped"] if length > ring else []),
        least=20,
    )  # fmt: skip
    for turn in range(6000):
        if turn % 150 == 149:
            seen.hit("reset_with_live_slots", when=any(live))
            for name in ("state_read", "state_write", "entry_read", "entry_write"):
                getattr(dut, name).value = 0
            dut.rst.value = 1
            await FallingEdge(dut.clk)
            dut.rst.value = 0
            live, read_state, read_entry = [False] * slots, None, None
        look = random.randrange(slots), random.randrange(length)
        dut.lookup_slot.value, dut.lookup_index.value = look
        slot = random.randrange(slots)
        action = random.choice(["read", "write", "none"])
        dut.state_slot.value = slot
        dut.state_read.value, dut.state_write.value = action == "read", action == "write"
        first = random.randrange(length)
        end = min(length, first + random.randrange(most + 1))
        state = first, end, random.randrange(length)
        now_live = random.random() < 0.8
        dut.set_live.value = now_live
        dut.set_first.value, dut.set_end.value, dut.set_floor.value = state
        place = random.randrange(slots), random.randrange(length)
        row = place[0], place[1] % ring
        move = random.choice(["read", "write", "write", "none"])
        if move == "read" and row not in entries:
            move = "write"
        entry = int(random.random() < 0.8), random.randrange(pages)
        dut.entry_slot.value, dut.entry_index.value = place
        dut.entry_read.value, dut.entry_write.value = move == "read", move == "write"
        dut.set_there.value, dut.set_page.value = entry

        # What is read is what was there before this cycle's writes.
        expected = None
        line = look[0], look[1] % ring
        held = False
        if live[look[0]]:
            low, high, _ = states[look[0]]
            there, page = entries.get(line, (None, None))
            held = low <= look[1] < high
            seen.sample(before_first=look[1] < low < high, at_end=look[1] == high > low)
            if held:
                expected = page if there else (None if there == 0 else "unknown")
                seen.sample(found=there, evicted=there == 0)
                if length > ring:
                    seen.hit("wrapped", when=there and look[1] >= ring)
        seen.sample(
            slot_not_live=not live[look[0]],
            dead_slot_is_empty=action == "read" and not live[slot],
            slot_ends=action == "write" and live[slot] and not now_live,
            look_up_beside_entry_write=held and move == "write" and row == line,
            look_up_beside_state_write=held and action == "write" and slot == look[0],
            all_ports=held and action != "none" and move != "none",
        )
        if action == "read":
            read_state = states[slot] if live[slot] else (0, 0, 0)
        if move == "read":
            read_entry = entries[row]
        await FallingEdge(dut.clk)
        if action == "write":
            live[slot], states[slot] = now_live, state
        if move == "write":
            entries[row] = entry
        if expected != "unknown":
            got = int(dut.lookup_page.value) if dut.lookup_found.value == 1 else None
            assert got == expected, look
        if read_state:
            ports = (dut.state_first, dut.state_end, dut.state_floor)
            assert tuple(int(port.value) for port in ports) == read_state
        if read_entry:
            assert int(dut.entry_there.value) == read_entry[0]
            assert int(dut.entry_page.value) == read_entry[1]
        assert int(dut.live.value) == sum(bit << i for i, bit in enumerate(live))
    seen.check()


@pytest.mark.parametrize(
    "given",
    [
        {"slots": 3, "pages": 20, "slot_pages": 3, "sequence_pages": 11},
        deep({"slots": 1, "pages": 4, "slot_pages": 4, "sequence_pages": 4}),
    ],
)
def test_page_table(given):
    run_block(PageTable(**given), "tests.hw.kv.test_page_table", parameters=given)


@pytest.mark.parametrize(
    ("name", "value"), [("pages", 0), ("slots", 0), ("slot_pages", 0), ("slot_pages", 9)]
)
def test_refusals(name, value):
    good = {"slots": 3, "pages": 20, "slot_pages": 3, "sequence_pages": 8}
    with pytest.raises(ValueError, match=f"{name} .*{value}"):
        PageTable(**{**good, name: value})
