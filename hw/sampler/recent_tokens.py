"""Recent tokens: the last ids of a sequence, for the repetition penalty."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib.wiring import In, Out

from tokenloom.hw.sampler.settings import FIELDS, WINDOW_MAX
from tokenloom.hw.verilog.block import Block

__all__ = ["RecentTokens"]


class RecentTokens(Block):
    """Keeps the last `WINDOW_MAX` tokens, outside the belt: they change only between passes' heads.

    Parameters
    ----------
    vocab_bits : int

    Members
    -------
    begins : In(1)
        Strobe: a new sequence.
    push : In(1), token : In(vocab_bits)
        Strobe: its next token. Not with `begins`.
    window : In(7)
        Tokens that count.
    recent : Out(WINDOW_MAX * vocab_bits)
        The latest lowest.
    recent_count : Out(7)
        The smaller one of `window` and of the tokens so far.

    Latency
    -------
    A cycle from a strobe to the outputs.
    """

    belt = False

    def __init__(self, *, vocab_bits: int) -> None:
        super().__init__(
            {
                "begins": In(1),
                "push": In(1),
                "token": In(vocab_bits),
                "window": In(FIELDS["window"]),
                "recent": Out(WINDOW_MAX * vocab_bits),
                "recent_count": Out(FIELDS["window"]),
            },
            params=(vocab_bits,),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        seen = Signal(range(WINDOW_MAX + 1))
        with m.If(self.begins):
            m.d.sync += seen.eq(0)
        with m.Elif(self.push):
            m.d.sync += [
                self.recent.eq(Cat(self.token, self.recent)),
                seen.eq(seen + (seen != WINDOW_MAX)),
            ]
        m.d.comb += self.recent_count.eq(Mux(seen < self.window, seen, self.window))
        return m
