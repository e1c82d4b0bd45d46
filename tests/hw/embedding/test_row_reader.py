"""The row reader: rows of both kinds and every length, any timing on every side."""

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from tests.hw.clocked import begin
from tests.hw.memory.test_tape_reader import configured, read_memory, write_codebook
from tests.hw.words import pack
from tokenloom.compiler.pack import pack_row, row_bytes
from tokenloom.hw.embedding.row_reader import RowReader
from tokenloom.sim.bench import run_block

INPUTS = (
    "req_valid req_addr req_blocks req_four cfg_we cfg_addr cfg_data ar_ready r_valid r_data take"
).split()


async def drive_requests(dut, requests, random, *, ideal):
    for addr, blocks, four in requests:
        while not ideal and random.random() < 0.5:
            await FallingEdge(dut.clk)
        dut.req_valid.value = 1
        dut.req_addr.value = addr
        dut.req_blocks.value = blocks
        dut.req_four.value = four
        while True:
            await RisingEdge(dut.clk)
            taken = dut.req_ready.value == 1
            await FallingEdge(dut.clk)
            if taken:
                break
        dut.req_valid.value = 0


async def expect_blocks(dut, expected, random, *, ideal):
    cycle = first = 0
    for number, block in enumerate(expected):
        while True:
            dut.take.value = 1 if ideal else random.random() < 0.6
            await RisingEdge(dut.clk)
            cycle += 1
            assert cycle < 40 * len(expected) + 1000, f"only {number} blocks"
            taken = dut.valid.value == 1 and dut.take.value == 1
            got = tuple(int(s.value) for s in (dut.codes, dut.scale, dut.minimum))
            await FallingEdge(dut.clk)
            if taken:
                break
        assert got == block, f"block {number}"
        first = first or cycle
    dut.take.value = 0
    return cycle - first + 1


def make_rows(rng, *, port_bits, lengths, codebook):
    image, requests, expected = bytearray(), [], []
    word = port_bits // 8
    for blocks, four in lengths:
        low, high = (0, 16) if four else (-128, 128)
        codes = rng.integers(low, high, blocks * 32)
        scale = rng.integers(0, 65536, blocks)
        minimum = rng.integers(0, 65536, blocks) if four else None
        image += bytes(int(rng.integers(0, 70)) * word)
        requests.append((len(image) // word, blocks, int(four)))
        data = pack_row(codes, scale, minimum, 4 if four else 8, port_bits)
        assert len(data) == row_bytes(blocks=blocks, bits=4 if four else 8, port_bits=port_bits)
        image += data.tobytes()
        values = np.array(codebook)[codes] if four else codes
        for b in range(blocks):
            part = values[32 * b : 32 * b + 32]
            expected.append((pack(part, 8), int(scale[b]), int(minimum[b]) if four else 0))
    return image, requests, expected


@cocotb.test()
async def rows(dut):
    given, random, rng = configured()
    most = -(-given["width"] // 32)
    await begin(dut, INPUTS)
    codebook = [random.randrange(-128, 128) for _ in range(16)]
    await write_codebook(dut, codebook)
    lengths = [(most, False), (most, True), (1, True), (1, False)]
    lengths += [(random.randrange(1, most + 1), random.random() < 0.5) for _ in range(20)]
    image, requests, expected = make_rows(
        rng, port_bits=given["port_bits"], lengths=lengths, codebook=codebook
    )
    # A row without blocks gives nothing.
    requests.insert(3, (0, 0, 0))
    read_memory(dut, image, word=given["port_bits"] // 8, ideal=False)
    cocotb.start_soon(drive_requests(dut, requests, random, ideal=False))
    await expect_blocks(dut, expected, random, ideal=False)
    for _ in range(20):
        await FallingEdge(dut.clk)
        assert dut.valid.value == 0


@cocotb.test()
async def speed(dut):
    given, random, rng = configured()
    most = -(-given["width"] // 32)
    await begin(dut, INPUTS)
    await write_codebook(dut, range(16))
    image, requests, expected = make_rows(
        rng, port_bits=given["port_bits"], lengths=[(most, True)], codebook=range(16)
    )
    read_memory(dut, image, word=given["port_bits"] // 8, ideal=True)
    cocotb.start_soon(drive_requests(dut, requests, random, ideal=True))
    assert await expect_blocks(dut, expected, random, ideal=True) <= most + 1


@pytest.mark.parametrize(("port_bits", "width"), [(512, 1056), (256, 96)])
def test_row_reader(port_bits, width):
    bench = {"port_bits": port_bits, "width": width}
    run_block(RowReader(**bench), "tests.hw.embedding.test_row_reader", parameters=bench)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"port_bits": 128}, "port_bits"), ({"width": 8}, "width"), ({"buffer_words": 8}, "buffer")],
)
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        RowReader(**{"port_bits": 512, "width": 64, **change})
