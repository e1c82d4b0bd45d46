"""Chooses the page that is worth least."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib.wiring import In, Out

from tokenloom.hw.kv.eviction_policy import (
    AGE_BITS,
    AGE_MAX,
    FREQUENCY_BITS,
    MASS_BITS,
    SCALE_BITS,
    SCORE_BITS,
    WEIGHT_BITS,
)
from tokenloom.hw.verilog.block import Block

__all__ = ["Eviction"]


class Eviction(Block):
    """`eviction_policy.choose` over a stream of candidates, one per cycle.

    Parameters
    ----------
    tag_bits : int
        Width of what names a candidate.

    Members
    -------
    clear : In(1)
        Forget all candidates so far. Comes before the first one, not with it.
    valid, tag, age, frequency, mass : In(1), In, In(AGE_BITS), In(FREQUENCY_BITS), In(MASS_BITS)
        A candidate and its values.
    weight_recency, weight_frequency, weight_mass : In(WEIGHT_BITS)
        What each value counts for; constant from `clear` to the result.
    found, best : Out(1), Out(tag_bits)
        There was a candidate; the tag of the one with the lowest score, the first among equals.

    Latency
    -------
    `LATENCY` = 4 cycles from a candidate to a `best` that has seen it.

    Duration
    --------
    One candidate per cycle, with or without gaps.

    Raises
    ------
    ValueError
        When `tag_bits` is less than 1.
    """

    belt = False
    LATENCY = 4

    def __init__(self, *, tag_bits: int) -> None:
        if tag_bits < 1:
            raise ValueError(f"tag_bits has to be positive, not {tag_bits!r}")
        super().__init__(
            {
                "clear": In(1),
                "valid": In(1),
                "tag": In(tag_bits),
                "age": In(AGE_BITS),
                "frequency": In(FREQUENCY_BITS),
                "mass": In(MASS_BITS),
                "weight_recency": In(WEIGHT_BITS),
                "weight_frequency": In(WEIGHT_BITS),
                "weight_mass": In(WEIGHT_BITS),
                "found": Out(1),
                "best": Out(tag_bits),
            },
            params=(tag_bits,),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()

        # Values, products, sum.
        valid1, valid2, valid3 = Signal(), Signal(), Signal()
        tag1, tag2, tag3 = (Signal.like(self.tag, name=f"tag{i}", reset_less=True) for i in "123")
        recency = Signal(AGE_BITS, reset_less=True)
        frequency = Signal(FREQUENCY_BITS, reset_less=True)
        mass = Signal(MASS_BITS, reset_less=True)
        product_bits = WEIGHT_BITS + MASS_BITS
        recent = Signal(WEIGHT_BITS + AGE_BITS, reset_less=True)
        frequent = Signal(WEIGHT_BITS + FREQUENCY_BITS, reset_less=True)
        massive = Signal(product_bits, reset_less=True)
        score = Signal(SCORE_BITS, reset_less=True)
        m.d.sync += [
            valid1.eq(self.valid),
            tag1.eq(self.tag),
            recency.eq(AGE_MAX - self.age),
            frequency.eq(self.frequency),
            mass.eq(self.mass),
            valid2.eq(valid1),
            tag2.eq(tag1),
            recent.eq(self.weight_recency * recency),
            frequent.eq(self.weight_frequency * frequency),
            massive.eq(self.weight_mass * mass),
            valid3.eq(valid2),
            tag3.eq(tag2),
            score.eq(((recent + frequent) << SCALE_BITS) + massive),
        ]

        # The best so far.
        lowest = Signal(SCORE_BITS, reset_less=True)
        with m.If(self.clear):
            m.d.sync += self.found.eq(0)
        with m.Elif(valid3 & (~self.found | (score < lowest))):
            m.d.sync += [self.found.eq(1), self.best.eq(tag3), lowest.eq(score)]
        return m
