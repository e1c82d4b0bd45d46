"""The write port: every write lands once acknowledged, whatever the memory does."""

import dataclasses

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from tests.hw.clocked import begin, reset
from tests.hw.memory.test_tape_reader import configured
from tokenloom.hw.memory.write_port import WritePort
from tokenloom.sim.axi_bench import AxiMemory
from tokenloom.sim.bench import run_block
from tokenloom.sim.memory import memory_profile

INPUTS = "in_valid in_addr in_data in_strobe aw_ready w_ready b_valid b_resp halt".split()
WRITES, RETRIES, SIZE = 4, 2, 1 << 13


def served(dut, word, image, **more):
    profile = dataclasses.replace(memory_profile("hbm2"), **more)
    memory = AxiMemory(dut, profile, 7, image, beat_bytes=word, writes=WRITES)
    memory.start()
    return memory


async def write_all(dut, writes, random, rate=0.8, most=50_000):
    """Offers (address, data, strobe); returns how many were acknowledged."""
    waiting, done = list(reversed(writes)), 0
    offered = False
    for _ in range(most):
        if not offered and waiting and random.random() < rate:
            address, data, strobe = waiting[-1]
            offered = True
            dut.in_addr.value, dut.in_strobe.value = address, strobe
            dut.in_data.value = int.from_bytes(data, "little")
        dut.in_valid.value = offered
        await RisingEdge(dut.clk)
        if offered and dut.in_ready.value == 1:
            waiting.pop()
            offered = False
        done += int(dut.done.value)
        await FallingEdge(dut.clk)
        if done == len(writes) or dut.failed.value == 1:
            break
    dut.in_valid.value = 0
    return done


def some_writes(random, rng, word, count):
    return [
        (
            random.randrange(0, SIZE, word),
            bytes(rng.integers(0, 256, word, dtype="u1")),
            random.choice([(1 << word) - 1, 1 << random.randrange(word), random.getrandbits(word)])
            | 1,
        )
        for _ in range(count)
    ]


def after(image, writes):
    result = bytearray(image)
    for address, data, strobe in writes:
        for i, byte in enumerate(data):
            if strobe >> i & 1:
                result[address + i] = byte
    return bytes(result)


@cocotb.test()
async def writes_land_in_order(dut):
    given, random, rng = configured()
    word = given["port_bits"] // 8
    image = bytes(rng.integers(0, 256, SIZE, dtype="u1"))
    await begin(dut, INPUTS)
    for rate in (0.0, 0.05):
        await reset(dut, INPUTS)
        memory = served(dut, word, image, error_rate=rate)
        writes = some_writes(random, rng, word, 250)
        assert await write_all(dut, writes, random) == len(writes)
        assert memory.memory.peek(0, SIZE) == after(image, writes)
        errors = memory.memory.counters().write_errors
        assert (errors > 8) if rate else (errors == 0)
        assert dut.failed.value == 0 and dut.quiet.value == 1
        memory.stop()


@cocotb.test()
async def a_write_fails_for_good(dut):
    given, random, rng = configured()
    word = given["port_bits"] // 8
    image = bytes(SIZE)
    await begin(dut, INPUTS)
    for times in (RETRIES, RETRIES + 1, -1):
        await reset(dut, INPUTS)
        memory = served(dut, word, image, error_address=0x400 + 5, error_times=times)
        writes = [(a, bytes([1 + i]) * word, 3) for i, a in enumerate((0, 0x200, 0x400, 0x600))]
        done = await write_all(dut, writes, random, rate=1.0, most=3000)
        if times == RETRIES:
            assert done == 4 and dut.failed.value == 0
            assert memory.memory.peek(0, SIZE) == after(image, writes)
        else:
            assert done == 2 and dut.failed.value == 1 and int(dut.failed_addr.value) == 0x400
        for _ in range(300):
            await FallingEdge(dut.clk)
        assert memory.memory.counters().write_errors == (RETRIES + 1 if times < 0 else times)
        assert dut.quiet.value == 1 and dut.in_ready.value == (times == RETRIES)
        memory.stop()


@cocotb.test()
async def halt_completes_what_is_shown(dut):
    given, random, rng = configured()
    word = given["port_bits"] // 8
    await begin(dut, INPUTS)
    for wait in (1, 2, 3, 5, 20, 40):
        await reset(dut, INPUTS)
        memory = served(dut, word, bytes(SIZE), busy=0.7, error_rate=0.2)
        dut.in_valid.value, dut.in_strobe.value, dut.in_addr.value = 1, 1, word
        for _ in range(wait):
            await FallingEdge(dut.clk)
        dut.halt.value = 1
        quiet = 0
        for _ in range(1500):
            await FallingEdge(dut.clk)
            assert dut.in_ready.value == 0 and dut.done.value == 0
            quiet = quiet + 1 if dut.quiet.value == 1 else 0
            if quiet:
                assert dut.aw_valid.value == 0 and dut.w_valid.value == 0
        assert quiet > 800
        memory.stop()


@pytest.mark.parametrize("port_bits", [256, 512])
def test_write_port(port_bits):
    block = WritePort(port_bits=port_bits, writes=WRITES, retries=RETRIES)
    bench = {"port_bits": port_bits}
    run_block(block, "tests.hw.memory.test_write_port", parameters=bench)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"port_bits": 128}, "port_bits"), ({"writes": 6}, "writes"), ({"retries": -1}, "retries")],
)
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        WritePort(**{"port_bits": 512, **change})
