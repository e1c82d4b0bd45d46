"""The memory's self-test against memories with bad cells."""

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from tests.hw.clocked import begin
from tests.hw.memory.test_tape_reader import configured
from tokenloom.hw.card.memory_test import Finding, MemoryTest, lane_pattern
from tokenloom.sim.bench import run_block

INPUTS = (
    "start first words seed ar_ready r_valid r_data r_resp r_last aw_ready w_ready b_valid b_resp"
).split()
CHANNELS, SIZE = 3, 200


class Faulty:
    """Channels as words, with cells that change what is written, and ports in a random mood."""

    def __init__(self, dut, random, word):
        self.dut, self.random, self.word = dut, random, word
        self.cells = [{} for _ in range(CHANNELS)]
        self.damage, self.bad_reads, self.bad_writes = {}, set(), set()
        self.reads, self.acks = [], []
        self.joined = {}  # channel -> the one whose memory it reaches

    def cell(self, channel):
        return self.cells[self.joined.get(channel, channel)]

    async def run(self):
        dut, word, random = self.dut, self.word, self.random
        address = data = None
        while True:
            dut.ar_ready.value, aw_ready, w_ready = 1, random.random() < 0.6, random.random() < 0.6
            dut.aw_ready.value, dut.w_ready.value = (
                aw_ready and address is None,
                (w_ready and data is None),
            )
            beat = None
            if self.reads and random.random() < 0.8:
                beat = self.reads.pop(0)
                channel, place, last = beat
                value = self.cell(channel).get(place, 0)
                dut.r_data.value, dut.r_last.value = value, last
                dut.r_resp.value = 2 if (channel, place) in self.bad_reads else 0
            dut.r_valid.value = beat is not None
            ack = self.acks.pop(0) if self.acks and random.random() < 0.5 else None
            dut.b_valid.value = ack is not None
            if ack is not None:
                dut.b_resp.value = 3 if ack in self.bad_writes else 0
            await RisingEdge(dut.clk)
            channel = int(dut.channel.value)
            if dut.ar_valid.value == 1:
                start = int(dut.ar_addr.value) // word
                count = int(dut.ar_len.value) + 1
                assert start // (512 // word) == (start + count - 1) // (512 // word)
                self.reads += [(channel, start + i, i == count - 1) for i in range(count)]
            if dut.aw_valid.value == 1 and dut.aw_ready.value == 1:
                address = channel, int(dut.aw_addr.value) // word
            if dut.w_valid.value == 1 and dut.w_ready.value == 1:
                data = int(dut.w_data.value)
            if address is not None and data is not None:
                channel, place = address
                assert self.joined or place not in self.cell(channel), "written twice"
                self.cell(channel)[place] = data ^ self.damage.get(address, 0)
                self.acks.append(address)
                address = data = None
            await FallingEdge(dut.clk)


async def test_once(dut, memory, first, words, seed):
    memory.cells = [{} for _ in range(CHANNELS)]
    dut.first.value, dut.words.value, dut.seed.value = first, words, seed
    dut.start.value = 1
    await FallingEdge(dut.clk)
    dut.start.value = 0
    for _ in range(20_000):
        await FallingEdge(dut.clk)
        if dut.busy.value == 0:
            break
    assert dut.done.value == 1 and not memory.reads and not memory.acks
    if dut.bad.value == 0:
        return None
    return Finding(int(dut.kind.value)), int(dut.channel.value), int(dut.address.value)


test_once.__test__ = False


@cocotb.test()
async def good_memory(dut):
    given, random, _ = configured()
    word = given["port_bits"] // 8
    await begin(dut, INPUTS)
    memory = Faulty(dut, random, word)
    cocotb.start_soon(memory.run())
    for first, words in ((0, SIZE), (5, 1), (7, 50), (16, 16)):
        seed = random.getrandbits(32)
        assert await test_once(dut, memory, first, words, seed) is None
        for channel in range(CHANNELS):
            assert sorted(memory.cells[channel]) == list(range(first, first + words))
            for place, value in memory.cells[channel].items():
                lanes = np.frombuffer(value.to_bytes(word, "little"), "<u4").tolist()
                want = [lane_pattern(place, channel, lane, seed) for lane in range(word // 4)]
                assert lanes == want


@cocotb.test()
async def bad_places(dut):
    given, random, _ = configured()
    word = given["port_bits"] // 8
    await begin(dut, INPUTS)
    memory = Faulty(dut, random, word)
    cocotb.start_soon(memory.run())
    for _ in range(25):
        channel, place = random.randrange(CHANNELS), random.randrange(SIZE)
        later = (random.randrange(channel, CHANNELS), random.randrange(SIZE))
        bit, seed = random.randrange(8 * word), random.getrandbits(32)
        memory.damage = {(channel, place): 1 << bit}
        if later > (channel, place):
            memory.damage[later] = 1
        found = await test_once(dut, memory, 0, SIZE, seed)
        assert found == (Finding.BITS, channel, place)
        expected, got = int(dut.expected.value), int(dut.found.value)
        assert int(dut.lane.value) == bit // 32
        assert expected == lane_pattern(place, channel, bit // 32, seed)
        assert got ^ expected == 1 << bit % 32
        memory.damage = {}
        memory.bad_reads = {(channel, place)}
        assert await test_once(dut, memory, 0, SIZE, seed) == (Finding.READ_ERROR, channel, place)
        memory.bad_reads, memory.bad_writes = set(), {(channel, place)}
        assert await test_once(dut, memory, 0, SIZE, seed) == (Finding.WRITE_ERROR, channel, place)
        memory.bad_writes = set()
    assert await test_once(dut, memory, 0, SIZE, 1) is None


@cocotb.test()
async def two_channels_on_one_memory(dut):
    given, random, _ = configured()
    await begin(dut, INPUTS)
    memory = Faulty(dut, random, given["port_bits"] // 8)
    cocotb.start_soon(memory.run())
    for channel, other in ((0, 1), (0, 2), (2, 1)):
        memory.joined = {channel: other}
        found = await test_once(dut, memory, 5, 40, random.getrandbits(32))
        assert found == (Finding.BITS, min(channel, other), 5)


@pytest.mark.parametrize("port_bits", [256, 512])
def test_memory_test(port_bits):
    block = MemoryTest(port_bits=port_bits, channels=CHANNELS)
    run_block(block, "tests.hw.card.test_memory_test", parameters={"port_bits": port_bits})


@pytest.mark.parametrize("change", [{"port_bits": 128}, {"channels": 0}, {"channels": 257}])
def test_refusals(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        MemoryTest(**{"port_bits": 512, "channels": 2, **change})
