# amaranth: UnusedElaboratable=no
"""The sampler with candidates against `candidates.choose`: token, list, sum and logarithms."""

from __future__ import annotations

from typing import Any

import cocotb

from tests.hw.belt_bench import STALLS, Belt
from tests.hw.sampler.candidate_rows import FRACTION, LISTED, a_row
from tests.hw.sampler.row_lanes import HIGH, LOW
from tokenloom.hw.sampler.noise import SAMPLING, Noise
from tokenloom.hw.sampler.power_sum import OCTAVE_BITS
from tokenloom.hw.sampler.sampler import RULES, Sampler, rule_ports
from tokenloom.hw.sampler.settings import WINDOW_MAX
from tokenloom.sim.bench import parameters, run_block, seeded

VOCAB_BITS = 10


def logits_of(rng: Any, kind: int, most: int) -> list[int]:
    """A row of up to `most` logits: real ones, ties, extremes, falling, rising, one value."""
    size = rng.choice((1, 2, 5, 40, 64, 65, 90, 200, most if kind % 4 == 0 else 130))
    size = min(size, most)
    bound = rng.choice((1, 3, 1 << FRACTION, 8 << FRACTION, 8 << FRACTION, HIGH))
    row = [rng.randint(-bound, bound) for _ in range(size)]
    if kind % 5 == 1:
        row.sort(reverse=rng.random() < 0.5)
    if kind % 7 == 2:
        row = [rng.choice((LOW, HIGH, 0)) for _ in row]
    if kind % 5 == 3:
        row = [int(rng.gauss(0, 2) * 2**FRACTION) for _ in row]
    return row


@cocotb.test()
async def choices(dut: Any) -> None:
    rng = seeded()
    given = parameters()
    most, bits = given["candidates"], given["vocab_bits"]
    vocab = min(1 << bits, 1 << VOCAB_BITS)  # longer rows would only take longer
    stable = ("sampling", "position", "recent", "recent_count")
    bench = Belt(
        dut,
        {
            "restart": 1,
            "in_valid": 1,
            "in_logit": -32,
            "in_start": 1,
            "in_last": 1,
            "in_masked": 1,
            "sampling": SAMPLING.size,
            "position": 20,
            "recent": WINDOW_MAX * bits,
            "recent_count": 7,
            "bias_we": 1,
            "bias_addr": 5,
            "bias_id": bits,
            "bias_value": -32,
        },
        {
            "token": bits,
            "token_valid": 1,
            "list_valid": 1,
            "list_id": bits,
            "list_logit": -32,
            "list_log": -32,
            "list_kept": 1,
            "total": bits + 49,
            "octave": -OCTAVE_BITS,
        },
        rng=rng,
        strobes=("restart", "in_valid", "bias_we"),
        stable=stable,
    )
    assert set(RULES) <= set(bench.widths) and set(rule_ports(1)) == set(RULES)
    await bench.reset()
    for number in range(given["rows"]):
        bench.stall = STALLS[0] if number % 4 else rng.choice(STALLS)
        gap = rng.choice((0.0, 0.0, 0.5))
        logits = logits_of(rng, number, vocab)
        mask = [rng.random() < rng.choice((0.1, 0.1, 0.9)) for _ in logits]
        if rng.random() < 0.1:
            mask = [True] * len(logits)
        row = a_row(rng, logits, mask, candidates=most, vocab_bits=bits)
        settings, want = row.settings, row.want
        for place, (token, value) in enumerate(row.biases):
            await bench.next()
            bench.drive(bias_we=1, bias_addr=place, bias_id=token, bias_value=value)
        await bench.next()
        bench.drive(
            restart=1,
            sampling=settings.word(),
            position=row.position,
            recent=row.recent_word,
            recent_count=row.recent_count,
        )
        for _ in range(Noise.LEAD + rng.choice((0, 0, 1, 30))):
            await bench.next()
            bench.drive()
        for i, logit in enumerate(logits):
            while True:
                assert not (await bench.next())["token_valid"]
                if rng.random() >= gap:
                    break
                bench.drive()
            bench.drive(
                in_valid=1,
                in_logit=logit,
                in_start=i == 0,
                in_last=i == len(logits) - 1,
                in_masked=mask[i],
            )
        listed = []
        latency = Sampler.latency(settings)
        for cycle in range(1, latency + 2):
            found = await bench.next()
            bench.drive()
            assert found["token_valid"] == (cycle == latency), f"cycle {cycle} of {latency}"
            if found["list_valid"]:
                listed.append(found)
            if cycle == latency:
                assert found["token"] == want.token, f"{number}: {settings}, {len(logits)} logits"
                if settings.count:
                    assert (found["total"], found["octave"]) == (want.total, want.octave), settings
        for i, name in enumerate(LISTED):
            column = [one[name] for one in listed]
            assert column == [entry[i] for entry in row.listed], f"{number}: {name}, {settings}"
        assert all(log < 1 << 16 for _, _, log, _ in row.listed)


def test_candidates() -> None:
    given = {"vocab_bits": VOCAB_BITS, "candidates": 64}
    run_block(
        Sampler(**given),
        __name__,
        parameters={**given, "rows": 250},
    )
