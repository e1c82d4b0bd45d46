"""Puts the row reader and the tape reader of one channel onto its memory port."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.memory.axi import READS
from tokenloom.hw.numbers.words import ADDRESS_BITS, check_port_bits
from tokenloom.hw.verilog.block import Block

__all__ = ["ReadArbiter"]


class ReadArbiter(Block):
    """Merges two read ports; the row reader's bursts go first, words come back in order.

    A burst with an error response is asked for again, and with it every burst after it: what is
    under way is awaited and dropped first. Readers get each word once and no word of an erroneous
    beat or behind one. A burst that fails once more than `retries` times stops the port.

    Parameters
    ----------
    port_bits : int
        Bits of a memory word, 256 or 512.
    bursts : int
        Bursts that may be outstanding, a power of two from 2.
    retries : int
        Further attempts after an error response, at least 0.

    Members
    -------
    row_ar_valid, row_ar_ready, row_ar_addr, row_ar_len, row_r_valid, row_r_ready, row_r_data
        The row reader.
    tape_ar_valid, …, tape_r_data
        The tape reader.
    ar_valid, ar_ready, ar_addr, ar_len, r_valid, r_ready, r_data, r_resp, r_last
        The channel.
    halt : In(1)
        Ask for nothing more and drop what comes, until a reset.
    quiet : Out(1)
        Nothing is asked for or under way.
    failed, failed_addr : Out(1), Out
        A burst failed for good; its byte address.

    Latency
    -------
    A request takes one cycle, a word none.

    Raises
    ------
    ValueError
        When a parameter is out of range.
    """

    belt = False

    def __init__(self, *, port_bits: int, bursts: int = READS, retries: int = 3) -> None:
        check_port_bits(port_bits)
        if bursts < 2 or bursts & (bursts - 1):
            raise ValueError(f"bursts has to be a power of two from 2, not {bursts!r}")
        if retries < 0:
            raise ValueError(f"retries has to be at least 0, not {retries!r}")
        self._bursts, self._retries = bursts, retries
        self._shift = (port_bits // 8).bit_length() - 1
        address = ADDRESS_BITS + self._shift
        members: dict[str, Any] = {}
        for prefix in ("row_", "tape_"):
            members |= {
                f"{prefix}ar_valid": In(1),
                f"{prefix}ar_ready": Out(1),
                f"{prefix}ar_addr": In(address),
                f"{prefix}ar_len": In(4),
                f"{prefix}r_valid": Out(1),
                f"{prefix}r_ready": In(1),
                f"{prefix}r_data": Out(port_bits),
            }
        members |= {
            "ar_valid": Out(1),
            "ar_ready": In(1),
            "ar_addr": Out(address),
            "ar_len": Out(4),
            "r_valid": In(1),
            "r_ready": Out(1),
            "r_data": In(port_bits),
            "r_resp": In(2),
            "r_last": In(1),
            "halt": In(1),
            "quiet": Out(1),
            "failed": Out(1),
            "failed_addr": Out(address),
        }
        super().__init__(members, params=(port_bits, bursts, retries))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self._bursts.bit_length() - 1

        # Bursts not yet answered in full, oldest at `head`.
        m.submodules.ring = ring = Memory(shape=ADDRESS_BITS + 5, depth=self._bursts, init=[])
        write = ring.write_port()
        oldest, again = ring.read_port(domain="comb"), ring.read_port(domain="comb")
        head, tail, next_again = Signal(bits), Signal(bits), Signal(bits)
        level, left_again, under_way = Signal(bits + 1), Signal(bits + 1), Signal(bits + 1)
        draining = Signal()

        # Requests: a register, so that a waiting burst is never replaced.
        is_row, free, taken, resent = Signal(), Signal(), Signal(), Signal()
        room = ~self.ar_valid | self.ar_ready
        address = Mux(is_row, self.row_ar_addr, self.tape_ar_addr)[self._shift :]
        length = Mux(is_row, self.row_ar_len, self.tape_ar_len)
        m.d.comb += [
            is_row.eq(self.row_ar_valid),
            free.eq(room & ~level[-1] & ~draining & ~left_again.any() & ~self.halt),
            self.row_ar_ready.eq(free),
            self.tape_ar_ready.eq(free & ~is_row),
            taken.eq(free & (self.row_ar_valid | self.tape_ar_valid)),
            resent.eq(room & ~draining & left_again.any() & ~self.halt),
            write.en.eq(taken),
            write.addr.eq(tail),
            write.data.eq(Cat(is_row, length, address)),
            oldest.addr.eq(head),
            again.addr.eq(next_again),
        ]
        with m.If(self.ar_ready):
            m.d.sync += self.ar_valid.eq(0)
        with m.If(taken):
            m.d.sync += [
                self.ar_valid.eq(1),
                self.ar_addr.eq(Cat(Const(0, self._shift), address)),
                self.ar_len.eq(length),
                tail.eq(tail + 1),
            ]
        with m.Elif(resent):
            m.d.sync += [
                self.ar_valid.eq(1),
                self.ar_addr.eq(Cat(Const(0, self._shift), again.data[5:])),
                self.ar_len.eq(again.data[1:5]),
                next_again.eq(next_again + 1),
                left_again.eq(left_again - 1),
            ]

        # Words: the oldest burst says whose they are. `given` of them have gone to the reader.
        to_row = oldest.data[0]
        word, given, bad = Signal(4), Signal(5), Signal()
        drop, good, beat, ended, succeeded = (Signal() for _ in range(5))
        failures = Signal(range(self._retries + 2))
        m.d.comb += [
            drop.eq(draining | bad | self.halt | (word < given)),
            good.eq(self.r_valid & ~self.r_resp[1] & ~drop),
            self.row_r_valid.eq(good & to_row),
            self.tape_r_valid.eq(good & ~to_row),
            self.row_r_data.eq(self.r_data),
            self.tape_r_data.eq(self.r_data),
            self.r_ready.eq(drop | Mux(to_row, self.row_r_ready, self.tape_r_ready)),
            beat.eq(self.r_valid & self.r_ready),
            ended.eq(beat & self.r_last),
            succeeded.eq(ended & ~self.r_resp[1] & ~bad & ~draining & ~self.halt),
        ]
        with m.If(beat):
            m.d.sync += [word.eq(word + 1), bad.eq(bad | self.r_resp[1])]
            with m.If(good):
                m.d.sync += given.eq(word + 1)
        with m.If(ended):
            m.d.sync += [word.eq(0), bad.eq(0)]
            with m.If(succeeded):
                m.d.sync += [head.eq(head + 1), given.eq(0), failures.eq(0)]
            with m.Elif(~draining):
                m.d.sync += [draining.eq(1), left_again.eq(0), failures.eq(failures + 1)]
                with m.If((failures == self._retries) & ~self.halt):
                    m.d.sync += [
                        self.failed.eq(1),
                        self.failed_addr.eq(Cat(Const(0, self._shift), oldest.data[5:])),
                    ]
        # Nothing is left of the attempt that failed: the next one.
        m.d.comb += self.quiet.eq(~under_way.any())
        with m.If(draining & self.quiet & ~self.failed):
            m.d.sync += [draining.eq(0), next_again.eq(head), left_again.eq(level)]
        with m.If(taken != succeeded):
            m.d.sync += level.eq(Mux(taken, level + 1, level - 1))
        with m.If((taken | resent) != ended):
            m.d.sync += under_way.eq(Mux(ended, under_way - 1, under_way + 1))
        return m
