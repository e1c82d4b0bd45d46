"""AXI3 as the HBM's ports have it: the constants that readers, writers and models share."""

from __future__ import annotations

import enum

__all__ = [
    "BURST_BEATS",
    "BURST_BYTES",
    "ID_BITS",
    "READS",
    "WRITES",
    "WRITE_ADDRESS_BITS",
    "Burst",
    "Response",
    "burst_words",
]

BURST_BEATS = 16
"""Most beats of a burst in AXI3."""
BURST_BYTES = 512
"""Most bytes of a burst: 16 beats of a 256-bit port, so that a wider port's burst is one there."""
ID_BITS = 6
"""Bits of an identifier; a channel's only reader and only writer use identifier 0."""
READS = 16
"""Bursts that a channel has outstanding at most."""
WRITES = 8
"""Writes that a channel has outstanding at most."""
WRITE_ADDRESS_BITS = 32
"""Bits of a byte address in the writes of K and V: 4 GiB of each channel."""


class Burst(enum.IntEnum):
    """Kinds of bursts; only INCR is used."""

    FIXED = 0
    INCR = 1
    WRAP = 2


class Response(enum.IntEnum):
    """What RRESP and BRESP say; from SLVERR on it is an error."""

    OKAY = 0
    EXOKAY = 1
    SLVERR = 2
    DECERR = 3


def burst_words(port_bits: int) -> int:
    """Most words of `port_bits` in a burst."""
    return min(BURST_BEATS, BURST_BYTES * 8 // port_bits)
