"""Widens int4 codes of K or V to the int8 codes that the array takes."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.formats import BLOCK, KV4_BITS, KV_BITS
from tokenloom.hw.verilog.block import Block

__all__ = ["KvUnpack"]


class KvUnpack(Block):
    """`kv_pack.unpack_codes` for K and `kv_pack.unpack_v` for V: 32 bytes become two blocks.

    Members
    -------
    in_valid : In(1)
        The other inputs hold bytes.
    in_is_v : In(1)
        They are V's: one byte per token, of an even dim and the odd one beside it. Else K's: one
        token's codes of 64 dims, two per byte.
    in_bytes : In(256)
        Byte i at bits 8i.
    out_valid : Out(1)
        The outputs hold two blocks.
    out_first, out_second : Out(256)
        32 int8 codes each, element i at bits 8i: the lower and the higher 32 dims of K, or the
        even and the odd dim of V.

    Latency
    -------
    `LATENCY` = 1 belt cycle.

    Duration
    --------
    Two blocks per cycle.
    """

    LATENCY = 1

    def __init__(self) -> None:
        super().__init__(
            {
                "in_valid": In(1),
                "in_is_v": In(1),
                "in_bytes": In(8 * BLOCK),
                "out_valid": Out(1),
                "out_first": Out(KV_BITS * BLOCK),
                "out_second": Out(KV_BITS * BLOCK),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        codes = []
        for i in range(2 * BLOCK):
            code = self.in_bytes.word_select(i, KV4_BITS)
            codes.append(Cat(code, code[-1].replicate(KV_BITS - KV4_BITS)))
        m.d.sync += self.out_valid.eq(self.in_valid)
        with m.If(self.in_valid):
            m.d.sync += [
                self.out_first.eq(Mux(self.in_is_v, Cat(*codes[0::2]), Cat(*codes[:BLOCK]))),
                self.out_second.eq(Mux(self.in_is_v, Cat(*codes[1::2]), Cat(*codes[BLOCK:]))),
            ]
        return m
