"""Arithmetic of the number formats as hardware expressions (see docs/numbers.md).

The functions take and return Amaranth values and add no state. They name their operand more than
once, and Amaranth writes an expression as often as it is named: pass a signal where it matters.
`formats.py` has the same operations for numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from amaranth.hdl import Cat, Const, Mux, Value, ValueLike

__all__ = ["bit_length", "or_tree", "round_shift", "sat32", "sum_tree"]


def round_shift(value: ValueLike, shift: ValueLike | int) -> Value:
    """`rs(value, shift)`: shift right, rounding half up.

    The result has the operand's shape: rounding cannot leave it. Instead of adding half, the
    last bit shifted out is added, so nothing is wider than the operand.

    Raises
    ------
    ValueError
        When a constant `shift` is negative.
    TypeError
        When a variable `shift` is signed.
    """
    value = Value.cast(value)
    if not value.shape().signed:
        wide = Cat(value, Const(0, 1)).as_signed()
        return round_shift(wide, shift)[: len(value)]
    if isinstance(shift, int):
        if shift < 0:
            raise ValueError(f"shift = {shift} is negative: allowed is 0 or more")
        if shift == 0:
            return value
        if shift >= len(value):
            return Const(0, value.shape())
        last = value[shift - 1 :].as_signed()
        return _rounded(last, len(value))
    shift = Value.cast(shift)
    if shift.shape().signed:
        raise TypeError(f"shift {shift!r} is signed: a variable shift has to be unsigned")
    one_less = (shift - shift.any())[: len(shift)]
    return Mux(shift.any(), _rounded(value >> one_less, len(value)), value).as_signed()


def _rounded(last: Value, width: int) -> Value:
    """`last` without its lowest bit, plus that bit, as a signed value of `width` bits."""
    result = last[1:].as_signed() + last[0]
    return result[:width].as_signed()


def sat32(value: ValueLike) -> tuple[Value, Value]:
    """`sat32(value)` of a signed value: the clamped value (signed 32) and whether it was clamped.

    Raises
    ------
    TypeError
        When `value` is unsigned.
    """
    value = Value.cast(value)
    if not value.shape().signed:
        raise TypeError(f"{value!r} is unsigned: sat32 takes a signed value")
    if len(value) <= 32:
        return value, Const(0, 1)
    top = value[31:]
    saturated = ~(top.all() | ~top.any())
    limit = Mux(value[-1], Const(1 << 31, 32), Const((1 << 31) - 1, 32))
    return Mux(saturated, limit, value[:32]).as_signed(), saturated


def _tree(values: Iterable[ValueLike], join: Callable[[Value, Value], Value], name: str) -> Value:
    level = [Value.cast(value) for value in values]
    if not level:
        raise ValueError(f"{name} of nothing: it takes at least one value")
    while len(level) > 1:
        pairs = [join(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
        level = pairs + (level[-1:] if len(level) % 2 else [])
    return level[0]


def or_tree(values: Iterable[ValueLike]) -> Value:
    """Bitwise OR of `values`, as a balanced tree.

    Raises
    ------
    ValueError
        When there is no value.
    """
    return _tree(values, lambda a, b: a | b, "or_tree")


def sum_tree(values: Iterable[ValueLike]) -> Value:
    """Exact sum of `values`, as a balanced tree; one bit wider per level.

    Raises
    ------
    ValueError
        When there is no value.
    """
    return _tree(values, lambda a, b: a + b, "sum_tree")


def bit_length(value: ValueLike) -> Value:
    """`bitlen(value)` of an unsigned value: 0 for 0, else the highest set bit's index + 1.

    Raises
    ------
    TypeError
        When `value` is signed.
    """
    value = Value.cast(value)
    if value.shape().signed:
        raise TypeError(f"{value!r} is signed: bit_length takes an unsigned value")

    def highest(low: int, high: int) -> Value:
        """The result when the highest set bit is one of value[low:high]."""
        if high - low == 1:
            return Const(high, len(value).bit_length())
        middle = (low + high + 1) // 2
        upper, lower = highest(middle, high), highest(low, middle)
        return Mux(value[middle:high].any(), upper, lower)

    return Mux(value.any(), highest(0, len(value)), 0)
