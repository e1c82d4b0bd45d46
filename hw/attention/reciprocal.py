"""Reciprocal: one over a softmax denominator, by table and one Newton step."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.arith import bit_length
from tokenloom.hw.numbers.formats import DEN_BITS, RECIPROCAL_BITS, RECIPROCAL_CLAMP
from tokenloom.hw.numbers.tables import recip_table
from tokenloom.hw.verilog.block import Block

__all__ = ["ND_BITS", "Reciprocal"]

ND_BITS = DEN_BITS.bit_length()


class Reciprocal(Block):
    """`nd = bitlen(den)` and `rm`, about `2^16 * 2^nd / den`.

    Parameters
    ----------
    tag_bits : int
        Width of the tag that travels with each denominator (1 or more).

    Members
    -------
    in_valid : In(1)
        The other inputs hold a denominator.
    in_den : In(35)
        At least 1.
    in_tag : In(tag_bits)
        Handed on unchanged.
    out_valid : Out(1)
        The outputs hold a result.
    out_nd : Out(6)
        Bits of the denominator, 1..35.
    out_rm : Out(17)
        Mantissa of the reciprocal, 2^16..131071.
    out_tag : Out(tag_bits)
        The tag that came with the denominator.

    Latency
    -------
    `LATENCY` = 6 belt cycles.

    Duration
    --------
    One denominator per cycle, with or without gaps.

    Raises
    ------
    ValueError
        When `tag_bits` is less than 1.
    """

    LATENCY = 6

    def __init__(self, *, tag_bits: int) -> None:
        if tag_bits < 1:
            raise ValueError(f"tag_bits = {tag_bits} is impossible: allowed is 1 or more")
        self._tag_bits = tag_bits
        super().__init__(
            {
                "in_valid": In(1),
                "in_den": In(DEN_BITS),
                "in_tag": In(tag_bits),
                "out_valid": Out(1),
                "out_nd": Out(ND_BITS),
                "out_rm": Out(17),
                "out_tag": Out(tag_bits),
            },
            params=(tag_bits,),
        )

    def elaborate(self, platform: object) -> Module:
        """Normalise, look up, two products."""
        m = Module()
        table = recip_table()
        m.submodules.table = memory = Memory(shape=17, depth=len(table), init=table)
        seed = memory.read_port()

        # nd and the tag go along with all stages but the last.
        valid = [self.in_valid, *(Signal(name=f"valid{i}") for i in range(1, self.LATENCY))]
        bits = [Signal(ND_BITS, name=f"bits{i}") for i in range(1, self.LATENCY)]
        tags = [
            self.in_tag,
            *(Signal(self._tag_bits, name=f"tag{i}") for i in range(1, self.LATENCY)),
        ]
        for i in range(1, self.LATENCY):
            m.d.sync += valid[i].eq(valid[i - 1])
            with m.If(valid[i - 1]):
                m.d.sync += tags[i].eq(tags[i - 1])
                m.d.sync += bits[i - 1].eq(bits[i - 2] if i > 1 else bit_length(self.in_den))

        # Stage 1: bitlen. Stage 2: normalise.
        den1 = Signal(DEN_BITS)
        norm2 = Signal(RECIPROCAL_BITS)
        with m.If(valid[0]):
            m.d.sync += den1.eq(self.in_den)
        with m.If(valid[1]):
            # The top RECIPROCAL_BITS of what is shifted all the way to the left.
            whole = (den1 << (DEN_BITS - bits[0])[:ND_BITS])[:DEN_BITS]
            m.d.sync += norm2.eq(whole[DEN_BITS - RECIPROCAL_BITS :])

        # Stage 3: the seed; the table starts at index 512, so the top bit is not part of it.
        norm3 = Signal(RECIPROCAL_BITS)
        m.d.comb += [seed.en.eq(valid[2]), seed.addr.eq(norm2[20:29])]
        with m.If(valid[2]):
            m.d.sync += norm3.eq(norm2)

        # Stage 4: e = (y0 dn) >> 14. Stage 5: y0 (2^33 - e). Stage 6: round and clamp.
        seed4 = Signal(17)
        error4 = Signal(33)
        product5 = Signal(51)
        with m.If(valid[3]):
            m.d.sync += [seed4.eq(seed.data), error4.eq((seed.data * norm3) >> 14)]
        with m.If(valid[4]):
            m.d.sync += product5.eq(seed4 * (Const(1 << 33, 34) - error4)[:34])
        rounded = Signal(19)
        m.d.comb += rounded.eq(product5[32:] + product5[31])
        m.d.sync += self.out_valid.eq(valid[5])
        with m.If(valid[5]):
            m.d.sync += [
                self.out_rm.eq(Mux(rounded > RECIPROCAL_CLAMP, RECIPROCAL_CLAMP, rounded)),
                self.out_nd.eq(bits[4]),
                self.out_tag.eq(tags[5]),
            ]

        return m
