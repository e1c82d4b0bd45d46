"""Quantiser: 32 fixed32 values become an activation block of codes and a shift."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.arith import bit_length, or_tree, sum_tree
from tokenloom.hw.numbers.formats import ACTIVATION_BITS, BLOCK, KV4_BITS, KV_BITS, SUM_BITS
from tokenloom.hw.verilog.block import Block

__all__ = ["Quantiser"]


class Quantiser(Block):
    """The rounding point `mx`: a block's codes, its shift above the floor, and the codes' sum.

    `M = OR_i (v_i < 0 ? ~v_i : v_i)`, `s = max(bitlen(M) - (b - 1), floor)`,
    `code_i = min(rs(v_i, s), 2^(b-1) - 1)`, `sx = s - floor`, with codes of b = 9 bits, or
    `kv_bits` for K and V.

    Parameters
    ----------
    tag_bits : int
        Width of the tag that travels with each block (1 or more).
    kv_bits : int
        Bits of a code of K and V, 8 or 4.

    Members
    -------
    in_valid : In(1)
        The other inputs hold a block.
    in_values : In(1024)
        32 signed values; element i at bits 32i.
    in_floor : In(5)
        The operation's smallest shift, 0..24.
    in_narrow : In(1)
        Codes of `kv_bits` (K and V) instead of 9.
    in_tag : In(tag_bits)
        Handed on unchanged.
    out_valid : Out(1)
        The outputs hold a block.
    out_codes : Out(288)
        32 signed codes; element i at bits 9i.
    narrow_codes : Out(32 kv_bits)
        The same, element i at bits kv_bits i; of use for a narrow block. Its bytes are those of
        `kv_pack.pack_codes`.
    out_sx : Out(6)
        The shift above the floor, 0..32 - kv_bits.
    out_sum : Out(signed(14))
        Sum of the codes.
    out_tag : Out(tag_bits)
        The tag that came with the block.

    Latency
    -------
    `LATENCY` = 3 belt cycles.

    Duration
    --------
    One block per cycle, with or without gaps.

    Raises
    ------
    ValueError
        When a parameter is out of range.
    """

    LATENCY = 3

    def __init__(self, *, tag_bits: int, kv_bits: int = KV_BITS) -> None:
        if tag_bits < 1:
            raise ValueError(f"tag_bits = {tag_bits} is impossible: allowed is 1 or more")
        if kv_bits not in (KV_BITS, KV4_BITS):
            raise ValueError(
                f"kv_bits = {kv_bits} is impossible: allowed is {KV_BITS} or {KV4_BITS}"
            )
        self._tag_bits, self._kv_bits = tag_bits, kv_bits
        super().__init__(
            {
                "in_valid": In(1),
                "in_values": In(1024),
                "in_floor": In(5),
                "in_narrow": In(1),
                "in_tag": In(tag_bits),
                "out_valid": Out(1),
                "out_codes": Out(ACTIVATION_BITS * BLOCK),
                "narrow_codes": Out(kv_bits * BLOCK),
                "out_sx": Out(6),
                "out_sum": Out(signed(SUM_BITS)),
                "out_tag": Out(tag_bits),
            },
            params=(tag_bits, kv_bits),
        )

    @property
    def kv_bits(self) -> int:
        """Bits of a code of K and V."""
        return self._kv_bits

    @property
    def tag_bits(self) -> int:
        """Width of the tag."""
        return self._tag_bits

    def elaborate(self, platform: object) -> Module:
        """Find the shift, shift, add."""
        m = Module()

        # Stage 1: the block's shift. One OR over all magnitudes replaces the search for the
        # largest: only its bit length counts.
        elements = [self.in_values[32 * i : 32 * i + 32] for i in range(32)]
        magnitude = Signal(31)
        length = Signal(5)
        most = Signal(5)
        need = Signal(5)
        m.d.comb += [
            magnitude.eq(or_tree(Mux(v[31], ~v[:31], v[:31]) for v in elements)),
            length.eq(bit_length(magnitude)),
            most.eq(Mux(self.in_narrow, self._kv_bits - 1, ACTIVATION_BITS - 1)),
            need.eq(Mux(length < most, 0, length - most)),
        ]
        valid1 = Signal()
        values1 = Signal(1024, reset_less=True)
        narrow1 = Signal(reset_less=True)
        shift1 = Signal(5, reset_less=True)
        sx1 = Signal(5, reset_less=True)
        tag1 = Signal(self._tag_bits, reset_less=True)
        m.d.sync += valid1.eq(self.in_valid)
        with m.If(self.in_valid):
            m.d.sync += [
                values1.eq(self.in_values),
                narrow1.eq(self.in_narrow),
                tag1.eq(self.in_tag),
            ]
            with m.If(need > self.in_floor):
                m.d.sync += [shift1.eq(need), sx1.eq(need - self.in_floor)]
            with m.Else():
                m.d.sync += [shift1.eq(self.in_floor), sx1.eq(0)]

        # Stage 2: the codes. A zero below the value makes the last bit shifted out visible; it
        # is not added where it would carry the largest code to one more.
        largest = Signal(ACTIVATION_BITS)
        m.d.comb += largest.eq(
            Mux(narrow1, (1 << (self._kv_bits - 1)) - 1, (1 << (ACTIVATION_BITS - 1)) - 1)
        )
        codes = []
        for i in range(32):
            shifted = Signal(signed(33), name=f"shifted{i}")
            value = values1[32 * i : 32 * i + 32]
            m.d.comb += shifted.eq(Cat(Const(0, 1), value).as_signed() >> shift1)
            code = shifted[1 : 1 + ACTIVATION_BITS]
            codes.append((code + (shifted[0] & (code != largest)))[:ACTIVATION_BITS])
        valid2 = Signal()
        codes2 = Signal(ACTIVATION_BITS * BLOCK, reset_less=True)
        sx2 = Signal(5, reset_less=True)
        tag2 = Signal(self._tag_bits, reset_less=True)
        m.d.sync += valid2.eq(valid1)
        with m.If(valid1):
            m.d.sync += [codes2.eq(Cat(*codes)), sx2.eq(sx1), tag2.eq(tag1)]

        # Stage 3: the sum.
        parts2 = [codes2.word_select(i, ACTIVATION_BITS) for i in range(BLOCK)]
        m.d.sync += self.out_valid.eq(valid2)
        with m.If(valid2):
            m.d.sync += [
                self.out_codes.eq(codes2),
                self.narrow_codes.eq(Cat(code[: self._kv_bits] for code in parts2)),
                self.out_sx.eq(sx2),
                self.out_sum.eq(sum_tree(code.as_signed() for code in parts2)),
                self.out_tag.eq(tag2),
            ]

        return m
