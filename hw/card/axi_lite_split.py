"""Deals out the accesses of one AXI4-Lite master to two slaves by one bit of the address."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, ResetSignal, Signal

from tokenloom.hw.card.axi_lite import axi_lite_ports
from tokenloom.hw.verilog.block import Block

__all__ = ["AxiLiteSplit"]

# What a master sends beside valid, by channel.
_SENT = {"aw": ("addr", "prot"), "w": ("data", "strb"), "ar": ("addr", "prot")}


class AxiLiteSplit(Block):
    """One access of each kind at a time: reads and writes do not wait for each other.

    During a reset no access is taken, so that none is lost which a master begins too early.

    Parameters
    ----------
    addr_bits : int
        Bits of a byte address; the highest one chooses the slave.

    Members
    -------
    s_axi_* : AXI4-Lite, the master's side
    low_*, high_* : AXI4-Lite, the sides of the slaves for the lower and the upper half; names as
        `s_axi_*`, the other direction

    Latency
    -------
    One cycle on the way down, none on the way up; the next access is taken after the answer.
    """

    belt = False

    def __init__(self, *, addr_bits: int) -> None:
        if not 3 <= addr_bits <= 32:
            raise ValueError(f"addr_bits is {addr_bits}; allowed: 3 to 32")
        members: dict[str, Any] = dict(axi_lite_ports(addr_bits))
        for side in ("low", "high"):
            for name, member in axi_lite_ports(addr_bits).items():
                members[name.replace("s_axi", side)] = member.flip()
        super().__init__(members, params=(addr_bits,))

    def elaborate(self, platform: object) -> Module:
        m = Module()

        def up(name: str) -> Any:
            return getattr(self, f"s_axi_{name}")

        def down(side: str, name: str) -> Any:
            return getattr(self, f"{side}_{name}")

        for answer, channels in (("b", ("aw", "w")), ("r", ("ar",))):
            held = {c: Signal(name=f"{c}_held") for c in channels}
            sent = {c: Signal(name=f"{c}_sent") for c in channels}
            ready, high, ended = (Signal(name=f"{answer}_{n}") for n in ("all", "high", "ended"))
            m.d.comb += [
                ready.eq(held[channels[0]] & held[channels[-1]]),
                ended.eq(up(f"{answer}valid") & up(f"{answer}ready")),
            ]
            for c in channels:
                m.d.comb += up(f"{c}ready").eq(~held[c] & ~ResetSignal())
                with m.If(up(f"{c}valid") & up(f"{c}ready")):
                    m.d.sync += held[c].eq(1)
                    if c != "w":
                        m.d.sync += high.eq(up(f"{c}addr")[-1])
                for name in _SENT[c]:
                    value = Signal(len(up(c + name)), name=f"{c}_{name}")
                    with m.If(~held[c]):
                        m.d.sync += value.eq(up(c + name))
                    # The slaves' addresses begin at 0.
                    shown = value[:-1] if name == "addr" else value
                    for side in ("low", "high"):
                        m.d.comb += down(side, c + name).eq(shown)
                taken = Mux(high, down("high", f"{c}ready"), down("low", f"{c}ready"))
                with m.If(ready & taken):
                    m.d.sync += sent[c].eq(1)
                for side, mine in (("low", ~high), ("high", high)):
                    m.d.comb += down(side, f"{c}valid").eq(ready & mine & ~sent[c])
            # The answer.
            for side, mine in (("low", ~high), ("high", high)):
                m.d.comb += down(side, f"{answer}ready").eq(ready & mine & up(f"{answer}ready"))
            for name in ("valid", "resp") if answer == "b" else ("valid", "resp", "data"):
                value = Mux(high, down("high", answer + name), down("low", answer + name))
                m.d.comb += up(answer + name).eq(value & ready if name == "valid" else value)
            with m.If(ended):
                m.d.sync += [held[c].eq(0) for c in channels]
                m.d.sync += [sent[c].eq(0) for c in channels]
        return m
