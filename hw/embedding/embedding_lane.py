"""One value of an embedding row: code, scale and minimum become fixed32 (docs/numbers.md, 2, 3)."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, Value, signed
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.arith import round_shift, sat32
from tokenloom.hw.numbers.fp16 import decode
from tokenloom.hw.verilog.block import Block

__all__ = ["EmbeddingLane"]

# Where a stage ends, behind the product: nowhere | the accumulator | also the rounded value.
_CUTS = {2: (), 3: ("acc",), 4: ("acc", "rounded")}


class EmbeddingLane(Block):
    """`drain((code · m) << sw + m_min << sw_min, shift)`.

    Parameters
    ----------
    stages : int
        Pipeline depth: 2, 3 (a register behind the sum) or 4 (another behind the rounding).

    Members
    -------
    stage : In(stages)
        Stage i holds a value. With stage 0 the next three inputs hold one.
    code : In(signed(8))
    scale, minimum : In(16)
        Rebased fp16.
    shift : In(6)
        The drain's shift, 0..63; it rests.
    value : Out(signed(32))
        It stays until the next one.
    saturated : Out(1)
        The value was clamped.

    Latency
    -------
    `stages` belt cycles.

    Duration
    --------
    One value per cycle, with or without gaps.

    Raises
    ------
    ValueError
        When `stages` is out of its range.
    """

    def __init__(self, *, stages: int = 2) -> None:
        if stages not in _CUTS:
            raise ValueError(f"stages = {stages} is impossible: allowed is 2..4")
        self._stages = stages
        super().__init__(
            {
                "stage": In(stages),
                "code": In(signed(8)),
                "scale": In(16),
                "minimum": In(16),
                "shift": In(6),
                "value": Out(signed(32)),
                "saturated": Out(1),
            },
            params=(stages,),
        )

    def elaborate(self, platform: object) -> Module:
        """code · m and the minimum; then << sw, the sum, the drain's shift and clamp."""
        m = Module()
        stages = iter(range(self._stages))

        def cut(name: str, value: Value, always: bool = False) -> Value:
            if not always and name not in _CUTS[self._stages]:
                return value
            register = Signal(signed(len(value)), name=name, reset_less=True)
            with m.If(self.stage[next(stages)]):
                m.d.sync += register.eq(value)
            return register

        mant, left = decode(self.scale)
        minimum_mant, minimum_left = decode(self.minimum)
        product = Signal(signed(20), reset_less=True)
        product_left = Signal(5, reset_less=True)
        minimum = Signal(signed(42), reset_less=True)
        with m.If(self.stage[next(stages)]):
            m.d.sync += [
                product.eq(self.code * mant),
                product_left.eq(left),
                minimum.eq(minimum_mant << minimum_left),
            ]
        total = Signal(signed(51))
        m.d.comb += total.eq((product << product_left) + minimum)
        rounded = cut("rounded", round_shift(cut("acc", total), self.shift))
        value, saturated = sat32(rounded)
        with m.If(self.stage[next(stages)]):
            m.d.sync += [self.value.eq(value), self.saturated.eq(saturated)]
        return m
