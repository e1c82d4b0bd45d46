"""Token mask in Amaranth's simulator: every bit in order, with gaps and restarts."""

from __future__ import annotations

import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from tokenloom.hw.sampler.token_mask import TokenMask


@pytest.mark.parametrize("vocab", [1, 64, 300])
def test_token_mask(vocab: int) -> None:
    rng = random.Random(vocab)
    block = TokenMask(vocab=vocab)
    words = -(-vocab // TokenMask.WORD)

    async def bench(ctx: Any) -> None:
        for _ in range(3):
            mask = [rng.getrandbits(TokenMask.WORD) for _ in range(words)]
            for address, word in enumerate(mask):
                ctx.set(block.we, 1)
                ctx.set(block.addr, address)
                ctx.set(block.data, word)
                await ctx.tick()
            ctx.set(block.we, 0)
            for _ in range(2):
                ctx.set(block.restart, 1)
                await ctx.tick()
                ctx.set(block.restart, 0)
                for _ in range(TokenMask.LATENCY - 1):
                    await ctx.tick()
                token = 0
                while token < rng.choice((vocab, vocab, vocab // 2)):
                    place = token % TokenMask.WORD
                    want = mask[token // TokenMask.WORD] >> place & 1
                    assert ctx.get(block.masked) == want, f"id {token}"
                    take = rng.random() < 0.7
                    ctx.set(block.take, take)
                    await ctx.tick()
                    token += take
                ctx.set(block.take, 0)

    simulator = Simulator(block)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()


def test_refused() -> None:
    with pytest.raises(ValueError, match="vocab = 0 is impossible"):
        TokenMask(vocab=0)
