"""Splits reads into bursts that have room where their words will go."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tokenloom.hw.memory.axi import burst_words
from tokenloom.hw.numbers.words import ADDRESS_BITS, check_port_bits

__all__ = ["BurstMaker"]


class BurstMaker(wiring.Component):
    """Splits segments of words into bursts for which the word buffer has room.

    A burst ends where its address is a multiple of 512 bytes, so none crosses 4 KiB, and each is
    one AXI3 burst of 16 beats at most on a 256-bit port, behind a converter or not.

    Parameters
    ----------
    port_bits : int
        Bits of a memory word.
    buffer_words : int
        Words that may be requested or buffered at a time.
    words_bits : int
        Bits of a segment's length.

    Members
    -------
    seg_valid, seg_ready, seg_addr, seg_words
        The next segment: word address and number of words.
    freed : In(1)
        A word has left the buffer.
    busy : Out(1)
        There are words left to request.
    ar_valid, ar_ready, ar_addr, ar_len
        Byte address and words - 1 of a burst.

    Latency
    -------
    Two cycles from a segment to its first burst, then one burst per cycle.
    """

    def __init__(self, *, port_bits: int, buffer_words: int, words_bits: int) -> None:
        check_port_bits(port_bits)
        if buffer_words < 16:
            raise ValueError(
                f"buffer_words has to be at least one burst of 16, not {buffer_words!r}"
            )
        self._burst = burst_words(port_bits)
        self._shift = (port_bits // 8).bit_length() - 1
        self._buffer_words = buffer_words
        super().__init__(
            {
                "seg_valid": In(1),
                "seg_ready": Out(1),
                "seg_addr": In(ADDRESS_BITS),
                "seg_words": In(words_bits),
                "freed": In(1),
                "busy": Out(1),
                "ar_valid": Out(1),
                "ar_ready": In(1),
                "ar_addr": Out(ADDRESS_BITS + self._shift),
                "ar_len": Out(4),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        addr = Signal(ADDRESS_BITS)
        left = Signal.like(self.seg_words)
        credit = Signal(range(self._buffer_words + 1), init=self._buffer_words)

        most = self._burst
        span = Signal(range(most + 1))
        chunk = Signal(range(most + 1))
        m.d.comb += [
            self.seg_ready.eq(~left.any()),
            self.busy.eq(left.any() | self.ar_valid),
            span.eq(most - addr[: most.bit_length() - 1]),
            chunk.eq(Mux(left < span, left, span)),
        ]

        issue = Signal()
        m.d.comb += issue.eq(left.any() & (credit >= chunk) & (~self.ar_valid | self.ar_ready))
        with m.If(self.ar_ready):
            m.d.sync += self.ar_valid.eq(0)
        with m.If(issue):
            m.d.sync += [
                self.ar_valid.eq(1),
                self.ar_addr.eq(Cat(Const(0, self._shift), addr)),
                self.ar_len.eq(chunk - 1),
                addr.eq(addr + chunk),
                left.eq(left - chunk),
            ]
        with m.If(self.seg_valid & self.seg_ready):
            m.d.sync += [addr.eq(self.seg_addr), left.eq(self.seg_words)]
        with m.If(issue | self.freed):
            m.d.sync += credit.eq(credit - Mux(issue, chunk, 0) + self.freed)
        return m
