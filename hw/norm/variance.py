"""Variance of a row from its exact sums (docs/numbers.md, point 21)."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.formats import EPS_BITS, EPS_FRAC, SS_BITS, TOTAL_BITS
from tokenloom.hw.verilog.block import Block

__all__ = ["Variance"]


class Variance(Block):
    """`s = ((D·Σr² - (Σr)²) << 16) + eps`: D² times the variance, exact, with epsilon.

    Parameters
    ----------
    count_bits : int
        Width of D, 1..17.

    Members
    -------
    in_valid : In(1)
        `ss` and `total` hold a row's sums.
    ss : In(80)
        Σr².
    total : In(signed(48))
        Σr.
    count : In(count_bits), eps : In(64)
        D and `eps_int`; they rest while a row is under way.
    out_valid : Out(1)
        Strobe: `s` is new.
    s : Out(sum_bits)
        1 or more if `eps` is.

    Latency
    -------
    `LATENCY` = 4 belt cycles.

    Duration
    --------
    One row per cycle, with or without gaps.

    Raises
    ------
    ValueError
        When `count_bits` is out of its range.
    """

    LATENCY = 4

    def __init__(self, *, count_bits: int) -> None:
        if not 1 <= count_bits <= 17:
            raise ValueError(f"count_bits = {count_bits} is impossible: allowed is 1..17")
        self._count_bits = count_bits
        super().__init__(
            {
                "in_valid": In(1),
                "ss": In(SS_BITS),
                "total": In(signed(TOTAL_BITS)),
                "count": In(count_bits),
                "eps": In(EPS_BITS),
                "out_valid": Out(1),
                "s": Out(self.sum_bits),
            },
            params=(count_bits,),
        )

    @property
    def sum_bits(self) -> int:
        """Width of `s`."""
        return SS_BITS + self._count_bits + EPS_FRAC

    def elaborate(self, platform: object) -> Module:
        """Both products, a register for the multipliers to take in, difference, epsilon."""
        m = Module()
        valid = [self.in_valid, *(Signal(name=f"valid{stage}") for stage in (1, 2, 3))]
        for old, new in zip(valid, [*valid[1:], self.out_valid], strict=True):
            m.d.sync += new.eq(old)
        squares: list[Signal] = [Signal(SS_BITS + self._count_bits) for _ in range(2)]
        means = [Signal(2 * TOTAL_BITS - 1, name=f"mean{stage}") for stage in (1, 2)]
        difference = Signal(SS_BITS + self._count_bits)
        with m.If(valid[0]):
            m.d.sync += [
                squares[0].eq(self.ss * self.count),
                means[0].eq((self.total * self.total)[: 2 * TOTAL_BITS - 1]),
            ]
        with m.If(valid[1]):
            m.d.sync += [squares[1].eq(squares[0]), means[1].eq(means[0])]
        with m.If(valid[2]):
            m.d.sync += difference.eq(squares[1] - means[1])
        with m.If(valid[3]):
            m.d.sync += self.s.eq((difference << EPS_FRAC) + self.eps)
        return m
