"""The sending end of a link in Python, cycle by cycle: what its ports show, and what it does."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from tokenloom.hw.ring.crc32c import crc_of_bits
from tokenloom.hw.ring.frame import Kind, payload, status

__all__ = ["Given", "LinkTxModel", "Status", "framed"]


def framed(layout, session=0, **fields):
    """A frame of this layout with its CRC behind it, as one number."""
    value = layout.const(fields).as_value().value
    return value | (crc_of_bits(value, layout.size) ^ session * 0x01010101) << layout.size


@dataclass
class Status:
    """What a status frame says, and whether its CRC is right."""

    ack: int
    freed: int
    nak: bool = False
    good: bool = True

    def frame(self, seq_bits: int, session: int) -> int:
        right = framed(status(seq_bits), session, ack=self.ack, freed=self.freed, nak=int(self.nak))
        return right if self.good else right ^ 1 << status(seq_bits).size


@dataclass
class Given:
    """Inputs of a cycle."""

    word: tuple[int, int] | None = None  # and its tag
    out_ready: bool = True
    status: Status | None = None
    stop: bool = False


@dataclass
class LinkTxModel:
    """Parameters as those of `LinkTx`; state as after a reset."""

    word_bits: int
    tag_bits: int
    window: int
    credits: int
    seq_bits: int
    timeout: int
    retries: int
    idle: int
    patience: int

    base: int = 0
    send: int = 0
    next: int = 0
    freed: int = 0
    said: Status | None = None
    up: bool = False
    dead: bool = False
    timer: int = 0
    failures: int = 0
    silence: int = 0
    went_back: bool = False
    gap: int = 0
    # A frame on its way out, and the one that is offered: kind, sequence number, word, tag.
    coming: tuple[int, int, int, int] | None = None
    shown: tuple[int, int, int, int] | None = None
    replay: dict[int, tuple[int, int]] = field(default_factory=dict)

    def behind(self, a: int, b: int) -> int:
        """How many sequence numbers b is behind a."""
        return (a - b) % (1 << self.seq_bits)

    def _moves(self, given: Given) -> bool:
        return self.shown is None or given.out_ready

    def _enters(self, given: Given) -> bool:
        return (self.coming is None or self._moves(given)) and not (given.stop or self.dead)

    def again(self, given: Given) -> bool:
        return self.send != self.next and self._enters(given)

    def in_ready(self, given: Given) -> bool:
        return (
            self.up
            and self.send == self.next
            and self._enters(given)
            and self.behind(self.next, self.base) != self.window
            and self.behind(self.next, self.freed) != self.credits
        )

    def out_frame(self, session: int) -> int | None:
        """What is offered."""
        if self.shown is None:
            return None
        kind, seq, word, tag = self.shown
        layout = payload(self.word_bits, self.tag_bits, self.seq_bits)
        return framed(layout, session, kind=kind, seq=seq, word=word, tag=tag)

    def step(self, given: Given) -> None:
        """A clock edge."""
        now = copy.copy(self)  # as before it
        self._send(now, given)
        self._listen(now, given)

    def _send(self, now: LinkTxModel, given: Given) -> None:
        frame = None
        if now.again(given):
            frame = (Kind.DATA, now.send, *self.replay[now.send % self.window])
        elif now.in_ready(given) and given.word:
            self.replay[now.next % self.window] = given.word
            self.next = (now.next + 1) % (1 << self.seq_bits)
            frame = (Kind.DATA, now.next, *given.word)
        elif now._enters(given) and now.gap == self.idle:
            # What an idle frame has for a word means nothing: the last one's.
            frame = (Kind.IDLE, now.send, -1, -1)
        if frame and frame[0] == Kind.DATA:
            self.send = (now.send + 1) % (1 << self.seq_bits)
        if now._enters(given):
            self.gap = 0 if frame else min(now.gap + 1, self.idle)
        if now._moves(given):
            self.shown = now.coming
        if now._moves(given) or now.coming is None:
            self.coming = frame

    def _listen(self, now: LinkTxModel, given: Given) -> None:
        heard = now.said if now.said and now.said.good else None
        under_way = now.behind(now.next, now.base)
        arrived = now.behind(heard.ack, now.base) if heard else 0
        fresh = heard and now.up and arrived <= under_way
        moved = bool(fresh and arrived)
        asked = fresh and heard.nak and (moved or not now.went_back) and arrived != under_way
        expired = now.timer == self.timeout - 1 and under_way and not moved
        if moved:
            self.base = heard.ack
        if asked or expired or (moved and now.behind(now.send, now.base) < arrived):
            self.send = self.base
        used = now.behind(now.next, now.freed)
        if heard and now.up and now.behind(heard.freed, now.freed) <= used:
            self.freed = heard.freed
        if heard and heard.ack == heard.freed == 0:
            self.up = True
        waits = not (moved or asked or expired) and under_way
        self.timer = now.timer + 1 if waits else 0
        self.went_back = True if asked else now.went_back and not moved
        if moved:
            self.failures = 0
        elif expired:
            self.failures = now.failures + 1
            self.dead = now.dead or now.failures == self.retries - 1
        if (heard and now.up) or not (given.word or under_way):
            self.silence = 0
        elif now.silence == self.patience - 1:
            self.dead = True
        else:
            self.silence = now.silence + 1
        self.said = given.status
