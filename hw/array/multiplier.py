"""Where the array's products come from: inferred by the tools, a vendor's primitive, or tables."""

from __future__ import annotations

from collections.abc import Callable

from amaranth.hdl import Cat, Const, Instance, Module, Signal, Value, signed

__all__ = ["Dsp48e2", "Multiplier", "fabric_product"]


class Multiplier:
    """The hook for a vendor's multiplier: the default leaves `a * b` to the tools.

    A subclass places its own primitive, which has to be combinational (registers bypassed): the
    element's registers stand behind it, so the latency is the same whatever multiplies. Simulation
    uses the default.
    """

    name = "inferred"

    def product(self, m: Module, name: str, a: Value, b: Value) -> Value:
        """The exact signed product of the signed `a`, up to 27 bits, and `b`, up to 18."""
        return a * b


class Dsp48e2(Multiplier):
    """One DSP48E2 per product, its registers bypassed, as an instance that no tool can split.

    Ports and attributes: UltraScale Architecture DSP Slice User Guide (AMD UG579).
    """

    name = "dsp48e2"

    _REGISTERS = (
        "ACASCREG ADREG ALUMODEREG AREG BCASCREG BREG CARRYINREG CARRYINSELREG CREG DREG INMODEREG "
        "MREG OPMODEREG PREG"
    ).split()
    _ENABLES = (
        "CEA1 CEA2 CEAD CEALUMODE CEB1 CEB2 CEC CECARRYIN CECTRL CED CEINMODE CEM CEP RSTA "
        "RSTALLCARRYIN RSTALUMODE RSTB RSTC RSTCTRL RSTD RSTINMODE RSTM RSTP CLK CARRYIN "
        "CARRYCASCIN MULTSIGNIN"
    ).split()

    def product(self, m: Module, name: str, a: Value, b: Value) -> Value:
        """The product on P, with X and Y from the multiplier and Z and W zero."""
        if len(a) > 27 or len(b) > 18:
            raise ValueError(f"a DSP48E2 takes 27 by 18 bits, not {len(a)} by {len(b)}")
        wide_a, wide_b, p = Signal(signed(30)), Signal(signed(18)), Signal(48, name=f"{name}_p")
        m.d.comb += [wide_a.eq(a), wide_b.eq(b)]
        zero = {f"i_{port}": Const(0, 1) for port in self._ENABLES}
        m.submodules[name] = Instance(
            "DSP48E2",
            p_USE_MULT="MULTIPLY",
            p_AMULTSEL="A",
            p_BMULTSEL="B",
            p_A_INPUT="DIRECT",
            p_B_INPUT="DIRECT",
            p_USE_SIMD="ONE48",
            **{f"p_{register}": 0 for register in self._REGISTERS},
            i_A=wide_a,
            i_B=wide_b,
            i_C=Const(0, 48),
            i_D=Const(0, 27),
            i_ACIN=Const(0, 30),
            i_BCIN=Const(0, 18),
            i_PCIN=Const(0, 48),
            i_ALUMODE=Const(0, 4),
            i_CARRYINSEL=Const(0, 3),
            i_INMODE=Const(0, 5),
            i_OPMODE=Const(0b000000101, 9),
            **zero,
            o_P=p,
        )
        return p[: len(a) + len(b)].as_signed()


def fabric_product(
    m: Module,
    name: str,
    a: Value,
    b: Value,
    *,
    per_stage: int,
    register: Callable[[str, Value, int], Value],
) -> Value:
    """a·b, both signed, in look-up tables alone: one carry chain per digit of two bits of `b`.

    Radix-4 Booth digits -2..2 (O. L. MacSorley, "High-speed arithmetic in binary computers",
    1961). A digit's row, `digit·a` in ones' complement, and the sum so far meet in one six-input
    table per bit; the missing 1 is the chain's carry in.

    Parameters
    ----------
    per_stage : int
        Digits between two registers; the product is registered too.
    register : function
        (name, value, stage counted from 0) -> the value one register later.

    Latency
    -------
    ceil(len(b) / (2 · per_stage)) stages.
    """
    digits = (len(b) + 1) // 2
    selects: Value = Cat(Const(0, 1), b, b[-1].replicate(2 * digits - len(b)))
    total: Value = Const(0, signed(len(a) + 1))
    low: Value = Const(0, 0)
    for digit in range(digits):
        select = selects[:3]
        once = select[0] ^ select[1]
        twice = (select[2] & ~select[1] & ~select[0]) | (~select[2] & select[1] & select[0])
        minus = select[2] & ~(select[1] & select[0])
        wide = len(a) + 1
        row = Signal(signed(wide), name=f"{name}_row{digit}")
        added = Signal(signed(wide + 2), name=f"{name}_sum{digit}")
        m.d.comb += [
            row.eq(
                (
                    (Cat(a, a[-1]) & once.replicate(wide))
                    | (Cat(Const(0, 1), a) & twice.replicate(wide))
                )
                ^ minus.replicate(wide)
            ),
            # A bit below both, 1 + minus: its carry is the digit's missing 1.
            added.eq(Cat(Const(1, 1), total).as_signed() + Cat(minus, row).as_signed()),
        ]
        low, total, selects = Cat(low, added[1:3]), added[3:].as_signed(), selects[2:]
        if (digit + 1) % per_stage == 0 or digit + 1 == digits:
            stage = digit // per_stage
            low = register(f"{name}_low", low, stage)
            total = register(f"{name}_high", total, stage).as_signed()
            if digit + 1 < digits:
                a = register(f"{name}_a", a, stage)
                selects = register(f"{name}_b", selects, stage)
    return Cat(low, total)[: len(a) + len(b)].as_signed()
