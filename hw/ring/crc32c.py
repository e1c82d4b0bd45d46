"""CRC-32C (Castagnoli): reference, and as XOR trees over a whole frame in one cycle."""

from __future__ import annotations

import functools

from amaranth.hdl import Const, Module, Mux
from amaranth.lib.wiring import In, Out

from tokenloom.hw.verilog.block import Block

__all__ = ["CRC_BITS", "POLYNOMIAL", "Crc32c", "crc32c", "crc_of_bits", "crc_shares"]

CRC_BITS = 32
POLYNOMIAL = 0x82F63B78
"""x^32 + x^28 + x^27 + x^26 + x^25 + x^23 + ... + 1 with its bits reflected (RFC 3720, 12.1)."""

_ONES = (1 << CRC_BITS) - 1


def _step(state: int) -> int:
    """The register after one more zero bit."""
    return (state >> 1) ^ (POLYNOMIAL if state & 1 else 0)


@functools.cache
def _table() -> tuple[int, ...]:
    entries = []
    for state in range(256):
        for _ in range(8):
            state = _step(state)
        entries.append(state)
    return tuple(entries)


def crc32c(data: bytes) -> int:
    """CRC-32C of bytes, as iSCSI and ext4 have it: `crc32c(b"123456789") == 0xE3069283`."""
    table, state = _table(), _ONES
    for byte in data:
        state = (state >> 8) ^ table[(state ^ byte) & 0xFF]
    return state ^ _ONES


def crc_of_bits(value: int, bits: int) -> int:
    """CRC-32C of the `bits` lowest bits of `value`, bit 0 first.

    For whole bytes that is `crc32c` of them, the lowest byte first.
    """
    state = _ONES
    for i in range(bits):
        state = _step(state ^ (value >> i & 1))
    return state ^ _ONES


@functools.cache
def crc_shares(bits: int) -> tuple[tuple[int, ...], int]:
    """The CRC of a message of `bits` bits as a sum.

    For a fixed length the CRC is linear but for a constant: the XOR of the shares of all bits that
    are set, and of the constant.

    Returns
    -------
    shares : tuple of int
        What each bit adds.
    constant : int
        The CRC of `bits` zeros.
    """
    shares = [POLYNOMIAL]  # of the last bit; each bit before has gone one step further
    while len(shares) < bits:
        shares.append(_step(shares[-1]))
    return tuple(reversed(shares)), crc_of_bits(0, bits)


class Crc32c(Block):
    """The CRC of a frame, all bits at once, and what it differs by from another one.

    Parameters
    ----------
    bits : int
        Length of the message.

    Members
    -------
    take : In(1)
        The inputs hold a message.
    data : In(bits)
        The message, bit 0 first.
    against : In(32)
        The CRC that came with it; 0 to make one.
    crc : Out(32)
        `crc_of_bits(data, bits) ^ against` of the last message.

    Latency
    -------
    `LATENCY` = 1 cycle, a message per cycle: 32 XOR trees of about `bits` / 2 inputs each,
    generated from the polynomial. For 528 bits four levels of six-input tables.

    Raises
    ------
    ValueError
        When `bits` is not positive.
    """

    belt = False
    CRC_BITS = CRC_BITS
    LATENCY = 1

    def __init__(self, *, bits: int) -> None:
        if bits < 1:
            raise ValueError(f"bits has to be positive, not {bits!r}")
        self._bits = bits
        self.module_name = f"crc32c_{bits}"
        super().__init__(
            {
                "take": In(1),
                "data": In(bits),
                "against": In(CRC_BITS),
                "crc": Out(CRC_BITS),
            },
            params=(bits,),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shares, constant = crc_shares(self._bits)
        level = [Mux(self.data[i], Const(share, CRC_BITS), 0) for i, share in enumerate(shares)]
        level += [Const(constant, CRC_BITS), self.against]
        while len(level) > 1:
            odd = level[len(level) & ~1 :]
            level = [a ^ b for a, b in zip(level[::2], level[1::2], strict=False)] + odd
        with m.If(self.take):
            m.d.sync += self.crc.eq(level[0])
        return m
