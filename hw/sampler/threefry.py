"""Threefry: random words from a counter, without multipliers."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Signal
from amaranth.lib.wiring import In, Out

from tokenloom.hw.sampler.sampling import (
    SEED_BITS,
    THREEFRY_GROUP,
    THREEFRY_PARITY,
    THREEFRY_ROTATIONS,
    THREEFRY_ROUNDS,
)
from tokenloom.hw.verilog.block import Block

__all__ = ["Threefry"]

_PER_STAGE = 2  # rounds between two registers: two additions of 32 bits
_GROUPS = THREEFRY_ROUNDS // THREEFRY_GROUP


class Threefry(Block):
    """Threefry-2x32-20, a counter per step; shows the first word of its result.

    Members
    -------
    step : In(1)
        Every stage moves on; without it nothing changes.
    seed : In(64)
        The key, stable.
    in_low, in_high : In(32)
        The counter.
    word : Out(32)

    Latency
    -------
    `LATENCY` = 16 steps.
    """

    LATENCY = 1 + _GROUPS * (THREEFRY_GROUP // _PER_STAGE + 1)

    def __init__(self) -> None:
        super().__init__(
            {
                "step": In(1),
                "seed": In(SEED_BITS),
                "in_low": In(32),
                "in_high": In(32),
                "word": Out(32),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        parity = Signal(32)
        m.d.comb += parity.eq(self.seed[:32] ^ self.seed[32:] ^ THREEFRY_PARITY)
        keys = (self.seed[:32], self.seed[32:], parity)
        x0, x1 = self.in_low, self.in_high

        def injected(number: int) -> None:
            nonlocal x0, x1
            y0 = Signal(32, name=f"keyed{number}_0", reset_less=True)
            y1 = Signal(32, name=f"keyed{number}_1", reset_less=True)
            key = Signal(32, name=f"key{number}")
            m.d.comb += key.eq(keys[(number + 1) % 3] + Const(number))
            with m.If(self.step):
                m.d.sync += [y0.eq(x0 + keys[number % 3]), y1.eq(x1 + key)]
            x0, x1 = y0, y1

        injected(0)
        for done in range(THREEFRY_ROUNDS):
            s0, s1 = Signal(32, name=f"sum{done}"), Signal(32, name=f"mixed{done}")
            left = THREEFRY_ROTATIONS[done % len(THREEFRY_ROTATIONS)]
            m.d.comb += [s0.eq(x0 + x1), s1.eq(x1.rotate_left(left) ^ s0)]
            x0, x1 = s0, s1
            if done % _PER_STAGE == _PER_STAGE - 1:
                y0 = Signal(32, name=f"round{done}_0", reset_less=True)
                y1 = Signal(32, name=f"round{done}_1", reset_less=True)
                with m.If(self.step):
                    m.d.sync += [y0.eq(x0), y1.eq(x1)]
                x0, x1 = y0, y1
            if done % THREEFRY_GROUP == THREEFRY_GROUP - 1:
                injected(done // THREEFRY_GROUP + 1)
        m.d.comb += self.word.eq(x0)
        return m
