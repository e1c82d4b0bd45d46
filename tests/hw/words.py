"""Numbers side by side in a word, as a block's wide ports have them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["pack", "to_signed", "unpack", "words"]


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


def words(values: np.ndarray, bits: int) -> list[int]:
    """`pack` of each row of an integer array [rows, elements], all rows at once."""
    each = (values[..., None] >> np.arange(bits) & 1).astype(np.uint8)
    rows = np.packbits(each.reshape(len(values), -1), axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in rows]
