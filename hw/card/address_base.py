"""Adds a buffer's address in the card's memory to the addresses of a memory channel."""

from __future__ import annotations

from amaranth.hdl import Cat, Module
from amaranth.lib.wiring import In, Out

from tokenloom.hw.verilog.block import Block

__all__ = ["BASE_ALIGN_BITS", "AddressBase"]

BASE_ALIGN_BITS = 12
"""Low bits of a base that count as zero: so a burst that crosses no 4 KiB boundary of the channel
crosses none of the memory."""


class AddressBase(Block):
    """A register in the path of a burst's address, with the base added on the way.

    Parameters
    ----------
    addr_bits : int
        Bits of a channel's byte address.

    Members
    -------
    base : In(64)
        The buffer's address; its lowest 12 bits count as zero.
    in_valid : In(1), in_ready : Out(1), in_addr : In, in_len : In(4)
        The channel's side.
    out_valid : Out(1), out_ready : In(1), out_addr : Out(64), out_len : Out(4)
        The memory's.

    Latency
    -------
    One cycle; an address per cycle.
    """

    belt = False

    def __init__(self, *, addr_bits: int) -> None:
        if not BASE_ALIGN_BITS < addr_bits <= 64:
            raise ValueError(
                f"addr_bits is {addr_bits}; allowed: {BASE_ALIGN_BITS + 1} to 64"
            )  # fmt: skip
        super().__init__(
            {
                "base": In(64),
                "in_valid": In(1),
                "in_ready": Out(1),
                "in_addr": In(addr_bits),
                "in_len": In(4),
                "out_valid": Out(1),
                "out_ready": In(1),
                "out_addr": Out(64),
                "out_len": Out(4),
            },
            params=(addr_bits,),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        low = BASE_ALIGN_BITS
        page = (self.base[low:] + self.in_addr[low:])[: 64 - low]
        m.d.comb += self.in_ready.eq(~self.out_valid | self.out_ready)
        with m.If(self.in_ready):
            m.d.sync += [
                self.out_valid.eq(self.in_valid),
                self.out_addr.eq(Cat(self.in_addr[:low], page)),
                self.out_len.eq(self.in_len),
            ]
        return m
