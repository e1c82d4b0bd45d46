"""Writes a pattern to the memory channels, reads it back, and names the first place that is bad."""

from __future__ import annotations

import enum

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib.wiring import In, Out

from tokenloom.hw.memory.axi import READS, WRITES, burst_words
from tokenloom.hw.numbers.words import ADDRESS_BITS, check_port_bits
from tokenloom.hw.verilog.block import Block

__all__ = ["Finding", "MemoryTest", "lane_pattern"]

_MASK = 0xFFFFFFFF


class Finding(enum.IntEnum):
    """What was wrong."""

    BITS = 0
    READ_ERROR = 1
    WRITE_ERROR = 2


def _lane_constant(lane: int, seed: int) -> int:
    # Any odd multiplier: lanes shall differ from each other.
    return ((lane + 1) * 0x9E3779B9 & _MASK) ^ seed


def lane_pattern(address: int, channel: int, lane: int, seed: int) -> int:
    """What 32-bit lane `lane` of a memory word holds: no two words of a channel are alike."""
    base, turn = address ^ channel << 24, lane % 32
    return ((base << turn | base >> 32 - turn) & _MASK) ^ _lane_constant(lane, seed)


class MemoryTest(Block):
    """Writes all words of one channel after the other, then reads them all.

    So two channels that reach the same memory are found as well: the first then holds what was
    meant for the last.

    A read answers by bursts as the readers do, a write by single words, so both meet the memory's
    own reordering of its work. The first error ends the test once its channel is at rest.

    Parameters
    ----------
    port_bits : int
        Bits of a memory word, 256 or 512.
    channels : int

    Members
    -------
    start : In(1)
        Begin, while not `busy`.
    first, words : In(32)
        First word of each channel and how many; stable while busy.
    seed : In(32)
    busy, done : Out(1)
        Under way; has been and has ended.
    bad : Out(1), kind : Out(2), lane : Out(4), address : Out(32), expected, found : Out(32)
        The first error (`Finding`).
    channel : Out
        The channel under test, and the bad one.
    ar_*, r_*, aw_*, w_*, b_*
        The channel's port, one beat per write; `r_ready` and `b_ready` are always high.

    Latency
    -------
    One word per cycle in each direction at most.

    Raises
    ------
    ValueError
        When a parameter is out of range.
    """

    belt = False

    def __init__(self, *, port_bits: int, channels: int) -> None:
        check_port_bits(port_bits)
        if not 1 <= channels <= 256:
            raise ValueError(f"channels is {channels}; allowed: 1 to 256")
        self._port, self._channels = port_bits, channels
        self._shift = (port_bits // 8).bit_length() - 1
        super().__init__(
            {
                "start": In(1),
                "first": In(32),
                "words": In(32),
                "seed": In(32),
                "busy": Out(1),
                "done": Out(1),
                "bad": Out(1),
                "kind": Out(2),
                "lane": Out(4),
                "address": Out(32),
                "expected": Out(32),
                "found": Out(32),
                "channel": Out(max(1, (channels - 1).bit_length())),
                "ar_valid": Out(1),
                "ar_ready": In(1),
                "ar_addr": Out(ADDRESS_BITS + self._shift),
                "ar_len": Out(4),
                "r_valid": In(1),
                "r_data": In(port_bits),
                "r_resp": In(2),
                "r_last": In(1),
                "aw_valid": Out(1),
                "aw_ready": In(1),
                "aw_addr": Out(32),
                "w_valid": Out(1),
                "w_ready": In(1),
                "w_data": Out(port_bits),
                "b_valid": In(1),
                "b_resp": In(2),
            },
            params=(port_bits, channels),
        )

    def _pattern(self, address: Value) -> list[Value]:
        base = address ^ Cat(Const(0, 24), self.channel)[:32]
        return [
            base.rotate_left(i % 32) ^ self.seed ^ Const(_lane_constant(i, 0), 32)
            for i in range(self._port // 32)
        ]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shift, burst = self._shift, burst_words(self._port)
        address, left = Signal(32), Signal(32)  # of what is to be asked for
        answered = Signal(32)  # word of the next answer
        under_way = Signal(range(max(READS, WRITES) + 1))
        reads, writes, ended = Signal(), Signal(), Signal()

        send_write, send_read = Signal(), Signal()
        size = Signal(range(burst + 1))
        room = burst - (address & (burst - 1))  # no burst crosses a multiple of its size
        m.d.comb += [
            size.eq(Mux(left < room, left, room)),
            send_write.eq(
                writes
                & left.any()
                & ~self.bad
                & (under_way < WRITES)
                & (~self.aw_valid | self.aw_ready)
                & (~self.w_valid | self.w_ready)
            ),
            send_read.eq(
                reads
                & left.any()
                & ~self.bad
                & (under_way < READS)
                & (~self.ar_valid | self.ar_ready)
            ),
            ended.eq(Mux(writes, self.b_valid, self.r_valid & self.r_last)),
        ]
        for valid, ready in (
            (self.aw_valid, self.aw_ready),
            (self.w_valid, self.w_ready),
            (self.ar_valid, self.ar_ready),
        ):
            with m.If(ready):
                m.d.sync += valid.eq(0)
        with m.If(send_write):
            m.d.sync += [
                self.aw_valid.eq(1),
                self.w_valid.eq(1),
                self.aw_addr.eq(Cat(Const(0, shift), address)),
                self.w_data.eq(Cat(*self._pattern(address))),
                address.eq(address + 1),
                left.eq(left - 1),
            ]
        with m.If(send_read):
            m.d.sync += [
                self.ar_valid.eq(1),
                self.ar_addr.eq(Cat(Const(0, shift), address)),
                self.ar_len.eq(size - 1),
                address.eq(address + size),
                left.eq(left - size),
            ]
        with m.If((send_write | send_read) != ended):
            m.d.sync += under_way.eq(Mux(ended, under_way - 1, under_way + 1))

        # Answers come in order. A word is compared a cycle after it came.
        check, data, read_error = Signal(), Signal(self._port), Signal()
        word = Signal(32)
        m.d.sync += check.eq(self.r_valid)
        with m.If(self.r_valid):
            m.d.sync += [
                data.eq(self.r_data),
                read_error.eq(self.r_resp[1]),
                word.eq(answered),
            ]
        with m.If(self.r_valid | self.b_valid):
            m.d.sync += answered.eq(answered + 1)
        with m.If(self.b_valid & self.b_resp[1] & ~self.bad):
            m.d.sync += [
                self.bad.eq(1),
                self.kind.eq(Finding.WRITE_ERROR),
                self.address.eq(answered),
            ]
        lanes = self._pattern(word)
        with m.If(check & ~self.bad):
            with m.If(read_error):
                m.d.sync += [
                    self.bad.eq(1),
                    self.kind.eq(Finding.READ_ERROR),
                    self.address.eq(word),
                ]
            with m.Else():
                # The last assignment wins: that of the lowest lane.
                for i, lane in reversed(list(enumerate(lanes))):
                    found = data.word_select(i, 32)
                    with m.If(found != lane):
                        m.d.sync += [
                            self.bad.eq(1),
                            self.kind.eq(Finding.BITS),
                            self.address.eq(word),
                            self.lane.eq(i),
                            self.expected.eq(lane),
                            self.found.eq(found),
                        ]

        rest = ~under_way.any() & ~check & (self.bad | ~left.any())
        begin = [address.eq(self.first), answered.eq(self.first), left.eq(self.words)]
        with m.FSM():
            with m.State("idle"):
                with m.If(self.start):
                    m.d.sync += [
                        *begin,
                        self.busy.eq(1),
                        self.done.eq(0),
                        self.bad.eq(0),
                        self.lane.eq(0),
                        self.expected.eq(0),
                        self.found.eq(0),
                        self.channel.eq(0),
                    ]
                    m.next = "write"
            with m.State("write"):
                m.d.comb += writes.eq(1)
                with m.If(rest):
                    m.d.sync += begin
                    with m.If(self.bad):
                        m.next = "next"
                    with m.Elif(self.channel == self._channels - 1):
                        m.d.sync += self.channel.eq(0)
                        m.next = "read"
                    with m.Else():
                        m.d.sync += self.channel.eq(self.channel + 1)
            with m.State("read"):
                m.d.comb += reads.eq(1)
                with m.If(rest):
                    m.next = "next"
            with m.State("next"):
                # `bad` of the last word is there by now.
                with m.If(self.bad | (self.channel == self._channels - 1)):
                    m.d.sync += [self.busy.eq(0), self.done.eq(1)]
                    m.next = "idle"
                with m.Else():
                    m.d.sync += [*begin, self.channel.eq(self.channel + 1)]
                    m.next = "read"
        return m
