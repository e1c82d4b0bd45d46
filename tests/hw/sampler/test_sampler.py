# amaranth: UnusedElaboratable=no
"""Sampler against `sampling.sample`, which without noise is the lowest of the largest logits."""

from __future__ import annotations

from typing import Any

import cocotb
import pytest

from tests.hw.belt_bench import STALLS, Belt
from tokenloom.hw.sampler.noise import SAMPLING, Noise
from tokenloom.hw.sampler.sampler import Sampler
from tokenloom.hw.sampler.sampling import GREEDY_SCALE, NoiseScale, noise_scale, sample
from tokenloom.sim.bench import parameters, run_block, seeded

VOCAB_BITS = 10
LOW, HIGH = -(2**31), 2**31 - 1


def rows(rng: Any, most: int = 1 << VOCAB_BITS) -> list[list[int]]:
    """Rows of up to `most` logits with ties, falling, rising, at both ends, and of one value."""
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
        [rng.randint(LOW, HIGH) for _ in range(most)],
    ]
    for _ in range(20):
        bound = rng.choice((1, 3, 1000, HIGH))
        found.append([rng.randint(-bound, bound) for _ in range(rng.randrange(1, 80))])
    return [row[:most] for row in found]


def requests(rng: Any) -> list[tuple[NoiseScale, int, int]]:
    """Scale, seed and position: without noise, then from far below a logit's unit to far above."""
    found = [(GREEDY_SCALE, rng.getrandbits(64), rng.getrandbits(20))]
    for temperature, fraction in ((1.0, 0), (0.7, 20), (3.0, 31), (100.0, 31), (0.001, -13)):
        scale = noise_scale(temperature, fraction)
        found.append((scale, rng.getrandbits(64), rng.getrandbits(20)))
    found.append((NoiseScale((1 << 16) - 1, 0), (1 << 64) - 1, (1 << 20) - 1))
    found.append((GREEDY_SCALE, 1, 1))  # with what the other requests left in the pipeline
    return found


@cocotb.test()
async def tokens(dut: Any) -> None:
    rng = seeded()
    given = parameters()
    vocab_bits = given["vocab_bits"]
    bench = Belt(
        dut,
        {
            "restart": 1,
            "in_valid": 1,
            "in_logit": -32,
            "in_start": 1,
            "in_last": 1,
            "sampling": SAMPLING.size,
            "position": 20,
        },
        {"token": vocab_bits, "token_valid": 1},
        rng=rng,
        strobes=("restart", "in_valid"),
        stable=("sampling", "position"),
    )
    await bench.reset()
    most = 1 << min(vocab_bits, VOCAB_BITS)
    for stall in given.get("stalls", STALLS):
        bench.stall = stall
        for gap in (0.0, 0.5):
            every = [(row, request) for request in requests(rng) for row in rows(rng, most)]
            for row, (scale, seed, position) in every if stall == 0.0 else rng.sample(every, 60):
                want = sample(row, position, scale, seed)
                await bench.next()
                word = SAMPLING.const(
                    {"seed": seed, "mantissa": scale.mantissa, "shift": scale.shift}
                )
                bench.drive(restart=1, sampling=word.as_bits(), position=position)
                for _ in range(Noise.LEAD + rng.choice((0, 0, 1, 30))):
                    await bench.next()
                    bench.drive()
                for i, logit in enumerate(row):
                    while True:
                        assert not (await bench.next())["token_valid"]
                        if rng.random() >= gap:
                            break
                        bench.drive()
                    bench.drive(
                        in_valid=1, in_logit=logit, in_start=i == 0, in_last=i == len(row) - 1
                    )
                for cycle in range(1, Sampler.LATENCY + 2):
                    found = await bench.next()
                    bench.drive()
                    assert found["token_valid"] == (cycle == Sampler.LATENCY)
                    if cycle == Sampler.LATENCY:
                        assert found["token"] == want, f"scale {scale}, {len(row)} logits"


def test_sampler() -> None:
    given = {"vocab_bits": VOCAB_BITS}
    run_block(Sampler(**given), __name__, parameters=given)


def test_parameters() -> None:
    for bits in (0, 33):
        with pytest.raises(ValueError, match=f"vocab_bits = {bits}"):
            Sampler(vocab_bits=bits)
