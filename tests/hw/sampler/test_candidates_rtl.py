# amaranth: UnusedElaboratable=no
"""The sampler with candidates against `candidates.choose`: token, list, sum and logarithms."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np

from tests.hw.belt_bench import STALLS, Belt
from tokenloom.hw.sampler.candidates import adjust, choose, log_probabilities
from tokenloom.hw.sampler.noise import SAMPLING, Noise
from tokenloom.hw.sampler.power_sum import OCTAVE_BITS
from tokenloom.hw.sampler.sampler import RULES, Sampler, rule_ports
from tokenloom.hw.sampler.settings import BIASES_MAX, WINDOW_MAX, Settings, make_settings
from tokenloom.sim.bench import parameters, run_block, seeded

VOCAB_BITS = 10
LOW, HIGH = -(2**31), 2**31 - 1
FRACTION = 20


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


def settings_of(rng: Any, most: int, entries: int) -> Settings:
    """Settings for `most` candidates and up to `entries` biases, with any part on or off; now and
    then fields at their ends.
    """
    settings = make_settings(
        fraction_bits=FRACTION,
        temperature=rng.choice((0, 0.001, 0.3, 0.8, 1.0, 2.0, 100.0)),
        seed=rng.getrandbits(64),
        top_k=min(
            most, rng.choice((0, 0, 1, 2, 31, 32, 33, most - 1, most, rng.randrange(1, most)))
        ),
        top_p=rng.choice((1.0, 1.0, 1e-9, 0.1, 0.5, 0.9, 0.95, 0.9999999, rng.random() or 0.5)),
        min_p=rng.choice((0.0, 0.0, 1e-9, 0.05, 0.3, 0.999999, rng.random())),
        penalty=rng.choice((1.0, 1.0, 1.1, 1.3, 0.8, 3.999, 0.2501)),
        window=rng.choice((1, 2, 5, 63, 64)),
        biases=min(entries, rng.choice((0, 0, 1, 5, 31, 32))),
        masked=rng.random() < 0.3,
        candidates=most,
        listed=rng.random() < 0.3,
    )  # fmt: skip
    if rng.random() < 0.1:
        ends = {"power_mantissa": 16, "power_shift": 6, "up": 16, "down": 16, "top_p": 16}
        name = rng.choice(list(ends))
        value = 62 if name == "power_shift" else rng.choice((1, (1 << ends[name]) - 1))
        # A cut-off cuts in a list.
        count = max(1, settings.count) if name == "top_p" else settings.count
        settings = Settings(**{**vars(settings), "count": count, name: value})
    return settings


@cocotb.test()
async def choices(dut: Any) -> None:
    rng = seeded()
    given = parameters()
    most, bits = given["candidates"], given["vocab_bits"]
    vocab = min(1 << bits, 1 << VOCAB_BITS)  # longer rows would only take longer
    entries = min(1 << bits, BIASES_MAX)
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
        row, settings = logits_of(rng, number, vocab), settings_of(rng, most, entries)
        position = rng.getrandbits(20)
        spread = max(1, len(row) // rng.choice((1, 4)))
        recent = [rng.randrange(spread) for _ in range(rng.choice((1, 3, 64, 100)))]
        few = rng.random() >= 0.5
        ids = sorted(range(entries) if few else rng.sample(range(1 << bits), entries))
        table = [(i, rng.choice((LOW, HIGH, 0, rng.randint(LOW, HIGH) >> 8))) for i in ids]
        inside = [entry for entry in table[: settings.biases] if entry[0] < len(row)]
        mask = [rng.random() < rng.choice((0.1, 0.1, 0.9)) for _ in row]
        if rng.random() < 0.1:
            mask = [True] * len(row)
        want = choose(
            row,
            position,
            settings,
            recent=recent,
            biases=inside,
            mask=mask,
        )
        counted = min(settings.window, len(recent)) if settings.window else 0
        window = 0
        for place, token in enumerate(reversed(recent[-WINDOW_MAX:])):
            window |= token << (bits * place)
        for place, (token, value) in enumerate(table):
            await bench.next()
            bench.drive(bias_we=1, bias_addr=place, bias_id=token, bias_value=value)
        await bench.next()
        bench.drive(
            restart=1,
            sampling=settings.word(),
            position=position,
            recent=window,
            recent_count=counted,
        )
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
                in_valid=1,
                in_logit=logit,
                in_start=i == 0,
                in_last=i == len(row) - 1,
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
                assert found["token"] == want.token, f"{number}: {settings}, {len(row)} logits"
                if settings.count:
                    assert (found["total"], found["octave"]) == (want.total, want.octave), settings
        assert [one["list_id"] for one in listed] == want.ids, f"{number}: {settings}"
        kept = [one["list_kept"] for one in listed]
        assert kept == [i < want.kept for i in range(len(listed))], f"{number}: {settings}"
        if want.ids:
            window_ids = recent[-settings.window :] if settings.window else ()
            values = adjust(row, settings, window_ids, inside)[want.ids]
            logs = log_probabilities(values, settings, want.total, want.octave)
            assert [one["list_logit"] for one in listed] == values.tolist()
            assert [one["list_log"] for one in listed] == logs.tolist(), f"{number}: {settings}"
            assert np.all(logs < 1 << 16)


def test_candidates() -> None:
    given = {"vocab_bits": VOCAB_BITS, "candidates": 64}
    run_block(
        Sampler(**given),
        __name__,
        parameters={**given, "rows": 250},
    )
