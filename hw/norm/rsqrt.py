"""Reciprocal square root of a sum of squares (docs/numbers.md, point 5)."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.arith import bit_length
from tokenloom.hw.numbers.formats import RSQRT_CLAMP, RSQRT_FRAC, SUM_TOTAL_BITS
from tokenloom.hw.numbers.tables import rsqrt_table
from tokenloom.hw.verilog.block import Block

__all__ = ["Rsqrt"]


class Rsqrt(Block):
    """`1/sqrt(s) ≈ y · 2^(-17 - k)` by a table and one Newton step, relative error < 2^-16.

    Parameters
    ----------
    sum_bits : int
        Width of a sum, 24..126.

    Members
    -------
    in_valid : In(1)
        `s` holds a sum.
    s : In(sum_bits)
        1 or more.
    out_valid : Out(1)
        Strobe: `y` and `k` are new.
    y : Out(17)
        2^17 / sqrt(s / 4^k); it stays until the next result.
    k : Out(6)
        `(bitlen(s) - 1) // 2`; it stays until the next result.

    Latency
    -------
    `LATENCY` = 10 belt cycles.

    Duration
    --------
    One sum per cycle, with or without gaps.

    Raises
    ------
    ValueError
        When `sum_bits` is out of its range.
    """

    LATENCY = 10

    def __init__(self, *, sum_bits: int = SUM_TOTAL_BITS) -> None:
        if not 24 <= sum_bits <= 126:
            raise ValueError(f"sum_bits = {sum_bits} is impossible: allowed is 24..126")
        super().__init__(
            {
                "in_valid": In(1),
                "s": In(sum_bits),
                "out_valid": Out(1),
                "y": Out(RSQRT_FRAC),
                "k": Out(6),
            },
            params=(sum_bits,),
        )

    def elaborate(self, platform: object) -> Module:
        """Normalise (1-2), look up (3), square (4), times m (5-6), 3 - t (7), times y0 (8-10)."""
        m = Module()
        valid: list[Value] = [self.in_valid]
        for stage in range(1, self.LATENCY):
            valid.append(Signal(name=f"valid{stage}"))
        m.d.sync += [new.eq(old) for old, new in zip(valid[:-1], valid[1:], strict=True)]
        m.d.sync += self.out_valid.eq(valid[-1])

        def follow(value: Value, name: str, first: int, last: int) -> dict[int, Value]:
            """`value` of stage first - 1, registered in the stages first..last."""
            found = {}
            for stage in range(first, last + 1):
                found[stage] = Signal(value.shape(), name=f"{name}{stage}", reset_less=True)
                with m.If(valid[stage - 1]):
                    m.d.sync += found[stage].eq(value)
                value = found[stage]
            return found

        # 1, 2: s = m22 · 4^k, m22 with 22 fraction bits and two before them.
        s = follow(self.s, "s", 1, 1)[1]
        n = Signal(len(self.s).bit_length())
        m.d.comb += n.eq(bit_length(self.s))
        k = follow((n - 1)[1:].as_unsigned()[:6], "k", 1, self.LATENCY - 1)
        shifted = Cat(Const(0, 22), s) >> Cat(Const(0, 1), k[1])
        m22 = follow(shifted[:24], "m", 2, 4)

        # 3: the seed.
        m.submodules.table = table = Memory(shape=16, depth=1024, init=rsqrt_table())
        read = table.read_port()
        m.d.comb += [read.en.eq(valid[2]), read.addr.eq(m22[2][14:24])]
        seed = {3: read.data, **follow(read.data, "seed", 4, 7)}

        # 4 to 7: t = y0² · m, and 3 - t with 32 fraction bits.
        square = follow(seed[3] * seed[3], "square", 4, 4)[4]
        product = follow((square * m22[4])[:56], "product", 5, 6)[6]
        rest = follow(((3 << 32) - product[22:])[:34], "rest", 7, 7)[7]

        # 8 to 10: y = y0 · (3 - t) / 2, rounded and clamped.
        result = follow((seed[7] * rest)[:50], "result", 8, 9)[9]
        rounded = Signal(RSQRT_FRAC + 2)
        m.d.comb += rounded.eq((result[48 - RSQRT_FRAC :] + 1)[1:])
        with m.If(valid[9]):
            m.d.sync += [
                self.y.eq(Mux(rounded > RSQRT_CLAMP, RSQRT_CLAMP, rounded)[:RSQRT_FRAC]),
                self.k.eq(k[9]),
            ]
        return m
