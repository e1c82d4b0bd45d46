"""Recent tokens in Amaranth's simulator: the window's contents and its count."""

from __future__ import annotations

import random
from typing import Any

from amaranth.sim import Simulator

from tokenloom.hw.sampler.recent_tokens import RecentTokens
from tokenloom.hw.sampler.settings import WINDOW_MAX

BITS = 9


def test_recent_tokens() -> None:
    rng = random.Random(3)
    block = RecentTokens(vocab_bits=BITS)

    async def bench(ctx: Any) -> None:
        tokens: list[int] = []
        for _ in range(700):
            begin, push = rng.random() < 0.008, rng.random() < 0.6
            token, window = rng.getrandbits(BITS), rng.choice((0, 1, 5, 63, WINDOW_MAX))
            ctx.set(block.begins, begin)
            ctx.set(block.push, push and not begin)
            ctx.set(block.token, token)
            ctx.set(block.window, window)
            count = min(len(tokens), window)
            assert ctx.get(block.recent_count) == count
            recent = ctx.get(block.recent)
            found = [recent >> BITS * i & (1 << BITS) - 1 for i in range(count)]
            assert found == tokens[::-1][:count]
            await ctx.tick()
            tokens = [] if begin else [*tokens, token] if push else tokens
            longest.append(len(tokens))

    longest: list[int] = []
    simulator = Simulator(block)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    assert max(longest) > WINDOW_MAX
