"""SwiGLU: one lane that multiplies SiLU of the gate with the up value."""

from __future__ import annotations

from amaranth.hdl import Array, Const, Module, Mux, Shape, Signal, signed
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.arith import round_shift, sat32
from tokenloom.hw.numbers.formats import (
    GATE_FRAC,
    SILU_KNEE,
    SILU_LIMIT,
    SILU_OFFSET_FRAC,
    SILU_SLOPE_SHIFT,
    SILU_VALUE_SHIFT,
)
from tokenloom.hw.numbers.tables import silu_coefficients
from tokenloom.hw.verilog.block import Block

__all__ = ["Swiglu"]

_COEFFICIENT_SHAPES = (signed(25), signed(22), signed(17))  # C0, C1, C2


class Swiglu(Block):
    """The rounding points `silu` and `swiglu`: `sat32(rs(silu(gate) * up, shift))`.

    SiLU is `rs(g + e2, 1)` with `e2` twice its even part: a quadratic on 16 segments of |g|, and
    |g| itself from 12 on. Each of its two multiplications has a cycle of its own.

    Contract: values alternate, gate (`in_is_up` low) before up. Gaps are free everywhere.

    Parameters
    ----------
    tag_bits : int
        Width of the tag (1 or more).

    Members
    -------
    in_valid : In(1)
        The other inputs hold a value.
    in_value : In(signed(32))
        Gate with 16 fraction bits, or up.
    in_is_up : In(1)
        The value is an up value and completes the pair.
    in_shift : In(6)
        The operation's shift, 0..63. Read from the up value.
    in_tag : In(tag_bits)
        Read from the up value.
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
    `LATENCY` = 5 belt cycles from the up value.

    Duration
    --------
    One value per cycle, so a pair every two cycles.

    Raises
    ------
    ValueError
        When `tag_bits` is less than 1.
    """

    LATENCY = 5

    def __init__(self, *, tag_bits: int) -> None:
        if tag_bits < 1:
            raise ValueError(f"tag_bits = {tag_bits} is impossible: allowed is 1 or more")
        self._tag_bits = tag_bits
        super().__init__(
            {
                "in_valid": In(1),
                "in_value": In(signed(32)),
                "in_is_up": In(1),
                "in_shift": In(6),
                "in_tag": In(tag_bits),
                "out_valid": Out(1),
                "out_value": Out(signed(32)),
                "out_tag": Out(tag_bits),
                "out_saturated": Out(1),
            },
            params=(tag_bits,),
        )

    @property
    def tag_bits(self) -> int:
        """Width of the tag."""
        return self._tag_bits

    def elaborate(self, platform: object) -> Module:
        """The gate goes three stages to SiLU, the up value two; then the product is rounded."""
        m = Module()

        gate0, up0 = Signal(), Signal()
        m.d.comb += [
            gate0.eq(self.in_valid & ~self.in_is_up),
            up0.eq(self.in_valid & self.in_is_up),
        ]

        # Gate, stage 0: magnitude, segment, and offset in the segment.
        magnitude = Signal(32)
        wide = Signal()  # segments of 1 instead of 1/2
        gate1 = Signal()
        value1 = Signal(signed(32), reset_less=True)
        magnitude1 = Signal(32, reset_less=True)
        beyond1 = Signal(reset_less=True)
        segment1 = Signal(4, reset_less=True)
        offset1 = Signal(16, reset_less=True)
        m.d.comb += [
            magnitude.eq(Mux(self.in_value < 0, -self.in_value, self.in_value)),
            wide.eq(magnitude >= SILU_KNEE),
        ]
        m.d.sync += gate1.eq(gate0)
        with m.If(gate0):
            m.d.sync += [
                value1.eq(self.in_value),
                magnitude1.eq(magnitude),
                beyond1.eq(magnitude >= SILU_LIMIT),
                # Beyond the limit both are of no account.
                segment1.eq(
                    Mux(
                        wide,
                        magnitude[GATE_FRAC : GATE_FRAC + 4] + 4,
                        magnitude[GATE_FRAC - 1 : GATE_FRAC + 3],
                    )
                ),
                offset1.eq(Mux(wide, magnitude[:GATE_FRAC], magnitude[: GATE_FRAC - 1])),
            ]

        # Gate, stage 1: h = C1 + rs(C2 u, 13).
        c0, c1, c2 = (
            _table(column, shape, segment1)
            for column, shape in zip(
                zip(*silu_coefficients(), strict=True), _COEFFICIENT_SHAPES, strict=True
            )
        )
        gate2 = Signal()
        value2 = Signal(signed(32), reset_less=True)
        magnitude2 = Signal(32, reset_less=True)
        beyond2 = Signal(reset_less=True)
        offset2 = Signal(16, reset_less=True)
        constant2 = Signal(_COEFFICIENT_SHAPES[0], reset_less=True)
        slope2 = Signal(signed(23), reset_less=True)
        m.d.sync += gate2.eq(gate1)
        with m.If(gate1):
            m.d.sync += [
                value2.eq(value1),
                magnitude2.eq(magnitude1),
                beyond2.eq(beyond1),
                offset2.eq(offset1),
                constant2.eq(c0),
                slope2.eq(c1 + round_shift(c2 * offset1, SILU_SLOPE_SHIFT)),
            ]

        # Gate, stage 2: e2 = rs((C0 << 16) + h u, 20), silu = rs(g + e2, 1).
        twice_even = Signal(signed(33))
        silu3 = Signal(signed(32), reset_less=True)
        quadratic = constant2.shift_left(SILU_OFFSET_FRAC) + slope2 * offset2
        m.d.comb += twice_even.eq(
            Mux(beyond2, magnitude2, round_shift(quadratic, SILU_VALUE_SHIFT))
        )
        with m.If(gate2):
            m.d.sync += silu3.eq(round_shift(value2 + twice_even, 1))

        # Up, stages 0 and 1: it waits for its gate, which is one cycle ahead at least.
        valid: list[Signal] = [up0]
        shift: list[Signal] = [self.in_shift]
        tag: list[Signal] = [self.in_tag]
        up: list[Signal] = [self.in_value]
        for k in range(1, 5):
            valid.append(Signal(name=f"valid{k}"))
            tag.append(Signal(self._tag_bits, name=f"tag{k}", reset_less=True))
            m.d.sync += valid[k].eq(valid[k - 1])
            with m.If(valid[k - 1]):
                m.d.sync += tag[k].eq(tag[k - 1])
            if k < 4:
                shift.append(Signal(6, name=f"shift{k}", reset_less=True))
                with m.If(valid[k - 1]):
                    m.d.sync += shift[k].eq(shift[k - 1])
            if k < 3:
                up.append(Signal(signed(32), name=f"up{k}", reset_less=True))
                with m.If(valid[k - 1]):
                    m.d.sync += up[k].eq(up[k - 1])

        # Stage 2: the product; stage 3: round; stage 4: clamp.
        product3 = Signal(signed(64), reset_less=True)
        with m.If(valid[2]):
            m.d.sync += product3.eq(silu3 * up[2])
        rounded4 = Signal(signed(64), reset_less=True)
        with m.If(valid[3]):
            m.d.sync += rounded4.eq(round_shift(product3, shift[3]))
        result, saturated = sat32(rounded4)
        m.d.sync += [self.out_valid.eq(valid[4]), self.out_saturated.eq(valid[4] & saturated)]
        with m.If(valid[4]):
            m.d.sync += [self.out_value.eq(result), self.out_tag.eq(tag[4])]

        return m


def _table(entries: tuple[int, ...], shape: Shape, index: Signal) -> Signal:
    """The entry that `index` points to."""
    for entry in entries:
        # A table that a wider width would need must not be cut off silently.
        if Const.cast(Const(entry, shape)).value != entry:
            raise ValueError(f"coefficient {entry} does not fit {shape}")
    return Array(Const(entry, shape) for entry in entries)[index]
