"""ProbQuantiser: 32 weighted probabilities become two digits of int8 codes and a shift."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.arith import bit_length, or_tree
from tokenloom.hw.numbers.formats import BLOCK, PROB_CODE_BITS, PROB_CODE_MAX
from tokenloom.hw.verilog.block import Block

__all__ = ["ProbQuantiser"]

_VALUE_BITS = 42


class ProbQuantiser(Block):
    """The rounding point `prob`: a block's 15-bit codes as two int8 digits, and their shift.

    `s = max(bitlen(OR w_t) - 15, 0)`, `c = min(rs(w_t, s), 32639)`,
    `lo = ((c + 128) & 255) - 128`, `hi = (c - lo) >> 8`.

    Parameters
    ----------
    tag_bits : int
        Width of the tag that travels with each block (1 or more).

    Members
    -------
    in_valid : In(1)
        The other inputs hold a block.
    in_values : In(1344)
        32 unsigned values of 42 bits; element i at bits 42i.
    in_tag : In(tag_bits)
        Handed on unchanged.
    out_valid : Out(1)
        The outputs hold a block.
    out_hi, out_lo : Out(256)
        32 signed codes each; element i at bits 8i.
    out_s : Out(6)
        The low digit's shift s, 0..27 (the high digit's is s + 8).
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
        When `tag_bits` is less than 1.
    """

    LATENCY = 3

    def __init__(self, *, tag_bits: int) -> None:
        if tag_bits < 1:
            raise ValueError(f"tag_bits = {tag_bits} is impossible: allowed is 1 or more")
        self._tag_bits = tag_bits
        super().__init__(
            {
                "in_valid": In(1),
                "in_values": In(_VALUE_BITS * BLOCK),
                "in_tag": In(tag_bits),
                "out_valid": Out(1),
                "out_hi": Out(8 * BLOCK),
                "out_lo": Out(8 * BLOCK),
                "out_s": Out(6),
                "out_tag": Out(tag_bits),
            },
            params=(tag_bits,),
        )

    def elaborate(self, platform: object) -> Module:
        """Find the shift, shift, round and split."""
        m = Module()

        # Stage 1: the block's shift.
        values = [self.in_values[_VALUE_BITS * i : _VALUE_BITS * (i + 1)] for i in range(BLOCK)]
        union = Signal(_VALUE_BITS)
        length = Signal(6)
        m.d.comb += [union.eq(or_tree(values)), length.eq(bit_length(union))]
        valid1, shift1 = Signal(), Signal(5)
        values1 = [Signal(_VALUE_BITS, name=f"value{i}") for i in range(BLOCK)]
        tag1 = Signal(self._tag_bits)
        m.d.sync += valid1.eq(self.in_valid)
        with m.If(self.in_valid):
            m.d.sync += [
                shift1.eq(Mux(length > PROB_CODE_BITS, length - PROB_CODE_BITS, 0)),
                tag1.eq(self.in_tag),
            ]
            m.d.sync += [held.eq(value) for held, value in zip(values1, values, strict=True)]

        # Stage 2: shift. A zero below the value makes the last bit shifted out visible.
        valid2, shift2 = Signal(), Signal(5)
        codes2 = [Signal(PROB_CODE_BITS + 1, name=f"code{i}") for i in range(BLOCK)]
        tag2 = Signal(self._tag_bits)
        m.d.sync += valid2.eq(valid1)
        with m.If(valid1):
            m.d.sync += [shift2.eq(shift1), tag2.eq(tag1)]
            m.d.sync += [
                code.eq(Cat(Const(0, 1), value) >> shift1)
                for code, value in zip(codes2, values1, strict=True)
            ]

        # Stage 3: round, clamp, split. With lo = c mod 256 as a signed byte, hi takes c's bit 7.
        m.d.sync += self.out_valid.eq(valid2)
        with m.If(valid2):
            m.d.sync += [self.out_s.eq(shift2), self.out_tag.eq(tag2)]
            for i, code in enumerate(codes2):
                rounded = Signal(PROB_CODE_BITS + 1, name=f"rounded{i}")
                clamped = Signal(PROB_CODE_BITS, name=f"clamped{i}")
                m.d.comb += [
                    rounded.eq(code[1:] + code[0]),
                    clamped.eq(Mux(rounded > PROB_CODE_MAX, PROB_CODE_MAX, rounded)),
                ]
                m.d.sync += [
                    self.out_lo[8 * i : 8 * i + 8].eq(clamped[:8]),
                    self.out_hi[8 * i : 8 * i + 8].eq(clamped[8:] + clamped[7]),
                ]

        return m
