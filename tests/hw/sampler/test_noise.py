"""Noise against `sampling`: every value, in the order of the ids."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np

from tests.hw.belt_bench import STALLS, Belt
from tests.hw.many import many_values
from tokenloom.hw.numbers.formats import round_shift
from tokenloom.hw.sampler.noise import NOISE_BITS, SAMPLING, Noise
from tokenloom.hw.sampler.sampling import NOISE_LEFT, gumbel, threefry
from tokenloom.sim.bench import run_block, seeded

VOCAB_BITS = 12


@cocotb.test()
@many_values(3 * 4096)
async def values(dut: Any) -> None:
    rng = seeded()
    bench = Belt(
        dut,
        {"restart": 1, "take": 1, "sampling": SAMPLING.size, "position": 20},
        {"value": -NOISE_BITS},
        rng=rng,
        strobes=("restart", "take"),
        stable=("sampling", "position"),
    )
    await bench.reset()
    cases = [(0xFFFF, 0, 1 << VOCAB_BITS), (0x8000, 62, 50), (0, 0, 50), (1, 16, 500)]
    cases += [(rng.getrandbits(16), rng.randrange(63), rng.randrange(1, 500)) for _ in range(9)]
    for stall in STALLS:
        bench.stall = stall
        for mantissa, shift, count in cases:
            seed, position = rng.getrandbits(64), rng.getrandbits(20)
            words, _ = threefry(seed, np.arange(count), position)
            want = round_shift(gumbel(words) * mantissa << NOISE_LEFT, shift)
            await bench.next()
            word = SAMPLING.const({"seed": seed, "mantissa": mantissa, "shift": shift})
            bench.drive(restart=1, sampling=word.as_bits(), position=position)
            for _ in range(Noise.LEAD):
                await bench.next()
                bench.drive()
            done = 0
            while done < count:
                found = await bench.next()
                assert found["value"] == want[done], f"id {done} of {mantissa}, {shift}"
                take = rng.random() < 0.8
                bench.drive(take=take)
                done += take


def test_noise() -> None:
    run_block(Noise(vocab_bits=VOCAB_BITS), __name__)
