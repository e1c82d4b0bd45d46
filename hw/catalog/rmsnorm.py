"""RMSNorm in the catalog."""

from __future__ import annotations

from typing import Any

from tokenloom.hw.catalog.spec import BlockSpec, Parameter, Timing
from tokenloom.hw.norm.rmsnorm_unit import RmsNormUnit

__all__ = ["SPEC"]


def _timing(*, width: int, norm_lanes: int, layer_norm: bool, quantise: bool) -> list[Timing]:
    unit = RmsNormUnit(width=width, norm_lanes=norm_lanes, layer_norm=layer_norm, quantise=quantise)
    words = unit.words_for(width)
    return [
        Timing(
            "scan of a vector of `width` values",
            "words = ⌈width / 32⌉·32 / norm_lanes",
            words,
            "4096 values in 256 cycles at 16 lanes",
        ),
        Timing(
            "last word in to first block out",
            "32 / norm_lanes + 27 + 7·layer_norm + 3·quantise",
            unit.first_block(),
        ),
        Timing(
            "last word in to last block out",
            "words + 27 + 7·layer_norm + 3·quantise",
            unit.last_block(words=words),
        ),
        Timing(
            "a vector, when they come back to back",
            "words + 20 + 7·layer_norm",
            unit.interval(words=words),
        ),
    ]


async def _stimulus(ctx: Any, block: Any, parameters: dict[str, Any]) -> None:
    """Gains, then two vectors of one block; the first result waits for two cycles."""
    lanes = parameters["norm_lanes"]
    words = 32 // lanes
    ctx.set(block.words, words)
    ctx.set(block.eps, 1 << 16)
    if parameters["layer_norm"]:
        ctx.set(block.count, 32)
    ctx.set(block.out_ready, 1)
    for word in range(words):
        ctx.set(block.cfg_we, 1)
        ctx.set(block.cfg_addr, word)
        ctx.set(block.cfg_data, sum((1 << 14) << 16 * lane for lane in range(lanes)))
        await ctx.tick()
    ctx.set(block.cfg_we, 0)
    for vector in (1, 100):
        for word in range(words):
            values = [vector * (word * lanes + lane - 7) for lane in range(lanes)]
            packed = sum((v & 0xFFFFFFFF) << 32 * lane for lane, v in enumerate(values))
            ctx.set(block.in_values, packed)
            ctx.set(block.in_valid, 1)
            await ctx.tick().until(block.in_ready)
    ctx.set(block.in_valid, 0)
    ctx.set(block.out_ready, 0)
    await ctx.tick().until(block.out_valid)
    await ctx.tick().repeat(2)
    ctx.set(block.out_ready, 1)


SPEC = BlockSpec(
    name="rmsnorm",
    title="RMSNorm",
    summary="Normalises vectors of fixed32 values: one scan, as the squares accumulate while a "
    "vector is written.",
    parameters=(
        Parameter("width", 4096, "1 or more", "Largest number of values in a vector."),
        Parameter("norm_lanes", 16, "2, 4, 8, 16 or 32", "Values per cycle."),
        Parameter("layer_norm", False, "true or false", "LayerNorm: mean and bias."),
        Parameter("quantise", False, "true or false", "Hands out blocks of codes and shifts."),
    ),
    build=RmsNormUnit,
    timing=_timing,
    formula=(
        "`S = (Σr² << 16) + eps_int`, `y, k = rsqrt(S)` (17 bits, relative error < 2^-16), "
        "`v = sat32(rs(r·g·y, max(k - 7, 0)))`, with 32-bit values, 16-bit gains and exact sums: "
        "points 5 and 6 of [numbers.md](../numbers.md). With `layer_norm` "
        "`v = sat32(rs((D·r - Σr)·g·y, max(k - 7 + e, 0)) + bias)`, point 21; with `quantise` "
        "blocks of 32 become codes with a shift, point 7."
    ),
    verified=(
        "Every value and every stated cycle against `formats.norm` and `layer_norm`, with gaps at "
        "the input and back-pressure at the output (`tests/hw/norm/test_rmsnorm_unit.py`; a "
        "million values per kind with TOKENLOOM_DEEP=1); the reciprocal root's error for every "
        "mantissa (`tests/hw/numbers/test_formats.py`). `RmsNorm`, `Residual` and `Quantiser` "
        "inside are the chip's and have tests of their own."
    ),
    stimulus=_stimulus,
    signals=("cfg_we", "in_valid", "in_ready", "in_values", "out_valid", "out_ready", "out_last"),
    cycles=60,
    small=("width=64", "norm_lanes=2"),
)
