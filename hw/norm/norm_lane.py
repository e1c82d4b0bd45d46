"""One lane of the norm: a residual value becomes a normalised one (docs/numbers.md, 6 and 21)."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, Value, signed
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.arith import round_shift, sat32
from tokenloom.hw.numbers.formats import GAIN_BITS, RSQRT_FRAC, TOTAL_BITS
from tokenloom.hw.verilog.block import Block

__all__ = ["NormLane"]


class NormLane(Block):
    """`sat32(rs(r·g·y, shift))`, for LayerNorm `sat32(rs((D·r - Σr)·g·y, shift) + bias)`.

    The row's inputs need not travel: they are read where they are used.

    Parameters
    ----------
    count_bits : int
        Width of D for LayerNorm; 0 for RMSNorm.

    Members
    -------
    stage : In(LATENCY)
        Stage i holds a value. With stage 0 the next two inputs hold one.
    residual : In(signed(32))
        r.
    gain : In(signed(16))
        g.
    y : In(17)
        The row's root, at stage `y_stage`.
    shift : In(6)
        The row's shift, at stage `shift_stage`.
    count : In(count_bits)
        D, at stage 0 (LayerNorm).
    total : In(signed(48))
        The row's Σr, at stage 1 (LayerNorm).
    bias : In(signed(32))
        At the last stage (LayerNorm).
    value : Out(signed(32))
        The result, `latency` cycles after stage 0; it stays until the next.
    saturated : Out(1)
        It was clamped.

    Latency
    -------
    `latency` = 5 belt cycles, 8 with LayerNorm.

    Duration
    --------
    One value per cycle, with or without gaps.
    """

    def __init__(self, *, count_bits: int = 0) -> None:
        if not 0 <= count_bits <= 17:
            raise ValueError(f"count_bits = {count_bits} is impossible: allowed is 0..17")
        self._count_bits = count_bits
        mean = {"count": In(count_bits), "total": In(signed(TOTAL_BITS)), "bias": In(signed(32))}
        super().__init__(
            {
                "stage": In(self.latency),
                "residual": In(signed(32)),
                "gain": In(signed(GAIN_BITS)),
                "y": In(RSQRT_FRAC),
                "shift": In(6),
                **(mean if count_bits else {}),
                "value": Out(signed(32)),
                "saturated": Out(1),
            },
            params=(count_bits,),
        )
        if count_bits:
            self.module_name = "layer_norm_lane"

    @property
    def latency(self) -> int:
        """Cycles from `residual` to `value`."""
        return 8 if self._count_bits else 5

    @property
    def y_stage(self) -> int:
        """The stage that uses `y`."""
        return 4 if self._count_bits else 2

    @property
    def shift_stage(self) -> int:
        """The stage that uses `shift`."""
        return 6 if self._count_bits else 4

    def elaborate(self, platform: object) -> Module:
        """Σr off D·r in two cycles, if asked for; ·g in two, ·y in two, rounding shift, bias."""
        m = Module()
        stages = iter(range(self.latency))

        def step(name: str, value: Value, bits: int | None = None) -> Signal:
            """`value` in a register of the next stage."""
            register = Signal(signed(bits or len(value)), name=name, reset_less=True)
            with m.If(self.stage[next(stages)]):
                m.d.sync += register.eq(value)
            return register

        value: Value = self.residual
        gain: Value = self.gain
        if self._count_bits:
            scaled = step("scaled", value * self.count)
            value = step("centred", scaled - self.total)
            for stage in (0, 1):
                kept = Signal(signed(GAIN_BITS), name=f"gain{stage + 1}", reset_less=True)
                with m.If(self.stage[stage]):
                    m.d.sync += kept.eq(gain)
                gain = kept
        weighted = step("weighted2", step("weighted1", value * gain))
        # |v·g·y| fits one bit less than the factors' widths together: y is not signed.
        bits = len(weighted) + RSQRT_FRAC - 1
        product = step("product2", step("product1", weighted * self.y, bits))
        rounded = step("rounded", round_shift(product, self.shift))
        if self._count_bits:
            rounded = step("moved", rounded + self.bias)
        result, saturated = sat32(rounded)
        m.d.comb += [self.value.eq(result), self.saturated.eq(saturated)]
        return m
