"""Words of the memory channels and their parts."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, Value

__all__ = ["ADDRESS_BITS", "ceil_shift", "ceil_to", "check_port_bits", "pick"]

ADDRESS_BITS = 32
"""Bits of a word address."""


def check_port_bits(port_bits: int) -> None:
    """Raises ValueError unless `port_bits` is a width the readers know."""
    if port_bits not in (256, 512):
        raise ValueError(f"port_bits has to be 256 or 512, not {port_bits!r}")


def ceil_shift(value: Value, shift: int) -> Value:
    """ceil(value / 2^shift)."""
    return (value + ((1 << shift) - 1))[shift:] if shift else value


def ceil_to(value: Value, multiple: int) -> Value:
    """The next multiple of a power of two."""
    shift = multiple.bit_length() - 1
    return Cat(Const(0, shift), ceil_shift(value, shift)) if shift else value


def pick(m: Module, value: Value, index: Value, width: int, count: int) -> Signal:
    """Part number `index` of the first `count` parts of `width` bits, the last beyond them."""
    result = Signal(width)
    with m.Switch(index):
        for i in range(count - 1):
            with m.Case(i):
                m.d.comb += result.eq(value[width * i : width * (i + 1)])
        with m.Default():
            m.d.comb += result.eq(value[width * (count - 1) : width * count])
    return result
