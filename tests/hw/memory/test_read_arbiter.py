"""The read arbiter: each reader gets its own words in order, whatever the memory does."""

import dataclasses
from collections import deque

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from tests.hw.clocked import begin, reset
from tests.hw.memory.test_tape_reader import configured
from tokenloom.hw.memory.read_arbiter import ReadArbiter
from tokenloom.sim.axi_bench import AxiMemory
from tokenloom.sim.bench import run_block
from tokenloom.sim.memory import memory_profile

INPUTS = (
    "row_ar_valid row_ar_addr row_ar_len row_r_ready "
    "tape_ar_valid tape_ar_addr tape_ar_len tape_r_ready ar_ready r_valid r_data r_resp r_last halt"
).split()
BURSTS, RETRIES = 8, 3


async def requester(dut, prefix, bursts, word, image, random, rate):
    """Issues bursts and checks the words that come back."""
    expected = deque()
    waiting = deque(bursts)
    total = got = 0
    cycle = 0
    valid = False

    def port(name):
        return getattr(dut, prefix + name)

    while waiting or expected or total == 0:
        cycle += 1
        assert cycle < 20000, f"{prefix}: {len(waiting)} bursts and {len(expected)} words left"
        if not valid and waiting and random.random() < rate:
            valid = True
            port("ar_valid").value = 1
            port("ar_addr").value = waiting[0][0]
            port("ar_len").value = waiting[0][1] - 1
        port("r_ready").value = random.random() < 0.7
        await RisingEdge(dut.clk)
        if valid and port("ar_ready").value == 1:
            address, words = waiting.popleft()
            for i in range(words):
                low = address + i * word
                expected.append(int.from_bytes(image[low : low + word], "little"))
            total += words
            valid = False
        if port("r_valid").value == 1 and port("r_ready").value == 1:
            assert int(port("r_data").value) == expected.popleft()
            got += 1
        await FallingEdge(dut.clk)
        if not valid:
            port("ar_valid").value = 0
    assert got == total


def served(dut, word, image, **more):
    profile = dataclasses.replace(memory_profile("hbm2"), **more)
    memory = AxiMemory(dut, profile, 7, image, beat_bytes=word, reads=BURSTS)
    memory.start()
    return memory


async def traffic(dut, given, random, image, tape=200, row=60):
    word = given["port_bits"] // 8

    def some(count):
        most = 512 // word
        return [
            (random.randrange(0, 32) * 512, random.choice([1, 2, most - 1, most]))
            for _ in range(count)
        ]

    tasks = [
        cocotb.start_soon(requester(dut, "tape_", some(tape), word, image, random, 0.9)),
        cocotb.start_soon(requester(dut, "row_", some(row), word, image, random, 0.2)),
    ]
    for task in tasks:
        await task


@cocotb.test()
async def merged(dut):
    given, random, rng = configured()
    image = bytes(rng.integers(0, 256, 1 << 14, dtype="u1"))
    await begin(dut, INPUTS)
    memory = served(dut, given["port_bits"] // 8, image)
    await traffic(dut, given, random, image)
    assert memory.memory.counters().reads == 260


@cocotb.test()
async def errors_are_retried(dut):
    """A tenth of the bursts fail; each reader still gets each of its words once, and right."""
    given, random, rng = configured()
    image = bytes(rng.integers(0, 256, 1 << 14, dtype="u1"))
    await begin(dut, INPUTS)
    memory = served(dut, given["port_bits"] // 8, image, error_rate=0.1)
    await traffic(dut, given, random, image, tape=300, row=80)
    count = memory.memory.counters()
    assert count.read_errors > 50
    assert count.reads > 380 + count.read_errors - 1
    assert dut.failed.value == 0 and dut.quiet.value == 1


@cocotb.test()
async def a_burst_fails_for_good(dut):
    """`retries` failures are survived, one more is reported; then nothing comes any more."""
    given, random, rng = configured()
    word = given["port_bits"] // 8
    image = bytes(rng.integers(0, 256, 1 << 14, dtype="u1"))
    await begin(dut, INPUTS)
    for times in (RETRIES, RETRIES + 1, -1):
        await reset(dut, INPUTS)
        memory = served(dut, word, image, error_address=0x0A00 + word, error_times=times)
        got, asked = [], deque([0x0800, 0x0A00, 0x0C00, 0x0E00])
        dut.tape_r_ready.value = 1
        dut.tape_ar_len.value = 3
        for _ in range(3000):
            dut.tape_ar_valid.value = bool(asked)
            dut.tape_ar_addr.value = asked[0] if asked else 0
            await RisingEdge(dut.clk)
            if asked and dut.tape_ar_ready.value == 1:
                asked.popleft()
            if dut.tape_r_valid.value == 1:
                got.append(int(dut.tape_r_data.value).to_bytes(word, "little"))
            await FallingEdge(dut.clk)
        wanted = [
            image[a + i * word :][:word] for a in range(0x0800, 0x1000, 512) for i in range(4)
        ]
        assert memory.memory.counters().read_errors == (RETRIES + 1 if times < 0 else times)
        if times == RETRIES:
            assert got == wanted and dut.failed.value == 0
        else:
            assert dut.failed.value == 1 and int(dut.failed_addr.value) == 0x0A00
            assert 4 <= len(got) < 8 and got == wanted[: len(got)]
        assert dut.quiet.value == 1
        memory.stop()


@cocotb.test()
async def halt_drains(dut):
    """What is under way is taken and dropped, and nothing more is asked for."""
    given, random, rng = configured()
    word = given["port_bits"] // 8
    image = bytes(rng.integers(0, 256, 1 << 14, dtype="u1"))
    await begin(dut, INPUTS)
    for wait in (1, 3, 20, 45, 60, 90):
        await reset(dut, INPUTS)
        memory = served(dut, word, image, error_rate=0.1)
        dut.tape_ar_valid.value = dut.tape_r_ready.value = 1
        dut.tape_ar_addr.value = 0x200
        dut.tape_ar_len.value = 7
        for _ in range(wait):
            await FallingEdge(dut.clk)
        dut.halt.value = 1
        await FallingEdge(dut.clk)
        count = None
        for cycle in range(2000):
            await RisingEdge(dut.clk)
            assert dut.tape_r_valid.value == 0 and dut.tape_ar_ready.value == 0
            if dut.quiet.value == 1 and count is None:
                count, first = memory.memory.counters().reads, cycle
            await FallingEdge(dut.clk)
        assert first < 600 and memory.memory.counters().reads == count
        memory.stop()


@cocotb.test()
async def row_goes_first(dut):
    given, random, _ = configured()
    word = given["port_bits"] // 8
    await begin(dut, INPUTS)
    # Both ask while the channel takes nothing; the burst already shown stays.
    dut.tape_ar_valid.value = 1
    dut.tape_ar_addr.value = 1 * word
    await FallingEdge(dut.clk)
    dut.tape_ar_addr.value = 2 * word
    dut.row_ar_valid.value = 1
    dut.row_ar_addr.value = 3 * word
    for _ in range(3):
        await FallingEdge(dut.clk)
        assert (int(dut.ar_valid.value), int(dut.ar_addr.value)) == (1, word)
    seen = []
    dut.ar_ready.value = 1
    for _ in range(3):
        await RisingEdge(dut.clk)
        seen.append(int(dut.ar_addr.value) // word)
        row_taken = dut.row_ar_ready.value == 1
        await FallingEdge(dut.clk)
        if row_taken:
            dut.row_ar_valid.value = 0
    assert seen == [1, 3, 2]


def test_read_arbiter():
    bench = {"port_bits": 256}
    block = ReadArbiter(**bench, bursts=BURSTS, retries=RETRIES)
    run_block(block, "tests.hw.memory.test_read_arbiter", parameters=bench)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"port_bits": 128}, "port_bits"),
        ({"bursts": 1}, "bursts"),
        ({"bursts": 6}, "bursts"),
        ({"retries": -1}, "retries"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        ReadArbiter(**{"port_bits": 512, **change})
