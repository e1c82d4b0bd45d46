# amaranth: UnusedElaboratable=no
"""A million logits through the sampler, 32 side by side; test_sampler has one's corners."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
import pytest

from tests.deep import deep
from tests.hw.many import MANY
from tests.hw.sampler.row_lanes import row_size, send, some_rows
from tests.hw.sampler.test_sampler import requests
from tests.hw.side_by_side import Lanes, SideBySide
from tokenloom.hw.sampler.noise import SAMPLING
from tokenloom.hw.sampler.sampler import Sampler
from tokenloom.hw.sampler.sampling import sample
from tokenloom.hw.sampler.settings import Settings
from tokenloom.sim.bench import parameters, run_block, seeded

VOCAB_BITS, LANES = 10, 32
FRACTION = 20
INPUTS = {
    "restart": 1, "in_valid": 1, "in_logit": -32, "in_start": 1, "in_last": 1,
    "sampling": SAMPLING.size, "position": 20,
}  # fmt: skip


@cocotb.test()
async def tokens(dut: Any) -> None:
    random = seeded()
    rng = np.random.default_rng(random.getrandbits(32))
    lanes = Lanes(
        dut, random, LANES, INPUTS, {"token": VOCAB_BITS, "token_valid": 1},
        strobes=("restart", "in_valid"), stable=("sampling", "position"),
    )  # fmt: skip
    await lanes.reset()
    logits = rows = 0
    ones = (1 << 64) - 1, (1 << 20) - 1
    scales = [scale for scale, _, _ in requests(random)]
    while logits < parameters()["values"]:
        size = row_size(random, 1 << VOCAB_BITS)
        each = some_rows(rng, LANES, size, FRACTION)
        given = [
            (Settings(seed=seed, mantissa=scale.mantissa, shift=scale.shift), position)
            for scale in random.choices(scales, k=LANES)
            for seed, position in [
                ones if random.random() < 0.05 else (random.getrandbits(64), random.getrandbits(20))
            ]
        ]
        want = [
            sample(row, position, settings.scale, settings.seed)
            for row, (settings, position) in zip(each, given, strict=True)
        ]

        def about(lane: int, place: int = rows, size: int = size, given: list[Any] = given) -> str:
            settings, position = given[lane]
            return f"row {place} of {size} logits, {settings}, position {position}"

        lanes.stall = random.choice((0.0, 0.0, 0.3))
        await send(
            lanes, each, gap=random.choice((0.0, 0.0, 0.3)),
            sampling=[settings.word() for settings, _ in given],
            position=[position for _, position in given],
        )  # fmt: skip
        for cycle in range(1, Sampler.LATENCY + 2):
            await lanes.next()
            lanes.drive()
            lanes.same("token_valid", lanes.every if cycle == Sampler.LATENCY else 0, about)
            if cycle == Sampler.LATENCY:
                lanes.same("token", want, about)
        logits += each.size
        rows += 1
    print(f"{logits} logits of {rows * LANES} rows compared")


@pytest.mark.parametrize("values", [deep(MANY, id="many")])
def test_sampler_lanes(values: int) -> None:
    block = SideBySide(lambda: Sampler(vocab_bits=VOCAB_BITS), LANES)
    run_block(block, __name__, parameters={"values": values})
