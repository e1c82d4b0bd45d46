"""Brings one channel's writes onto its memory port and repeats those that fail."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.memory.axi import WRITE_ADDRESS_BITS, WRITES
from tokenloom.hw.numbers.words import check_port_bits
from tokenloom.hw.verilog.block import Block

__all__ = ["WritePort"]


class WritePort(Block):
    """Keeps writes of one word until they are acknowledged.

    After an error response it awaits what is under way and sends everything again that is not yet
    acknowledged, in order; a write done twice is harmless. A write that fails once more than
    `retries` times stops the port.

    Parameters
    ----------
    port_bits : int
        Bits of a memory word, 256 or 512.
    writes : int
        Writes kept, a power of two from 2.
    retries : int
        Further attempts after an error response, at least 0.

    Members
    -------
    in_valid, in_ready, in_addr, in_data, in_strobe : In, Out, In(32), In(port_bits), In
        The writes: byte address of the word, the word, its bytes to be written.
    done : Out(1)
        The oldest write is acknowledged.
    aw_valid, aw_ready, aw_addr, w_valid, w_ready, w_data, w_strobe, b_valid, b_resp
        The channel, one beat per burst; `b_ready` is always high.
    halt : In(1)
        Send nothing more, until a reset; what the port shows already is completed.
    quiet : Out(1)
        Nothing is under way.
    failed, failed_addr : Out(1), Out(32)
        A write failed for good; its byte address.

    Latency
    -------
    Two cycles from a write to the port, one write per cycle.

    Raises
    ------
    ValueError
        When a parameter is out of range.
    """

    belt = False

    def __init__(self, *, port_bits: int, writes: int = WRITES, retries: int = 3) -> None:
        check_port_bits(port_bits)
        if writes < 2 or writes & (writes - 1):
            raise ValueError(f"writes has to be a power of two from 2, not {writes!r}")
        if retries < 0:
            raise ValueError(f"retries has to be at least 0, not {retries!r}")
        self._port_bits, self._writes, self._retries = port_bits, writes, retries
        super().__init__(
            {
                "in_valid": In(1),
                "in_ready": Out(1),
                "in_addr": In(WRITE_ADDRESS_BITS),
                "in_data": In(port_bits),
                "in_strobe": In(port_bits // 8),
                "done": Out(1),
                "aw_valid": Out(1),
                "aw_ready": In(1),
                "aw_addr": Out(WRITE_ADDRESS_BITS),
                "w_valid": Out(1),
                "w_ready": In(1),
                "w_data": Out(port_bits),
                "w_strobe": Out(port_bits // 8),
                "b_valid": In(1),
                "b_resp": In(2),
                "halt": In(1),
                "quiet": Out(1),
                "failed": Out(1),
                "failed_addr": Out(WRITE_ADDRESS_BITS),
            },
            params=(port_bits, writes, retries),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        port = self._port_bits
        shift = (port // 8).bit_length() - 1
        bits = self._writes.bit_length() - 1

        # Writes not yet acknowledged, oldest at `head`; the last `unsent` of them were not sent.
        m.submodules.words = words = Memory(shape=port, depth=self._writes, init=[])
        m.submodules.strobes = strobes = Memory(shape=port // 8, depth=self._writes, init=[])
        m.submodules.addresses = addresses = Memory(
            shape=WRITE_ADDRESS_BITS - shift, depth=self._writes, init=[]
        )
        oldest = addresses.read_port(domain="comb")
        head, sent, tail = Signal(bits), Signal(bits), Signal(bits)
        level, unsent, under_way = (Signal(bits + 1) for _ in range(3))
        draining = Signal()
        taken, send, succeeded = Signal(), Signal(), Signal()
        failures = Signal(range(self._retries + 2))
        m.d.comb += [
            self.in_ready.eq(~level[-1] & ~draining & ~self.halt),
            taken.eq(self.in_valid & self.in_ready),
            oldest.addr.eq(head),
            send.eq(
                unsent.any()
                & ~draining
                & ~self.halt
                & (~self.aw_valid | self.aw_ready)
                & (~self.w_valid | self.w_ready)
            ),
        ]
        for memory, value, shown in (
            (words, self.in_data, self.w_data),
            (strobes, self.in_strobe, self.w_strobe),
            (addresses, self.in_addr[shift:], self.aw_addr[shift:]),
        ):
            # The read registers are what the port shows.
            write, read = memory.write_port(), memory.read_port()
            m.d.comb += [
                write.en.eq(taken),
                write.addr.eq(tail),
                write.data.eq(value),
                read.en.eq(send),
                read.addr.eq(sent),
                shown.eq(read.data),
            ]
        with m.If(taken):
            m.d.sync += tail.eq(tail + 1)
        with m.If(self.aw_ready):
            m.d.sync += self.aw_valid.eq(0)
        with m.If(self.w_ready):
            m.d.sync += self.w_valid.eq(0)
        with m.If(send):
            m.d.sync += [
                self.aw_valid.eq(1),
                self.w_valid.eq(1),
                sent.eq(sent + 1),
            ]
        with m.If(taken != send):
            m.d.sync += unsent.eq(Mux(taken, unsent + 1, unsent - 1))

        # Acknowledgements.
        m.d.comb += [
            succeeded.eq(self.b_valid & ~self.b_resp[1] & ~draining & ~self.halt),
            self.done.eq(succeeded),
            self.quiet.eq(~under_way.any()),
        ]
        with m.If(succeeded):
            m.d.sync += [head.eq(head + 1), failures.eq(0)]
        with m.Elif(self.b_valid & ~draining):
            m.d.sync += [draining.eq(1), failures.eq(failures + 1)]
            with m.If((failures == self._retries) & ~self.halt):
                m.d.sync += [
                    self.failed.eq(1),
                    self.failed_addr.eq(Cat(Const(0, shift), oldest.data)),
                ]
        with m.If(draining & self.quiet & ~self.failed):
            m.d.sync += [draining.eq(0), sent.eq(head), unsent.eq(level)]
        with m.If(taken != succeeded):
            m.d.sync += level.eq(Mux(taken, level + 1, level - 1))
        with m.If(send != self.b_valid):
            m.d.sync += under_way.eq(Mux(self.b_valid, under_way - 1, under_way + 1))
        return m
