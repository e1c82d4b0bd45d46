"""The step of beam search in the catalog."""

from __future__ import annotations

from typing import Any

from tokenloom.hw.catalog.spec import BlockSpec, Parameter, Timing
from tokenloom.hw.sampler.beam_step import BeamStep
from tokenloom.hw.sampler.beams import BEAMS_MAX

__all__ = ["SPEC"]


def _build(*, vocab_bits: int) -> BeamStep:
    if vocab_bits < 1:
        raise ValueError(f"vocab_bits = {vocab_bits} is impossible: allowed is 1 or more")
    return BeamStep(vocab_bits=vocab_bits)


def _timing(*, vocab_bits: int) -> list[Timing]:
    return [
        Timing("a candidate", "1", 1),
        Timing(
            "last candidate of a group to its first beam",
            f"{BeamStep.LATENCY}",
            BeamStep.LATENCY,
        ),
        Timing(
            "8 beams with 8 candidates each, in one group",
            f"64 + {BeamStep.LATENCY} + 7",
            BEAMS_MAX * BEAMS_MAX + BeamStep.LATENCY + BEAMS_MAX - 1,
            "8 beams",
        ),
    ]


async def _stimulus(ctx: Any, block: Any, parameters: dict[str, Any]) -> None:
    """Two groups of one beam, with a penalty that makes the second one choose another token."""
    ctx.set(block.width, 1)
    ctx.set(block.penalty, 2 << 16)
    await ctx.tick()
    ctx.set(block.restart, 1)
    await ctx.tick()
    ctx.set(block.restart, 0)
    for group in range(2):
        for number, log in enumerate((-1, -2)):
            ctx.set(block.in_valid, 1)
            ctx.set(block.in_beam, group)
            ctx.set(block.in_token, number)
            ctx.set(block.in_log, log << 16)
            ctx.set(block.in_last, number == 1)
            await ctx.tick()
        ctx.set(block.in_valid, 0)
        for _ in range(BeamStep.LATENCY):
            await ctx.tick()


SPEC = BlockSpec(
    name="beam_step",
    title="Beam step",
    summary="The candidates of up to eight beams become the beams that go on, group after group.",
    parameters=(Parameter("vocab_bits", 17, "1 or more", "Width of a token id."),),
    build=_build,
    timing=_timing,
    formula=(
        "A candidate's score is its beam's plus the base-2 logarithm of its probability minus the "
        "diversity penalty for each beam of an earlier group that took the same token in this step "
        "(Hamming diversity); the `width` largest of a group go on, the lowest parent and the "
        "earliest candidate first among equals: point 20 of [numbers.md](../numbers.md). All with "
        "16 fraction bits, and exact."
    ),
    verified=(
        "Bit for bit against `beams.beam_step` on 300 random steps with ties, few and many "
        "candidates, gaps and stalls (`tests/hw/sampler/test_beam_step.py`)."
    ),
    stimulus=_stimulus,
    signals=(
        "restart", "in_valid", "in_beam", "in_token", "in_log", "in_last", "out_valid", "out_beam",
        "out_token", "out_score",
    ),
    cycles=20,
)  # fmt: skip
