"""SwiGLU: one lane that multiplies SiLU (or GELU) of the gate with the up value."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Signal, signed
from amaranth.lib.wiring import In, Out

from tokenloom.hw.ffn.activation import Activation
from tokenloom.hw.numbers.arith import round_shift, sat32
from tokenloom.hw.numbers.formats import GATE_FRAC
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["Swiglu"]


class Swiglu(Block):
    """The rounding points `silu` and `swiglu`: `sat32(rs(silu(gate) * up, shift))`.

    Contract: values alternate, gate (`in_is_up` low) before up. Gaps are free everywhere. Without
    a gate every value is one, and up is 1.

    Parameters
    ----------
    tag_bits : int
        Width of the tag (1 or more).
    activation, stages
        See `Activation`.
    gated : bool
        False for a network without up values: `sat32(rs(silu(value) << 16, shift))`.

    Members
    -------
    in_valid : In(1)
        The other inputs hold a value.
    in_value : In(signed(32))
        Gate with 16 fraction bits, or up.
    in_is_up : In(1)
        The value is an up value and completes the pair. (Not there without a gate.)
    in_shift : In(6)
        The operation's shift, 0..63. Read from the up value, or the only one.
    in_tag : In(tag_bits)
        Read from the same.
    out_valid : Out(1)
        The outputs hold a hidden value; once per pair.
    out_value : Out(signed(32))
        The hidden value.
    out_tag : Out(tag_bits)
        The tag of the up value.
    out_saturated : Out(1)
        Strobe: this value was clamped. Low without `out_valid`.

    Latency
    -------
    `latency` = stages + 2 belt cycles from the up value (the chip's `LATENCY` = 5), stages + 3
    without a gate.

    Duration
    --------
    One value per cycle, so a pair every two cycles.

    Raises
    ------
    ValueError
        When `tag_bits` is less than 1, or for the reasons of `Activation`.
    """

    LATENCY = Activation.STAGES + 2

    def __init__(
        self,
        *,
        tag_bits: int,
        activation: str = "silu",
        stages: int = Activation.STAGES,
        gated: bool = True,
    ) -> None:
        if tag_bits < 1:
            raise ValueError(f"tag_bits = {tag_bits} is impossible: allowed is 1 or more")
        self._tag_bits, self._gated = tag_bits, gated
        self._activation = Activation(activation=activation, stages=stages)
        super().__init__(
            {
                "in_valid": In(1),
                "in_value": In(signed(32)),
                **({"in_is_up": In(1)} if gated else {}),
                "in_shift": In(6),
                "in_tag": In(tag_bits),
                "out_valid": Out(1),
                "out_value": Out(signed(32)),
                "out_tag": Out(tag_bits),
                "out_saturated": Out(1),
            },
            params=(tag_bits, activation, stages, gated),
        )

    @property
    def tag_bits(self) -> int:
        """Width of the tag."""
        return self._tag_bits

    @property
    def latency(self) -> int:
        """Belt cycles from the up value, or the only one, to the hidden value."""
        return self._activation.latency + (2 if self._gated else 3)

    def elaborate(self, platform: object) -> Module:
        """The gate takes its stages, the up value one fewer; then the product is rounded."""
        m = Module()
        unit = self._activation
        m.submodules.activation = instance(unit, en=self.en)
        m.d.comb += unit.in_value.eq(self.in_value)

        # The up value waits for its gate, which is one cycle ahead at least.
        waits = unit.latency - 1 if self._gated else unit.latency
        valid: list[Signal] = [Signal()]
        if self._gated:
            m.d.comb += [
                unit.in_valid.eq(self.in_valid & ~self.in_is_up),
                valid[0].eq(self.in_valid & self.in_is_up),
            ]
        else:
            m.d.comb += [unit.in_valid.eq(self.in_valid), valid[0].eq(self.in_valid)]
        shift: list[Signal] = [self.in_shift]
        tag: list[Signal] = [self.in_tag]
        up: list[Signal] = [self.in_value]
        for k in range(1, waits + 3):
            valid.append(Signal(name=f"valid{k}"))
            tag.append(Signal(self._tag_bits, name=f"tag{k}", reset_less=True))
            m.d.sync += valid[k].eq(valid[k - 1])
            with m.If(valid[k - 1]):
                m.d.sync += tag[k].eq(tag[k - 1])
            if k <= waits + 1:
                shift.append(Signal(6, name=f"shift{k}", reset_less=True))
                with m.If(valid[k - 1]):
                    m.d.sync += shift[k].eq(shift[k - 1])
            if k <= waits and self._gated:
                up.append(Signal(signed(32), name=f"up{k}", reset_less=True))
                with m.If(valid[k - 1]):
                    m.d.sync += up[k].eq(up[k - 1])
        factor = up[waits] if self._gated else Const(1 << GATE_FRAC, signed(GATE_FRAC + 2))

        # The product, then rounded, then clamped.
        product = Signal(signed(64), reset_less=True)
        with m.If(valid[waits]):
            m.d.sync += product.eq(unit.out_value * factor)
        rounded = Signal(signed(64), reset_less=True)
        with m.If(valid[waits + 1]):
            m.d.sync += rounded.eq(round_shift(product, shift[waits + 1]))
        result, saturated = sat32(rounded)
        done = valid[waits + 2]
        m.d.sync += [self.out_valid.eq(done), self.out_saturated.eq(done & saturated)]
        with m.If(done):
            m.d.sync += [self.out_value.eq(result), self.out_tag.eq(tag[waits + 2])]
        return m
