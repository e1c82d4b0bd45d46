"""What travels over a link: data frames one way, status frames the other."""

from __future__ import annotations

import enum

from amaranth.hdl import Cat, Value
from amaranth.lib import data

__all__ = [
    "KIND_BITS", "LANES", "LANE_BITS", "SEQ_BITS", "SESSION_BITS", "TAG_BITS", "WORD_BITS", "Kind",
    "mark", "payload", "status",
]  # fmt: skip

LANES = 8
"""Accumulators per word."""
LANE_BITS = 64
WORD_BITS = LANES * LANE_BITS
SEQ_BITS = 10
TAG_BITS = 4
"""Bits that travel with a word: its collective, and whether that had an odd number."""


SESSION_BITS = 8
"""Of the number that says which reset of a ring a frame is from."""

KIND_BITS = 2
"""So that the header has two bytes."""


class Kind(enum.IntEnum):
    """What a data frame holds."""

    IDLE = 0
    """No word. `seq` is that of the next word, so a receiver sees that it has missed the last."""
    DATA = 1


def mark(session: Value, bits: int) -> Value:
    """What a frame's CRC of so many bits is XORed with, so that no other session takes it.

    The CRC is linear: a frame of another session is off by a constant, never right. Each bit of the
    session is there several times, so that no single broken bit makes it so.
    """
    return Cat(*[session] * -(-bits // len(session)))[:bits]


def payload(
    word_bits: int = WORD_BITS, tag_bits: int = TAG_BITS, seq_bits: int = SEQ_BITS
) -> data.StructLayout:
    """A data frame without its CRC: 66 bytes as built."""
    return data.StructLayout(
        {"kind": KIND_BITS, "tag": tag_bits, "seq": seq_bits, "word": word_bits}
    )


def status(seq_bits: int = SEQ_BITS) -> data.StructLayout:
    """A status frame without its CRC: 3 bytes as built.

    `ack`: all words before this one have arrived. `freed`: all before this one have left the
    receiver's buffer. `nak`: something was lost or broken since the last word that arrived. Every
    status frame says everything, so that losing one does no harm.
    """
    spare = -(2 * seq_bits + 1) % 8
    return data.StructLayout({"ack": seq_bits, "freed": seq_bits, "nak": 1, "spare": spare})
