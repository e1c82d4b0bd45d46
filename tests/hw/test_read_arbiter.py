"""The read arbiter: each reader gets its own words in order; the row reader goes first."""

from collections import deque

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from tests.hw.test_tape_reader import ReadMemory, begin, configured
from tokenloom.hw.read_arbiter import ReadArbiter
from tokenloom.sim.bench import run_block

INPUTS = (
    "row_ar_valid row_ar_addr row_ar_len row_r_ready "
    "tape_ar_valid tape_ar_addr tape_ar_len tape_r_ready ar_ready r_valid r_data"
).split()


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


@cocotb.test()
async def merged(dut):
    given, random, rng = configured()
    word = given["port_bits"] // 8
    image = bytes(rng.integers(0, 256, 512 * word, dtype="u1"))

    def some(count):
        return [
            (random.randrange(0, 32) * 16 * word, random.choice([1, 2, 15, 16]))
            for _ in range(count)
        ]

    await begin(dut, INPUTS)
    ReadMemory(dut, image, random, word=word, ideal=False, latency=4).start()
    tasks = [
        cocotb.start_soon(requester(dut, "tape_", some(200), word, image, random, 0.9)),
        cocotb.start_soon(requester(dut, "row_", some(60), word, image, random, 0.2)),
    ]
    for task in tasks:
        await task


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
    run_block(ReadArbiter(**bench), "tests.hw.test_read_arbiter", parameters=bench)


@pytest.mark.parametrize(
    ("change", "message"), [({"port_bits": 128}, "port_bits"), ({"bursts": 1}, "bursts")]
)
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        ReadArbiter(**{"port_bits": 512, **change})
