"""Sampler: the index of the largest logit, or of the largest sum of logit and noise."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib.wiring import In, Out

from tokenloom.hw.sampler.noise import NOISE_BITS, SAMPLING, Noise
from tokenloom.hw.sampler.sampling import GUARD_BITS
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["Sampler"]


class Sampler(Block):
    """Finds the largest score of a row; the lowest id wins among equals.

    A score is the logit, and with a temperature noise on top (docs/numbers.md, point 16).

    Parameters
    ----------
    vocab_bits : int
        Width of a token id, 1..32.

    Members
    -------
    restart : In(1)
        Strobe: a pass begins; the row's first logit comes more than `Noise.LEAD` cycles later.
    sampling : In
        Seed and temperature, `noise.SAMPLING`; stable from `restart` on.
    position : In(20)
        Position of the row's token; stable from `restart` on.
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
                "restart": In(1),
                "sampling": In(SAMPLING.size),
                "position": In(20),
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
        """Register the score, then compare it with the best."""
        m = Module()
        noise = Noise(vocab_bits=self._vocab_bits)
        m.submodules.noise = instance(noise, en=self.en)
        m.d.comb += [
            noise.restart.eq(self.restart),
            noise.sampling.eq(self.sampling),
            noise.position.eq(self.position),
            noise.take.eq(self.in_valid),
        ]
        valid, start, last = Signal(), Signal(reset_less=True), Signal(reset_less=True)
        shape = signed(1 + NOISE_BITS)  # a logit with its guard bits has 40
        score, best = Signal(shape, reset_less=True), Signal(shape, reset_less=True)
        index = Signal(self._vocab_bits, reset_less=True)
        guarded = Cat(Const(0, GUARD_BITS), self.in_logit).as_signed()
        m.d.sync += valid.eq(self.in_valid)
        with m.If(self.in_valid):
            m.d.sync += [
                score.eq(guarded + noise.value),
                start.eq(self.in_start),
                last.eq(self.in_last),
                index.eq(Mux(self.in_start, 0, index + 1)),
            ]

        with m.If(valid & (start | (score > best))):
            m.d.sync += [best.eq(score), self.token.eq(index)]
        m.d.sync += self.token_valid.eq(valid & last)
        return m
