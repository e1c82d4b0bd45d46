"""Both ends of a link alone: a frame with any one bit wrong has no effect but a complaint."""

import cocotb
import pytest
from cocotb.triggers import FallingEdge

from tests.hw.clocked import begin
from tests.hw.ring.link_tx_model import framed
from tokenloom.hw.ring.crc32c import CRC_BITS
from tokenloom.hw.ring.frame import SEQ_BITS, TAG_BITS, WORD_BITS, Kind, payload, status
from tokenloom.hw.ring.link_rx import LinkRx
from tokenloom.hw.ring.link_tx import LinkTx
from tokenloom.sim.bench import parameters, run_block, seeded


async def receives(dut):
    random, layout = seeded(), payload()
    await begin(
        dut, ["in_valid", "in_frame", "out_ready", "status_ready", "watch", "stop", "session"]
    )
    dut.out_ready.value = dut.status_ready.value = 1
    words = []

    async def cycles(count):
        for _ in range(count):
            await FallingEdge(dut.clk)
            dut.in_valid.value = 0
            if dut.out_valid.value == 1:
                words.append((int(dut.out_word.value), int(dut.out_tag.value)))

    sent = []
    for bit in range(layout.size + CRC_BITS):
        word, tag = random.getrandbits(WORD_BITS), random.getrandbits(TAG_BITS)
        seq = len(sent) % (1 << SEQ_BITS)
        good = framed(layout, kind=Kind.DATA, tag=tag, seq=seq, word=word)
        for value in (good ^ 1 << bit, good):
            dut.in_valid.value, dut.in_frame.value = 1, value
            await cycles(5)
            if value == good:
                sent.append((word, tag))
            assert words == sent, f"bit {bit}"
            told = int(dut.status_frame.value)
            nak, ack = told >> 2 * SEQ_BITS & 1, told & (1 << SEQ_BITS) - 1
            assert (nak, ack) == (int(value != good), len(sent) % (1 << SEQ_BITS)), f"bit {bit}"


async def sends(dut):
    layout = status()
    await begin(dut, ["in_valid", "in_word", "in_tag", "out_ready", "status_valid",
                      "status_frame", "stop", "session"])  # fmt: skip
    dut.out_ready.value = 1

    async def tell(value):
        dut.status_valid.value, dut.status_frame.value = 1, value
        await FallingEdge(dut.clk)
        dut.status_valid.value = 0
        for _ in range(4):
            await FallingEdge(dut.clk)

    clean = framed(layout, ack=0, freed=0, nak=0, spare=0)
    for bit in range(layout.size + CRC_BITS):
        await tell(clean ^ 1 << bit)
        assert dut.in_ready.value == 0, f"bit {bit} of the first frame"
    await tell(clean)
    for _ in range(parameters()["window"]):
        dut.in_valid.value = 1
        assert dut.in_ready.value == 1
        await FallingEdge(dut.clk)
    dut.in_valid.value = 0
    await FallingEdge(dut.clk)
    assert dut.in_ready.value == 0
    acks = framed(layout, ack=1, freed=1, nak=0, spare=0)
    naks = framed(layout, ack=0, freed=0, nak=1, spare=0)
    for bit in range(layout.size + CRC_BITS):
        for value in (acks, naks):
            await tell(value ^ 1 << bit)
            assert dut.in_ready.value == 0 and dut.again.value == 0, f"bit {bit}"
    await tell(acks)
    assert dut.in_ready.value == 1


@cocotb.test()
async def no_single_bit_passes(dut):
    await (receives if parameters()["end"] == "rx" else sends)(dut)


@pytest.mark.parametrize("end", ["rx", "tx"])
def test_single_bits(end):
    both = {"credits": 16, "patience": 1 << 14}
    window = 8
    if end == "rx":
        block = LinkRx(**both)
    else:
        block = LinkTx(**both, window=window, timeout=1 << 14)
    run_block(block, __name__, parameters={"end": end, "window": window})
