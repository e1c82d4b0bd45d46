# amaranth: UnusedElaboratable=no
"""Sampler against numpy's argmax, which takes the lowest index among equals too."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
import pytest

from tests.hw.belt_bench import STALLS, Belt
from tokenloom.hw.sampler import Sampler
from tokenloom.sim.bench import run_block, seeded

VOCAB_BITS = 10
LOW, HIGH = -(2**31), 2**31 - 1


def rows(rng: Any) -> list[list[int]]:
    """Rows of logits with ties, falling, rising, at both ends, and of one value."""
    found = [
        [LOW],
        [HIGH],
        [LOW] * 5,
        [0, 0, 0],
        [-1, 0, -1, 0],
        [HIGH, LOW, HIGH],
        [LOW, HIGH],
        list(range(-20, 20)),
        list(range(20, -20, -1)),
        [rng.randint(LOW, HIGH) for _ in range(1 << VOCAB_BITS)],
    ]
    for _ in range(20):
        bound = rng.choice((1, 3, 1000, HIGH))
        found.append([rng.randint(-bound, bound) for _ in range(rng.randrange(1, 80))])
    return found


@cocotb.test()
async def greedy(dut: Any) -> None:
    rng = seeded()
    bench = Belt(
        dut,
        {"in_valid": 1, "in_logit": -32, "in_start": 1, "in_last": 1},
        {"token": VOCAB_BITS, "token_valid": 1},
        rng=rng,
        strobes=("in_valid",),
    )
    await bench.reset()
    for stall in STALLS:
        bench.stall = stall
        for gap in (0.0, 0.5):
            due: dict[int, int] = {}
            queue = []
            for row in rows(rng):
                token = int(np.argmax(row))
                for i, logit in enumerate(row):
                    queue.append((logit, i == 0, i == len(row) - 1, token))
            queue.reverse()
            while queue or due:
                found = await bench.next()
                want = due.pop(bench.now, None)
                assert found["token_valid"] == (want is not None), f"cycle {bench.now}"
                if want is not None:
                    assert found["token"] == want
                if queue and rng.random() >= gap:
                    logit, start, last, token = queue.pop()
                    bench.drive(in_valid=1, in_logit=logit, in_start=start, in_last=last)
                    if last:
                        due[bench.now + Sampler.LATENCY] = token
                else:
                    bench.drive()


def test_sampler() -> None:
    run_block(Sampler(vocab_bits=VOCAB_BITS), __name__)


def test_parameters() -> None:
    for bits in (0, 33):
        with pytest.raises(ValueError, match=f"vocab_bits = {bits}"):
            Sampler(vocab_bits=bits)
