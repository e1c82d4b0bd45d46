"""Greedy sampler: the index of the largest logit."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib.wiring import In, Out

from tokenloom.hw.block import Block

__all__ = ["Sampler"]


class Sampler(Block):
    """Finds the largest of a row of logits; the lowest id wins among equals.

    Parameters
    ----------
    vocab_bits : int
        Width of a token id, 1..32.

    Members
    -------
    in_valid : In(1)
        The other inputs hold a logit.
    in_logit : In(signed(32))
        The logit of the next id; ids count from 0 at `in_start`.
    in_start : In(1)
        Id 0.
    in_last : In(1)
        The last id (it may be id 0).
    token : Out(vocab_bits)
        The winner so far; from `token_valid` on the result, until the next logit arrives.
    token_valid : Out(1)
        Strobe.

    Latency
    -------
    `LATENCY` = 2 belt cycles from `in_last` to `token_valid`.

    Duration
    --------
    One logit per cycle, with or without gaps.

    Raises
    ------
    ValueError
        When `vocab_bits` is outside 1..32.
    """

    LATENCY = 2

    def __init__(self, *, vocab_bits: int) -> None:
        if not 1 <= vocab_bits <= 32:
            raise ValueError(f"vocab_bits = {vocab_bits} is impossible: allowed is 1..32")
        self._vocab_bits = vocab_bits
        super().__init__(
            {
                "in_valid": In(1),
                "in_logit": In(signed(32)),
                "in_start": In(1),
                "in_last": In(1),
                "token": Out(vocab_bits),
                "token_valid": Out(1),
            },
            params=(vocab_bits,),
        )

    @property
    def vocab_bits(self) -> int:
        """Width of a token id."""
        return self._vocab_bits

    def elaborate(self, platform: object) -> Module:
        """Register the logit, then compare it with the best."""
        m = Module()
        valid, start, last = Signal(), Signal(reset_less=True), Signal(reset_less=True)
        logit = Signal(signed(32), reset_less=True)
        index = Signal(self._vocab_bits, reset_less=True)
        m.d.sync += valid.eq(self.in_valid)
        with m.If(self.in_valid):
            m.d.sync += [
                logit.eq(self.in_logit),
                start.eq(self.in_start),
                last.eq(self.in_last),
                index.eq(Mux(self.in_start, 0, index + 1)),
            ]

        best = Signal(signed(32), reset_less=True)
        with m.If(valid & (start | (logit > best))):
            m.d.sync += [best.eq(logit), self.token.eq(index)]
        m.d.sync += self.token_valid.eq(valid & last)
        return m
