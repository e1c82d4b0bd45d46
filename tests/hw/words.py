"""Numbers side by side in a word, as a block's wide ports have them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["pack", "to_signed", "unpack"]


def to_signed(value: int, bits: int) -> int:
    """The two's complement number that `bits` bits hold."""
    return value - (1 << bits) if value >> (bits - 1) else value


def pack(values: Iterable[Any], bits: int) -> int:
    """Element i, signed or not, at bits `bits` * i."""
    mask, word = (1 << bits) - 1, 0
    for i, value in enumerate(values):
        word |= (int(value) & mask) << bits * i
    return word


def unpack(word: int, bits: int, count: int, *, unsigned: bool = False) -> list[int]:
    """The `count` elements of `word`."""
    values = [word >> bits * i & ((1 << bits) - 1) for i in range(count)]
    return values if unsigned else [to_signed(value, bits) for value in values]
