"""Rebased fp16 (docs/numbers.md, weight block) as hardware expressions."""

from __future__ import annotations

from amaranth.hdl import Cat, Mux, Value, ValueLike

__all__ = ["decode"]


def decode(bits: ValueLike) -> tuple[Value, Value]:
    """Mantissa and shift of a rebased fp16: `value = mant << shift` in the tensor's unit.

    Parameters
    ----------
    bits : Value, 16 bits
        Sign, exponent E', 10-bit fraction. Pass a signal: it is named several times.

    Returns
    -------
    mant : signed(12)
        The signed 11-bit mantissa, with the implicit one for E' > 0.
    shift : unsigned(5)
        `max(E', 1) - 1`, 0..30.

    Raises
    ------
    ValueError
        When `bits` is not 16 bits wide.
    """
    bits = Value.cast(bits)
    if len(bits) != 16:
        raise ValueError(f"an fp16 has 16 bits, not {len(bits)}")
    exponent = bits[10:15]
    normal = exponent.any()
    magnitude = Cat(bits[:10], normal)
    mant = Mux(bits[15], -magnitude, magnitude)[:12].as_signed()
    return mant, (exponent - normal)[:5]
