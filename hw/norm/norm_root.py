"""From a row's exact sums to what its values are multiplied by (docs/numbers.md, 5, 6 and 21)."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib.wiring import In, Out

from tokenloom.hw.norm.rsqrt import Rsqrt
from tokenloom.hw.norm.variance import Variance
from tokenloom.hw.numbers.arith import bit_length
from tokenloom.hw.numbers.formats import (
    EPS_BITS,
    EPS_FRAC,
    NORM_SHIFT,
    RSQRT_FRAC,
    SS_BITS,
    TOTAL_BITS,
)
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["NormRoot"]


class NormRoot(Block):
    """`y, k = rsqrt((ss << 16) + eps)` and `shift = max(k - 7, 0)`.

    For LayerNorm the sum is `Variance`'s, and the shift larger by `⌈log2(D) / 2⌉`.

    Parameters
    ----------
    count_bits : int
        Width of D for LayerNorm; 0 for RMSNorm.

    Members
    -------
    in_valid : In(1)
        `ss` and `total` hold a row's sums.
    ss : In(80)
        Σr².
    eps : In(64)
        `eps_int`; it rests while a row is under way.
    total : In(signed(48)), count : In(count_bits)
        Σr and, at rest, D (LayerNorm).
    out_valid : Out(1)
        Strobe: `y` and `shift` are new.
    y : Out(17), shift : Out(6)
        They stay until the next row's.

    Latency
    -------
    `latency` = 11 belt cycles, 15 with LayerNorm.

    Duration
    --------
    One row per cycle, with or without gaps.
    """

    def __init__(self, *, count_bits: int = 0) -> None:
        self._count_bits = count_bits
        mean = {"total": In(signed(TOTAL_BITS)), "count": In(count_bits)}
        super().__init__(
            {
                "in_valid": In(1),
                "ss": In(SS_BITS),
                "eps": In(EPS_BITS),
                **(mean if count_bits else {}),
                "out_valid": Out(1),
                "y": Out(RSQRT_FRAC),
                "shift": Out(6),
            },
            params=(count_bits,),
        )
        if count_bits:
            self.module_name = "layer_norm_root"

    @property
    def latency(self) -> int:
        """Cycles from `in_valid` to `out_valid`."""
        return 1 + Rsqrt.LATENCY + (Variance.LATENCY if self._count_bits else 0)

    def elaborate(self, platform: object) -> Module:
        """A register for the sums or their sum with epsilon, then the root."""
        m = Module()
        if not self._count_bits:
            m.submodules.rsqrt = instance(rsqrt := Rsqrt(), en=self.en)
            m.d.sync += rsqrt.in_valid.eq(self.in_valid)
            with m.If(self.in_valid):
                m.d.sync += rsqrt.s.eq((self.ss << EPS_FRAC) + self.eps)
            power: Value = rsqrt.k
        else:
            variance = Variance(count_bits=self._count_bits)
            rsqrt = Rsqrt(sum_bits=variance.sum_bits)
            rsqrt.module_name = "layer_norm_rsqrt"
            m.submodules.variance = instance(variance, en=self.en)
            m.submodules.rsqrt = instance(rsqrt, en=self.en)
            m.d.sync += variance.in_valid.eq(self.in_valid)
            with m.If(self.in_valid):
                m.d.sync += [variance.ss.eq(self.ss), variance.total.eq(self.total)]
            # ⌈log2(D) / 2⌉ keeps |(D r - Σr) / sqrt(D² var)| <= sqrt(D) below 1.
            width_less = Signal(self._count_bits)
            m.d.comb += [
                variance.count.eq(self.count),
                variance.eps.eq(self.eps),
                rsqrt.in_valid.eq(variance.out_valid),
                rsqrt.s.eq(variance.s),
                width_less.eq(self.count - 1),
            ]
            power = rsqrt.k + ((bit_length(width_less) + 1) >> 1)
        m.d.comb += [
            self.out_valid.eq(rsqrt.out_valid),
            self.y.eq(rsqrt.y),
            self.shift.eq(Mux(power < -NORM_SHIFT, 0, power + NORM_SHIFT)),
        ]
        return m
