"""An AXI4-Lite slave: turns accesses into one-cycle strobes on a plain register bus."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib.wiring import In, Out

from tokenloom.hw.verilog.block import Block

__all__ = ["AXI_LITE", "AxiLite", "axi_lite_ports", "connect_axi_lite"]

# name -> (driven by the slave, bits); None: the address.
_PORTS: dict[str, tuple[bool, int | None]] = {
    "awvalid": (False, 1),
    "awready": (True, 1),
    "awaddr": (False, None),
    "awprot": (False, 3),
    "wvalid": (False, 1),
    "wready": (True, 1),
    "wdata": (False, 32),
    "wstrb": (False, 4),
    "bvalid": (True, 1),
    "bready": (False, 1),
    "bresp": (True, 2),
    "arvalid": (False, 1),
    "arready": (True, 1),
    "araddr": (False, None),
    "arprot": (False, 3),
    "rvalid": (True, 1),
    "rready": (False, 1),
    "rdata": (True, 32),
    "rresp": (True, 2),
}
AXI_LITE = tuple(f"s_axi_{name}" for name in _PORTS)
"""Names of the slave's ports, as tools expect them."""


def axi_lite_ports(addr_bits: int) -> dict[str, Any]:
    """Members of a 32-bit AXI4-Lite slave."""
    return {
        f"s_axi_{name}": (Out if driven else In)(addr_bits if bits is None else bits)
        for name, (driven, bits) in _PORTS.items()
    }


def connect_axi_lite(m: Module, master: Any, slave: Any, side: str = "s_axi") -> None:
    """Connect the ports `side`_* of `master` to the s_axi_* of `slave`.

    The master may be the parent that hands its own slave ports down.
    """
    for name in AXI_LITE:
        theirs = getattr(slave, name)
        mine = getattr(master, name.replace("s_axi", side))
        inward = slave.signature.members[name].flow is In
        m.d.comb += theirs.eq(mine) if inward else mine.eq(theirs)


class AxiLite(Block):
    """The protocol: addresses and data in any order, answers that wait as long as they must.

    Reads and writes are independent; each has one access under way and one waiting.

    Parameters
    ----------
    addr_bits : int
        Bits of a byte address. The lowest two are not looked at.

    Members
    -------
    s_axi_* : AXI4-Lite, 32 bits
    write : Out(1), write_word : Out, write_data : Out(32), write_strobe : Out(4)
        A write, for one cycle; `write_word` is the word's number.
    write_resp : In(2)
        The answer, in the same cycle.
    read : Out(1), read_word : Out
        A read, for one cycle.
    read_data : In(32), read_resp : In(2)
        The answer, in the same cycle.

    Latency
    -------
    Two cycles from the later of address and data to the answer; an access per two cycles.
    """

    belt = False

    def __init__(self, *, addr_bits: int) -> None:
        if not 3 <= addr_bits <= 32:
            raise ValueError(f"addr_bits is {addr_bits}; allowed: 3 to 32")
        super().__init__(
            {
                **axi_lite_ports(addr_bits),
                "write": Out(1),
                "write_word": Out(addr_bits - 2),
                "write_data": Out(32),
                "write_strobe": Out(4),
                "write_resp": In(2),
                "read": Out(1),
                "read_word": Out(addr_bits - 2),
                "read_data": In(32),
                "read_resp": In(2),
            },
            params=(addr_bits,),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        address, data = Signal(), Signal()  # what of a write is here
        asked = Signal()

        m.d.comb += [
            self.s_axi_awready.eq(~address),
            self.s_axi_wready.eq(~data),
            self.write.eq(address & data & (~self.s_axi_bvalid | self.s_axi_bready)),
        ]
        with m.If(self.s_axi_awvalid & self.s_axi_awready):
            m.d.sync += [address.eq(1), self.write_word.eq(self.s_axi_awaddr[2:])]
        with m.If(self.s_axi_wvalid & self.s_axi_wready):
            m.d.sync += [
                data.eq(1),
                self.write_data.eq(self.s_axi_wdata),
                self.write_strobe.eq(self.s_axi_wstrb),
            ]
        with m.If(self.s_axi_bready):
            m.d.sync += self.s_axi_bvalid.eq(0)
        with m.If(self.write):
            m.d.sync += [
                address.eq(0),
                data.eq(0),
                self.s_axi_bvalid.eq(1),
                self.s_axi_bresp.eq(self.write_resp),
            ]

        m.d.comb += [
            self.s_axi_arready.eq(~asked),
            self.read.eq(asked & (~self.s_axi_rvalid | self.s_axi_rready)),
        ]
        with m.If(self.s_axi_arvalid & self.s_axi_arready):
            m.d.sync += [asked.eq(1), self.read_word.eq(self.s_axi_araddr[2:])]
        with m.If(self.s_axi_rready):
            m.d.sync += self.s_axi_rvalid.eq(0)
        with m.If(self.read):
            m.d.sync += [
                asked.eq(0),
                self.s_axi_rvalid.eq(1),
                self.s_axi_rdata.eq(self.read_data),
                self.s_axi_rresp.eq(self.read_resp),
            ]
        return m
