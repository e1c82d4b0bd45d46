"""Beam step against `beams.beam_step`, and that against a search written another way."""

from __future__ import annotations

from typing import Any

import cocotb
import pytest

from tests.hw.belt_bench import STALLS, Belt
from tokenloom.hw.sampler.beam_step import BeamStep
from tokenloom.hw.sampler.beams import BEAM_SCORE_BITS, BEAMS_MAX, PENALTY_BITS, beam_step
from tokenloom.sim.bench import parameters, run_block, seeded

VOCAB_BITS = 9
UNIT = 1 << 16


def step_of(
    rng: Any, vocab_bits: int = VOCAB_BITS
) -> tuple[list[list[tuple[int, int]]], list[int], int, int]:
    """Candidates, scores, groups and penalty: few tokens, so that they meet; many ties."""
    count = rng.choice((1, 2, 3, 4, 6, 8, 8))
    groups = rng.choice([g for g in range(1, count + 1) if count % g == 0])
    ids = min(rng.choice((3, 10, 1 << vocab_bits)), 1 << vocab_bits)
    grain = rng.choice((1, UNIT // 4, 4 * UNIT))
    candidates = []
    for beam in range(count):
        size = min(ids, rng.choice((1, count, count, 16, 64)))
        if rng.random() < 0.1 and beam % (count // groups):
            size = 0
        logs = sorted(
            (-rng.randrange(40 * UNIT) // grain * grain for _ in range(size)), reverse=True
        )
        candidates.append(list(zip(rng.sample(range(ids), size), logs, strict=True)))
    low = -(1 << 44) if rng.random() < 0.1 else -30 * UNIT
    scores = [rng.randint(low, 0) // grain * grain for _ in range(count)]
    penalty = rng.choice((0, 1, UNIT // 4, 2 * UNIT, (1 << PENALTY_BITS) - 1))
    return candidates, scores, groups, penalty


@cocotb.test()
async def steps(dut: Any) -> None:
    rng = seeded()
    given = parameters()
    vocab_bits = given["vocab_bits"]
    bench = Belt(
        dut,
        {
            "restart": 1,
            "width": 4,
            "penalty": PENALTY_BITS,
            "in_valid": 1,
            "in_beam": 3,
            "in_token": vocab_bits,
            "in_log": -32,
            "in_score": -BEAM_SCORE_BITS,
            "in_last": 1,
        },
        {"out_valid": 1, "out_beam": 3, "out_token": vocab_bits, "out_score": -BEAM_SCORE_BITS},
        rng=rng,
        strobes=("restart", "in_valid"),
        stable=("width", "penalty"),
    )
    await bench.reset()
    for number in range(given["steps"]):
        bench.stall = STALLS[0] if number % 4 else rng.choice(STALLS)
        candidates, scores, groups, penalty = step_of(rng, vocab_bits)
        width = len(candidates) // groups
        want = beam_step(candidates, scores, groups=groups, penalty=penalty)
        await bench.next()
        bench.drive(restart=1, width=width, penalty=penalty)
        found = []
        for first in range(0, len(candidates), width):
            stream = [
                (beam, token, log)
                for beam in range(first, first + width)
                for token, log in candidates[beam]
            ]
            for i, (beam, token, log) in enumerate(stream):
                while True:
                    assert not (await bench.next())["out_valid"]
                    if rng.random() >= 0.2:
                        break
                    bench.drive()
                bench.drive(
                    in_valid=1,
                    in_beam=beam,
                    in_token=token,
                    in_log=log,
                    in_score=scores[beam],
                    in_last=i == len(stream) - 1,
                )
            leave = min(width, len(stream))
            for cycle in range(1, BeamStep.LATENCY + leave):
                out = await bench.next()
                bench.drive()
                assert out["out_valid"] == (cycle >= BeamStep.LATENCY), f"{number}, cycle {cycle}"
                if out["out_valid"]:
                    found.append((out["out_beam"], out["out_token"], out["out_score"]))
        assert found == want, f"step {number}: {len(candidates)} beams in {groups} groups"


def test_beam_step() -> None:
    given = {"vocab_bits": VOCAB_BITS, "steps": 300}
    run_block(BeamStep(vocab_bits=VOCAB_BITS), __name__, parameters=given)


def test_one_group_takes_the_largest_of_all() -> None:
    candidates = [[(5, -1), (6, -2)], [(5, -3), (7, -3)]]
    assert beam_step(candidates, [0, 1]) == [(0, 5, -1), (0, 6, -2)]
    assert beam_step(candidates, [0, 2]) == [(0, 5, -1), (1, 5, -1)]


def test_the_penalty_makes_groups_differ() -> None:
    candidates = [[(5, -10), (6, -20)]] * 4
    alone = beam_step(candidates, [0] * 4, groups=4)
    assert [beam.token for beam in alone] == [5] * 4
    apart = beam_step(candidates, [0] * 4, groups=4, penalty=11)
    assert apart == [(0, 5, -10), (1, 6, -20), (2, 5, -21), (3, 6, -31)]


def test_as_many_candidates_as_beams_suffice() -> None:
    import random

    rng = random.Random(4)
    for _ in range(300):
        candidates, scores, groups, penalty = step_of(rng)
        short = [row[: len(candidates)] for row in candidates]
        assert beam_step(short, scores, groups=groups, penalty=penalty) == beam_step(
            candidates, scores, groups=groups, penalty=penalty
        )


def test_refused() -> None:
    with pytest.raises(ValueError, match="9 beams are impossible; allowed: 1 to 8"):
        beam_step([[]] * (BEAMS_MAX + 1), [0] * 9)
    with pytest.raises(ValueError, match="3 groups of 4 beams"):
        beam_step([[(1, 0)]] * 4, [0] * 4, groups=3)
