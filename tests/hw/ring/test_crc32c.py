"""CRC-32C: known values, the reference against the definition, the block against the reference."""

import cocotb
import pytest
from cocotb.triggers import FallingEdge

from tests.hw.clocked import begin
from tokenloom.hw.ring.crc32c import Crc32c, crc32c, crc_of_bits, crc_shares
from tokenloom.sim.bench import parameters, run_block, seeded

# RFC 3720 B.4 and the usual check value.
KNOWN = {
    b"123456789": 0xE3069283,
    bytes(32): 0x8A9136AA,
    b"\xff" * 32: 0x62A8AB43,
    bytes(range(32)): 0x46DD794E,
    bytes(range(31, -1, -1)): 0x113FDB5C,
}


def test_known_values():
    for message, crc in KNOWN.items():
        assert crc32c(message) == crc
        assert crc_of_bits(int.from_bytes(message, "little"), 8 * len(message)) == crc


def test_shares():
    random = seeded()
    for bits in (1, 7, 24, 528):
        shares, constant = crc_shares(bits)
        for value in (0, 1, (1 << bits) - 1, *(random.getrandbits(bits) for _ in range(20))):
            crc = constant
            for i, share in enumerate(shares):
                crc ^= share if value >> i & 1 else 0
            assert crc == crc_of_bits(value, bits)


@cocotb.test()
async def block_equals_reference(dut):
    bits, random = parameters()["bits"], seeded()
    await begin(dut, ["take", "data", "against"])
    messages = [0, (1 << bits) - 1, *(1 << i for i in range(bits))]
    messages += [random.getrandbits(bits) for _ in range(500)]
    expected = 0
    for message in messages:
        take, against = random.random() < 0.8, random.choice([0, random.getrandbits(32)])
        dut.take.value, dut.data.value, dut.against.value = int(take), message, against
        await FallingEdge(dut.clk)
        if take:
            expected = crc32c(message.to_bytes(bits // 8, "little")) ^ against
        assert int(dut.crc.value) == expected


@pytest.mark.parametrize("bits", [24, 528])
def test_crc32c(bits):
    run_block(Crc32c(bits=bits), "tests.hw.ring.test_crc32c", parameters={"bits": bits})


def test_refusal():
    with pytest.raises(ValueError, match="bits"):
        Crc32c(bits=0)
