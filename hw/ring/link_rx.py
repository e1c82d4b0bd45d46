"""The receiving end of a link: checks, puts in order, buffers, and says how far it has come."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data
from amaranth.lib.wiring import In, Out

from tokenloom.hw.ring.crc32c import Crc32c
from tokenloom.hw.ring.frame import (
    SEQ_BITS,
    SESSION_BITS,
    TAG_BITS,
    WORD_BITS,
    Kind,
    mark,
    payload,
    status,
)
from tokenloom.hw.ring.link_tx import check_link
from tokenloom.hw.ring.word_buffer import WordBuffer
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["LinkRx"]


class LinkRx(Block):
    """Hands on the words of a link, each once and in order.

    A data frame is taken when its CRC is right and its number is the next one; all others are
    thrown away. What is broken, or numbered too high, sets `nak` until the next word arrives; a
    number that has been there is a repetition and means nothing.

    Parameters
    ----------
    word_bits, tag_bits, seq_bits, check
        As for `LinkTx`.
    credits : int
        Words of the buffer; a power of two.
    patience : int
        Cycles without a good frame, while `watch` is high, after which the link is dead.

    Members
    -------
    in_valid, in_frame : In(1), In(frame_bits)
        Data frames. Taken always: the sender's credits keep the buffer from overflowing.
    out_valid, out_ready, out_word, out_tag : Out(1), In(1), Out(word_bits), Out(tag_bits)
        Words received.
    status_valid, status_ready, status_frame : Out(1), In(1), Out(status_bits)
        Status frames, one after the other.
    session : In(SESSION_BITS)
        See `LinkTx`.
    watch : In(1)
        Somebody waits for a word.
    stop : In(1)
        Send no status frames: the other end shall see a dead link.
    dead : Out(1)
        The link is dead; until reset.

    Latency
    -------
    `LATENCY` = 2 cycles from a frame to its word.

    Duration
    --------
    A frame per cycle.

    Raises
    ------
    ValueError
        When a parameter is out of range.
    """

    belt = False
    LATENCY = 1 + WordBuffer.LATENCY

    def __init__(
        self,
        *,
        word_bits: int = WORD_BITS,
        tag_bits: int = TAG_BITS,
        credits: int = 128,
        seq_bits: int = SEQ_BITS,
        patience: int = 4096,
        check: type[Any] = Crc32c,
    ) -> None:
        check_link(seq_bits, credits=credits)
        if patience < 1:
            raise ValueError(f"patience has to be positive, not {patience!r}")
        self._credits, self._seq, self._patience = credits, seq_bits, patience
        self._check = check
        self._payload = payload(word_bits, tag_bits, seq_bits)
        self._status = status(seq_bits)
        super().__init__(
            {
                "in_valid": In(1),
                "in_frame": In(self._payload.size + check.CRC_BITS),
                "out_valid": Out(1),
                "out_ready": In(1),
                "out_word": Out(word_bits),
                "out_tag": Out(tag_bits),
                "status_valid": Out(1),
                "status_ready": In(1),
                "status_frame": Out(self._status.size + check.CRC_BITS),
                "session": In(SESSION_BITS),
                "watch": In(1),
                "stop": In(1),
                "dead": Out(1),
            },
            params=(word_bits, tag_bits, credits, seq_bits, patience, check.__name__),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        seq, size = self._seq, self._payload.size
        stamp = mark(self.session, self._check.CRC_BITS)

        # First stage: what the CRC says.
        m.submodules.frame_check = instance(frame_check := self._check(bits=size))
        there, frame = Signal(), Signal(self._payload)
        m.d.comb += [
            frame_check.take.eq(self.in_valid),
            frame_check.data.eq(self.in_frame[:size]),
            frame_check.against.eq(self.in_frame[size:] ^ stamp),
        ]
        m.d.sync += there.eq(self.in_valid)
        with m.If(self.in_valid):
            m.d.sync += frame.eq(data.View(self._payload, self.in_frame[:size]))

        # Second stage: is it the next word? `ahead` counts modulo 2^seq_bits, so numbers that have
        # been there lie in its upper half.
        expected, freed, nak = Signal(seq), Signal(seq), Signal()
        good, broken, awaited = Signal(), Signal(), Signal()
        ahead, arrives, accept = Signal(seq), Signal(), Signal()
        m.submodules.buffer = instance(
            buffer := WordBuffer(bits=len(self.out_tag) + len(self.out_word), depth=self._credits)
        )
        m.d.comb += [
            good.eq(there & ~frame_check.crc.any()),
            broken.eq(there & frame_check.crc.any()),
            ahead.eq(frame.seq - expected),
            awaited.eq(~ahead.any()),
            arrives.eq(good & (frame.kind == Kind.DATA) & awaited),
            accept.eq(arrives & ~buffer.full),
            buffer.push.eq(accept),
            buffer.in_word.eq(Cat(frame.tag, frame.word)),
            self.out_valid.eq(buffer.out_valid),
            Cat(self.out_tag, self.out_word).eq(buffer.out_word),
            buffer.pop.eq(self.out_valid & self.out_ready),
        ]
        with m.If(accept):
            m.d.sync += expected.eq(expected + 1)
        with m.If(buffer.pop):
            m.d.sync += freed.eq(freed + 1)
        with m.If(broken | (good & ~awaited & ~ahead[-1])):
            m.d.sync += nak.eq(1)
        with m.Elif(good & awaited):
            m.d.sync += nak.eq(0)

        # Status frames.
        m.submodules.status_check = instance(check := self._check(bits=self._status.size))
        state, shown = Signal(self._status), Signal(self._status)
        turn = Signal()
        m.d.comb += [
            state.ack.eq(expected),
            state.freed.eq(freed),
            state.nak.eq(nak),
            turn.eq(~self.status_valid | self.status_ready),
            check.take.eq(turn),
            check.data.eq(state),
            check.against.eq(stamp),
            self.status_frame.eq(Cat(shown, check.crc)),
        ]
        with m.If(turn):
            m.d.sync += [self.status_valid.eq(~self.stop & ~self.dead), shown.eq(state)]

        silence = Signal(range(self._patience))
        with m.If(good | ~self.watch):
            m.d.sync += silence.eq(0)
        with m.Elif(silence == self._patience - 1):
            m.d.sync += self.dead.eq(1)
        with m.Else():
            m.d.sync += silence.eq(silence + 1)
        # For proofs.
        self.inside = SimpleNamespace(
            expected=expected, freed=freed, good=good, frame=frame, arrives=arrives,
            accept=accept, buffer=buffer, turn=turn, shown=shown,
        )  # fmt: skip
        return m
