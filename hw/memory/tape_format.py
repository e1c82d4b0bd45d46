"""The tape reader's commands, and how many words their parts have."""

from __future__ import annotations

import dataclasses
import enum

from amaranth.hdl import Mux, Value

from tokenloom.hw.numbers.words import ceil_shift

__all__ = ["BLOCKS_BITS", "TapeFormat", "TapeKind"]

BLOCKS_BITS = 24
"""Bits of a command's number of blocks."""


class TapeKind(enum.IntEnum):
    """What a command of the tape reader fetches."""

    Q8 = 0
    Q4 = 1
    K = 2
    V = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class TapeFormat:
    """A tape's sizes, as every stage of its reader needs them.

    Attributes
    ----------
    port_bits : int
        Bits of a memory word.
    lanes : int
        Codes per beat.
    dim_blocks_max : int
        Most blocks of one token and head in a K command.
    """

    port_bits: int
    lanes: int
    dim_blocks_max: int

    @property
    def beat_blocks(self) -> int:
        """Blocks per beat."""
        return self.lanes // 32

    @property
    def command_bits(self) -> int:
        """Bits of a queued command: kind, blocks and blocks per token."""
        return 2 + BLOCKS_BITS + self.dim_blocks_max.bit_length()

    def fields(self, flat: Value) -> tuple[Value, Value, Value]:
        """Kind, blocks and blocks per token of a queued command."""
        middle = 2 + BLOCKS_BITS
        return flat[:2], flat[2:middle], flat[middle:]

    def code_words(self, kind: Value, blocks: Value) -> Value:
        """Words of codes of so many blocks."""
        shift = self.port_bits // 512
        return Mux(kind == TapeKind.Q4, ceil_shift(blocks, shift + 1), ceil_shift(blocks, shift))

    def exponent_words(self, blocks: Value) -> Value:
        """Words of K and V shifts of so many K blocks, or of scales of so many others."""
        return ceil_shift(blocks, (self.port_bits // 16).bit_length() - 1)
