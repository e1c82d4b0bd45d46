"""Activation functions by their even part: SiLU and both forms of GELU (docs/numbers.md, 13)."""

from __future__ import annotations

from amaranth.hdl import Array, Const, Module, Mux, Shape, Signal, Value, signed
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.arith import round_shift
from tokenloom.hw.numbers.formats import (
    ACTIVATIONS,
    GATE_FRAC,
    SILU_KNEE,
    SILU_LIMIT,
    SILU_OFFSET_FRAC,
    SILU_SLOPE_SHIFT,
    SILU_VALUE_SHIFT,
)
from tokenloom.hw.numbers.tables import activation_coefficients
from tokenloom.hw.verilog.block import Block

__all__ = ["Activation"]

# Where a stage may end: magnitude and segment | C2·u | h | h·u | e2 and the result.
_CUTS = {1: (), 2: ("slope",), 3: ("segment", "slope"), 4: ("segment", "slope", "square"),
         5: ("segment", "curve", "slope", "square")}  # fmt: skip


class Activation(Block):
    """`rs(g + e2, 1)` with `e2` twice the function's even part, a quadratic on 16 segments of |g|.

    From |g| = 12 on `e2` is |g|: the function is g or 0 there.

    Parameters
    ----------
    activation : str
        "silu", "gelu" (erf form) or "gelu_tanh".
    stages : int
        Pipeline depth, 1..5. With 2 the first multiplication ends the first cycle, the second one
        the second; with 3 (the chip's) the segment has a cycle before them, with 4 the second
        multiplier, with 5 both have a register of their own before the rounding.

    Members
    -------
    in_valid : In(1)
        `in_value` holds a value.
    in_value : In(signed(32))
        16 fraction bits.
    out_valid : Out(1)
        Strobe: `out_value` is new.
    out_value : Out(signed(32))
        16 fraction bits; it stays until the next one.

    Latency
    -------
    `stages` belt cycles.

    Duration
    --------
    One value per cycle, with or without gaps.

    Raises
    ------
    ValueError
        When a parameter is out of its range.
    """

    STAGES = 3

    def __init__(self, *, activation: str = "silu", stages: int = STAGES) -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation = {activation!r}: allowed are {', '.join(ACTIVATIONS)}")
        if stages not in _CUTS:
            raise ValueError(f"stages = {stages} is impossible: allowed is 1..5")
        self._activation, self._stages = activation, stages
        super().__init__(
            {
                "in_valid": In(1),
                "in_value": In(signed(32)),
                "out_valid": Out(1),
                "out_value": Out(signed(32)),
            },
            params=(activation, stages),
        )

    @property
    def latency(self) -> int:
        """Belt cycles from a value to its result."""
        return self._stages

    def elaborate(self, platform: object) -> Module:
        """One path of values; what a cut names is registered there, with all that goes on."""
        m = Module()
        cuts = _CUTS[self._stages]
        valid: list[Signal] = [self.in_valid]
        path: dict[str, Value] = {}

        def cut(name: str) -> None:
            """Registers for everything on the path, if a stage ends here."""
            if name not in cuts:
                return
            following = Signal(name=f"valid{len(valid)}")
            m.d.sync += following.eq(valid[-1])
            for key, value in path.items():
                path[key] = Signal(
                    Value.cast(value).shape(), name=f"{key}{len(valid)}", reset_less=True
                )
                with m.If(valid[-1]):
                    m.d.sync += path[key].eq(value)
            valid.append(following)

        # Magnitude, segment, and offset in the segment.
        magnitude, wide = Signal(32), Signal()  # wide: segments of 1 instead of 1/2
        m.d.comb += [
            magnitude.eq(Mux(self.in_value < 0, -self.in_value, self.in_value)),
            wide.eq(magnitude >= SILU_KNEE),
        ]
        path["gate"] = self.in_value
        path["magnitude"] = magnitude
        path["beyond"] = magnitude >= SILU_LIMIT
        # Beyond the limit both are of no account.
        path["segment"] = Mux(
            wide,
            magnitude[GATE_FRAC : GATE_FRAC + 4] + 4,
            magnitude[GATE_FRAC - 1 : GATE_FRAC + 3],
        )[:4]
        path["offset"] = Mux(wide, magnitude[:GATE_FRAC], magnitude[: GATE_FRAC - 1])
        cut("segment")

        # h = C1 + rs(C2 u, 13).
        segment = path.pop("segment")
        columns = list(zip(*activation_coefficients(self._activation), strict=True))
        c0, c1, c2 = (_table(column, segment) for column in columns)
        path |= {"constant": c0, "slope": c1, "curve": c2 * path["offset"]}
        cut("curve")
        slope = path["slope"] + round_shift(path.pop("curve"), SILU_SLOPE_SHIFT)
        path["slope"] = slope[:_SLOPE_BITS].as_signed()
        cut("slope")

        # e2 = rs((C0 << 16) + h u, 20), the result rs(g + e2, 1).
        path["square"] = path.pop("slope") * path.pop("offset")
        cut("square")
        quadratic = path["constant"].shift_left(SILU_OFFSET_FRAC) + path["square"]
        twice_even = Signal(signed(33))
        m.d.comb += twice_even.eq(
            Mux(path["beyond"], path["magnitude"], round_shift(quadratic, SILU_VALUE_SHIFT))
        )
        m.d.sync += self.out_valid.eq(valid[-1])
        with m.If(valid[-1]):
            m.d.sync += self.out_value.eq(round_shift(path["gate"] + twice_even, 1))
        return m


_SLOPE_BITS = 23  # of h; tests/hw/numbers/test_activation.py shows that it fits


def _table(entries: tuple[int, ...], index: Value) -> Value:
    """The entry that `index` points to, as wide as the largest needs."""
    bits = max(
        max(entry.bit_length(), (~entry).bit_length() if entry < 0 else 0) for entry in entries
    )
    shape = Shape(bits + 1, signed=True)
    return Array(Const(entry, shape) for entry in entries)[index]
