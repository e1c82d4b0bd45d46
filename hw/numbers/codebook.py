"""The codebook: what the 4-bit codes mean."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Value
from amaranth.lib.memory import Memory

__all__ = ["CODEBOOK", "add_codebook"]

CODEBOOK = tuple(range(16))
"""Values of the 4-bit codes of Q4_0 and Q4_1."""


def add_codebook(m: Module, *, we: Value, addr: Value, data: Value, codes: Value) -> Value:
    """Adds a 16-entry register file to `m` and looks every 4-bit code of `codes` up in it.

    Nothing until it is written; a reset leaves it alone.
    """
    m.submodules.codebook = book = Memory(shape=8, depth=len(CODEBOOK), init=[])
    write = book.write_port()
    m.d.comb += [write.en.eq(we), write.addr.eq(addr), write.data.eq(data)]
    values = []
    for i in range(len(codes) // 4):
        read = book.read_port(domain="comb")
        m.d.comb += read.addr.eq(codes.word_select(i, 4))
        values.append(read.data)
    return Cat(*values)
