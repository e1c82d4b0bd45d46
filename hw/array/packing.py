"""Two products of 8 by 9 bits in one of 27 by 9: numpy and hardware expressions of one formula.

`p = ((w_high << 18) + w_low) · x` holds both products, and sums of up to four such products hold
both sums: a product lies in -32640..32768, four in -130560..2^17, which are fewer than 2^18 values.
So the low field says the low sum if its one ambiguous pattern, 2^17, is read as +2^17; what it
borrowed from the high field is 1 where it is negative. The operand lies in -2^25 - 2^7..2^25, so
27 bits hold it, also for -128, -128.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from amaranth.hdl import Cat, Value

from tokenloom.hw.numbers.formats import ACTIVATION_BITS, WEIGHT_BITS

__all__ = [
    "FIELD_BITS",
    "PACKED_BITS",
    "PAIR_BITS",
    "SUMMANDS",
    "operand",
    "pair",
    "split",
    "unpacked",
]

Int = npt.NDArray[np.int64]

FIELD_BITS = 18
"""Distance of the two fields: the most that keeps the operand within 27 bits."""
SUMMANDS = 4
"""Products that may be added before they are taken apart."""
PAIR_BITS = 2 * WEIGHT_BITS + 1
"""Bits that travel: the low weight, and the high one less what the low one borrows."""
PACKED_BITS = FIELD_BITS + WEIGHT_BITS + ACTIVATION_BITS + 2
"""A sum of packed products, signed."""

_HALF = 1 << (FIELD_BITS - 1)


def pair(low: Value, high: Value) -> Value:
    """What is registered of two weights, `PAIR_BITS`: formed once per beat, not in each element."""
    low, high = low.as_signed(), high.as_signed()
    return Cat(low, (high - low[-1])[: WEIGHT_BITS + 1])


def operand(both: Value) -> Value:
    """The multiplier's operand, signed 27 bits, of a `pair`: wires only."""
    low = both[:WEIGHT_BITS]
    fill = low[-1].replicate(FIELD_BITS - WEIGHT_BITS)
    return Cat(low, fill, both[WEIGHT_BITS:]).as_signed()


def split(packed: Value) -> tuple[Value, Value, Value]:
    """Low sum (signed 19), high field (signed 19) and borrow: the high sum is field + borrow."""
    field, high = packed[:FIELD_BITS], packed[FIELD_BITS:PACKED_BITS].as_signed()
    borrow = field[-1] & field[:-1].any()
    return Cat(field, borrow).as_signed(), high, borrow


def unpacked(packed: npt.ArrayLike) -> tuple[Int, Int]:
    """The golden form of `split`: the low and the high sum."""
    p = np.asarray(packed, dtype=np.int64)
    field = p & (2 * _HALF - 1)
    low = np.where(field > _HALF, field - 2 * _HALF, field)
    return low, (p - low) >> FIELD_BITS
