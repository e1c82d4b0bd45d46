"""The sending end of a link: sequence numbers, CRC, replay buffer, credits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.ring.crc32c import Crc32c
from tokenloom.hw.ring.frame import (
    KIND_BITS,
    SEQ_BITS,
    SESSION_BITS,
    TAG_BITS,
    WORD_BITS,
    Kind,
    mark,
    payload,
    status,
)
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["LinkTx", "check_link"]


def check_link(seq_bits: int, **buffers: int) -> None:
    """Raises ValueError unless the frames of `buffers` can be told apart by sequence numbers."""
    for name, value in buffers.items():
        if value < 2 or value & (value - 1):
            raise ValueError(f"{name} has to be a power of two from 2 on, not {value!r}")
    most = max(buffers.values())
    if seq_bits < 3 or 4 * most > 1 << seq_bits:
        raise ValueError(f"seq_bits has to count four times {most} words, not {seq_bits!r}")


class LinkTx(Block):
    """Sends words so that each arrives once and in order, or reports that it cannot.

    Go-back-N: words that were sent wait in the replay buffer until they are acknowledged. A status
    frame that says something was lost, or `timeout` cycles without progress, and everything from
    the first unacknowledged word on is sent again. A word goes out only when the receiver's buffer
    has room for it: `next - freed < credits`, and the replay buffer, too: `next - ack < window`.
    Both counters are absolute, so a lost or repeated status frame does no harm, and one that comes
    late (an old `ack` or `freed`) lies outside what is under way and is ignored.

    Both ends start anew together: nothing is sent before a status frame of this session has said
    `ack = freed = 0`. Frames of another session count as broken.

    Parameters
    ----------
    word_bits, tag_bits : int
    window : int
        Words of the replay buffer; a power of two. At least the round trip
        (`2 * wire + ROUND_TRIP` cycles) for a word per cycle.
    credits : int
        Words of the receiver's buffer.
    seq_bits : int
        Bits of a sequence number: at least four windows. A frame may be late by fewer cycles than
        2^seq_bits less two windows.
    timeout : int
        Cycles without an acknowledgement after which to send again; more than the round trip.
    retries : int
        Timeouts in a row after which the link is dead.
    idle : int
        Cycles without a frame after which an idle frame is sent.
    patience : int
        Cycles without a status frame, with words waiting, after which the link is dead.
    check : type
        The block that makes the CRC.

    Members
    -------
    in_valid, in_ready, in_word, in_tag : In(1), Out(1), In(word_bits), In(tag_bits)
        Words to be sent.
    out_valid, out_ready, out_frame : Out(1), In(1), Out(frame_bits)
        Data frames: `payload` and its CRC.
    status_valid, status_frame : In(1), In(status_bits)
        Status frames from the other end: `status` and its CRC. Taken always.
    session : In(SESSION_BITS)
        The same at both ends, another one after every reset; constant between resets.
    stop : In(1)
        Send nothing more: the other end shall see a dead link.
    up : Out(1)
        The other end has been heard.
    again : Out(1), strobe
        A word was taken from the replay buffer.
    dead : Out(1)
        The link is dead; until reset.

    Latency
    -------
    `LATENCY` = 2 cycles from a word taken to its frame.

    Duration
    --------
    A word per cycle as long as the frames are taken and credits last.

    Raises
    ------
    ValueError
        When a parameter is out of range.
    """

    belt = False
    LATENCY = 2
    ROUND_TRIP = 7
    """Cycles, without the wire, from a word taken here to its place free again."""

    def __init__(
        self,
        *,
        word_bits: int = WORD_BITS,
        tag_bits: int = TAG_BITS,
        window: int = 128,
        credits: int = 128,
        seq_bits: int = SEQ_BITS,
        timeout: int = 256,
        retries: int = 16,
        idle: int = 16,
        patience: int = 4096,
        check: type[Any] = Crc32c,
    ) -> None:
        check_link(seq_bits, window=window, credits=credits)
        counts = {"timeout": timeout, "retries": retries, "idle": idle, "patience": patience}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} has to be positive, not {value!r}")
        self._window, self._credits, self._seq = window, credits, seq_bits
        self._timeout, self._retries, self._idle = timeout, retries, idle
        self._patience, self._check, self._tag = patience, check, tag_bits
        self._payload = payload(word_bits, tag_bits, seq_bits)
        self._status = status(seq_bits)
        super().__init__(
            {
                "in_valid": In(1),
                "in_ready": Out(1),
                "in_word": In(word_bits),
                "in_tag": In(tag_bits),
                "out_valid": Out(1),
                "out_ready": In(1),
                "out_frame": Out(self._payload.size + check.CRC_BITS),
                "status_valid": In(1),
                "status_frame": In(self._status.size + check.CRC_BITS),
                "session": In(SESSION_BITS),
                "stop": In(1),
                "up": Out(1),
                "again": Out(1),
                "dead": Out(1),
            },
            params=(word_bits, tag_bits, window, credits, seq_bits, timeout, retries, idle,
                    patience, check.__name__),
        )  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        seq = self._seq
        # All words before `base` have arrived; `send` is the next to go out, for the first time
        # when it is `next`; all before `freed` have left the receiver's buffer.
        base, send, next_, freed = (Signal(seq, name=n) for n in ("base", "send", "next", "freed"))

        stamp = mark(self.session, self._check.CRC_BITS)

        # A status frame, one cycle after it came.
        size = self._status.size
        m.submodules.status_check = instance(check := self._check(bits=size))
        said = data.View(self._status, self.status_frame[:size])
        heard, there = Signal(), Signal()
        said_ack, said_freed, said_nak = Signal(seq), Signal(seq), Signal()
        m.d.comb += [
            check.take.eq(self.status_valid),
            check.data.eq(said),
            check.against.eq(self.status_frame[size:] ^ stamp),
            heard.eq(there & ~check.crc.any()),
        ]
        m.d.sync += [
            there.eq(self.status_valid),
            said_ack.eq(said.ack),
            said_freed.eq(said.freed),
            said_nak.eq(said.nak),
        ]

        # What it changes. Differences are modulo 2^seq_bits, so whatever is old seems far ahead.
        under_way, used = Signal(seq), Signal(seq)
        arrived, gone = Signal(seq), Signal(seq)
        fresh, moved = Signal(), Signal()
        m.d.comb += [
            under_way.eq(next_ - base),
            used.eq(next_ - freed),
            arrived.eq(said_ack - base),
            gone.eq(said_freed - freed),
            fresh.eq(heard & self.up & (arrived <= under_way)),
            moved.eq(fresh & arrived.any()),
        ]
        with m.If(heard & ~said_ack.any() & ~said_freed.any()):
            m.d.sync += self.up.eq(1)
        with m.If(moved):
            m.d.sync += base.eq(said_ack)
        with m.If(heard & self.up & (gone <= used)):
            m.d.sync += freed.eq(said_freed)

        # Go back when asked (once until something arrives) or after too long a silence.
        timer, failures = Signal(range(self._timeout)), Signal(range(self._retries + 1))
        went_back, asked, expired, back = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            asked.eq(fresh & said_nak & (moved | ~went_back) & (arrived != under_way)),
            expired.eq((timer == self._timeout - 1) & under_way.any() & ~moved),
            back.eq(asked | expired),
        ]
        with m.If(moved | back | ~under_way.any()):
            m.d.sync += timer.eq(0)
        with m.Else():
            m.d.sync += timer.eq(timer + 1)
        with m.If(asked):
            m.d.sync += went_back.eq(1)
        with m.Elif(moved):
            m.d.sync += went_back.eq(0)
        with m.If(moved):
            m.d.sync += failures.eq(0)
        with m.Elif(expired):
            m.d.sync += failures.eq(failures + 1)
            with m.If(failures == self._retries - 1):
                m.d.sync += self.dead.eq(1)

        # The other end is silent, or has never begun with us.
        silence = Signal(range(self._patience))
        with m.If((heard & self.up) | ~(self.in_valid | under_way.any())):
            m.d.sync += silence.eq(0)
        with m.Elif(silence == self._patience - 1):
            m.d.sync += self.dead.eq(1)
        with m.Else():
            m.d.sync += silence.eq(silence + 1)

        # First stage: which frame. A word sent again comes from the memory's read register.
        m.submodules.replay = replay = Memory(
            shape=len(self.in_word) + self._tag, depth=self._window, init=[]
        )
        write, read = replay.write_port(), replay.read_port()
        index = len(write.addr)
        first, last, quiet = Signal(), Signal(), Signal()  # the stages can take something
        replaying, take, idle_due, resend = Signal(), Signal(), Signal(), Signal()
        gap = Signal(range(self._idle + 1))
        full, kind, number = Signal(), Signal(KIND_BITS), Signal(seq)
        old, word, tag = Signal(), Signal.like(self.in_word), Signal(self._tag)
        m.d.comb += [
            last.eq(~self.out_valid | self.out_ready),
            first.eq((~full | last) & ~quiet),
            quiet.eq(self.stop | self.dead),
            replaying.eq(send != next_),
            self.in_ready.eq(
                first & self.up & ~replaying & (under_way != self._window) & (used != self._credits)
            ),
            take.eq(self.in_valid & self.in_ready),
            resend.eq(replaying & first),
            self.again.eq(resend),
            idle_due.eq(first & ~replaying & ~take & (gap == self._idle)),
            write.en.eq(take),
            write.addr.eq(next_[:index]),
            write.data.eq(Cat(self.in_tag, self.in_word)),
            read.en.eq(resend),
            read.addr.eq(send[:index]),
        ]
        with m.If(full & ~last):
            pass
        with m.Else():
            m.d.sync += full.eq(take | resend | idle_due)
        with m.If(first):
            m.d.sync += [
                kind.eq(Mux(idle_due, Kind.IDLE, Kind.DATA)),
                number.eq(send),
                old.eq(resend),
                gap.eq(Mux(take | resend | idle_due, 0, gap + (gap != self._idle))),
            ]
        with m.If(take):
            m.d.sync += [word.eq(self.in_word), tag.eq(self.in_tag), next_.eq(next_ + 1)]
        with m.If(back):
            m.d.sync += send.eq(Mux(moved, said_ack, base))
        with m.Elif(moved & ((send - base)[:seq] < arrived)):
            m.d.sync += send.eq(said_ack)
        with m.Elif(take | resend):
            m.d.sync += send.eq(send + 1)

        # Second stage: the frame with its CRC.
        m.submodules.frame_check = instance(frame_check := self._check(bits=self._payload.size))
        frame, shown = Signal(self._payload), Signal(self._payload)
        m.d.comb += [
            frame.kind.eq(kind),
            frame.seq.eq(number),
            Cat(frame.tag, frame.word).eq(Mux(old, read.data, Cat(tag, word))),
            frame_check.take.eq(last),
            frame_check.data.eq(frame),
            frame_check.against.eq(stamp),
            self.out_frame.eq(Cat(shown, frame_check.crc)),
        ]
        with m.If(last):
            m.d.sync += [self.out_valid.eq(full), shown.eq(frame)]
        # For proofs.
        self.inside = SimpleNamespace(
            base=base, send=send, next=next_, freed=freed, heard=heard, said_ack=said_ack,
            said_freed=said_freed, moved=moved, arrived=arrived, gone=gone, used=used, take=take,
            replay=replay, full=full, frame=frame, shown=shown,
        )  # fmt: skip
        return m
