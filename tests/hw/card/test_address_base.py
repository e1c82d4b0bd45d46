"""Addresses with a buffer's base added, under back-pressure on both sides."""

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from tests.hw.clocked import begin
from tests.hw.memory.test_tape_reader import configured
from tokenloom.hw.card.address_base import AddressBase
from tokenloom.sim.bench import run_block


@cocotb.test()
async def addresses(dut):
    """Every address comes out once, in order, with the base's upper bits added."""
    given, random, _ = configured()
    await begin(dut, ["in_valid", "in_addr", "in_len", "out_ready", "base"])
    bits = given["addr_bits"]
    corners = [0, 0xFFF, 0x1000, (1 << bits) - 1]
    for base in (0, 0xFFF, 1 << 63, random.getrandbits(64), ((1 << 64) - 0x1000)):
        dut.base.value = base
        sent, got = [], []
        queue = [random.choice([*corners, random.getrandbits(bits)]) for _ in range(60)]
        shown = None
        while len(got) < 60:
            if shown is None and queue and random.random() < 0.7:
                shown = queue.pop(0), random.getrandbits(4)
                dut.in_addr.value, dut.in_len.value = shown
            dut.in_valid.value = shown is not None
            dut.out_ready.value = random.random() < 0.5
            await RisingEdge(dut.clk)
            if shown is not None and dut.in_ready.value == 1:
                sent.append(((base >> 12 << 12) + shown[0] & (1 << 64) - 1, shown[1]))
                shown = None
            if dut.out_valid.value == 1 and dut.out_ready.value == 1:
                got.append((int(dut.out_addr.value), int(dut.out_len.value)))
            await FallingEdge(dut.clk)
        assert got == sent
    dut.in_valid.value = 0


@pytest.mark.parametrize("addr_bits", [38])
def test_address_base(addr_bits):
    block = AddressBase(addr_bits=addr_bits)
    run_block(block, "tests.hw.card.test_address_base", parameters={"addr_bits": addr_bits})


@pytest.mark.parametrize("addr_bits", [12, 65])
def test_refusals(addr_bits):
    with pytest.raises(ValueError, match="allowed: 13 to 64"):
        AddressBase(addr_bits=addr_bits)
