"""The FFN block in the catalog."""

from __future__ import annotations

from typing import Any

from tokenloom.hw.catalog.spec import BlockSpec, Parameter, Timing
from tokenloom.hw.ffn.ffn_block import FfnBlock

__all__ = ["SPEC"]


def _timing(
    *, width: int, ffn: int, rows: int, stages: int, gated: bool, **rest: Any
) -> list[Timing]:
    unit = FfnBlock(width=width, ffn=ffn, rows=rows, stages=stages, gated=gated, **rest)
    hidden = "2·ffn" if gated else "ffn"
    return [
        Timing("a gate value to its SiLU", "stages", stages, "2 cycles (stages=2)"),
        Timing("start to the first weight beat", f"{FfnBlock.FIRST_TAKE}", FfnBlock.FIRST_TAKE),
        Timing(
            "weight beats of a run at full size",
            f"⌈{hidden}/columns⌉·⌈width/32⌉ + ⌈width/columns⌉·⌈ffn/32⌉",
            unit.beats(width=width, ffn=ffn),
        ),
        Timing(
            "a run at full size, no beat late",
            f"duration(width={width}, ffn={ffn}, rows_used={rows})",
            unit.duration(width=width, ffn=ffn, rows_used=rows),
        ),
    ]


async def _stimulus(ctx: Any, block: Any, parameters: dict[str, Any]) -> None:
    """One row of 32 values, four hidden ones; a beat of each matrix comes late."""
    columns = parameters["columns"]
    for name, value in (
        ("used_width", 32), ("used_ffn", 4), ("rows_used", 1), ("hidden_shift", 0),
        ("product_shift", 16), ("down_shift", 8),
    ):  # fmt: skip
        ctx.set(getattr(block, name), value)
    ctx.set(block.x_valid, 1)
    ctx.set(block.x_codes, sum((i % 9) << 9 * i for i in range(32)))
    ctx.set(block.x_sum, sum(i % 9 for i in range(32)))
    await ctx.tick()
    ctx.set(block.x_valid, 0)
    ctx.set(block.r_valid, 1)
    for index in range(32):
        ctx.set(block.r_index, index)
        ctx.set(block.r_value, 1000 * index)
        await ctx.tick()
    ctx.set(block.r_valid, 0)
    ctx.set(block.w_codes, sum((i % 7) << 8 * i for i in range(32 * columns)))
    ctx.set(block.w_scale, sum(0x0C00 << 16 * i for i in range(columns)))
    ctx.set(block.start_valid, 1)
    await ctx.tick()
    ctx.set(block.start_valid, 0)
    await ctx.tick().repeat(3)  # the first beat is wanted in the last of them
    ctx.set(block.w_valid, 1)


def _formula(*, gated: bool, **_: Any) -> str:
    hidden = "f(gate · x) ∘ (up · x)" if gated else "f(gate · x)"
    return (
        f"`r += down · mx({hidden})`: the sums of products are exact, rounded are "
        "only `drain`, `silu`, `swiglu`, `mx`, `drain` and `residual`, points 2, 4, 7, 13 and 14 "
        "of [numbers.md](../numbers.md). x comes as blocks of 9-bit codes with a shift, weights "
        "as blocks of 8-bit codes with scale and minimum (GGUF's Q8_0, Q4_0, Q4_1 with rebased "
        "scales). f is SiLU (error < 0.0018 % of 12) or GELU (< 0.0043 %), over every input."
    )


SPEC = BlockSpec(
    name="swiglu_ffn",
    title="SwiGLU FFN",
    summary="Gate, up, SiLU, multiply, down and residual of up to R tokens, with weights as a "
    "stream of beats.",
    parameters=(
        Parameter("width", 64, "1 or more", "Largest number of residual values, D."),
        Parameter("ffn", 128, "1 or more", "Largest number of hidden values, F."),
        Parameter("columns", 4, "a power of two, 2..256", "Weight rows at once, C."),
        Parameter("rows", 1, "a power of two, 1..32", "Tokens that share the weights, R."),
        Parameter("norm_lanes", 8, "1, 2, 4, 8, 16 or 32", "Values per word read back."),
        Parameter("activation", "silu", "silu, gelu or gelu_tanh", "The gate's function."),
        Parameter("stages", 3, "1..5", "Pipeline depth of the function."),
        Parameter("gated", True, "true or false", "False: no up matrix."),
    ),
    build=FfnBlock,
    timing=_timing,
    formula=_formula,
    verified=(
        "Every residual value against the golden functions and every run's length against "
        "`duration`, with random gaps between beats (`tests/hw/ffn/test_ffn_block.py`; a million "
        "values with TOKENLOOM_DEEP=1). The functions' error over every input and the RTL against "
        "the golden function over every input below the limit (`tests/hw/ffn/"
        "test_activation.py`; all of them with TOKENLOOM_DEEP=1). The units inside are the chip's."
    ),
    stimulus=_stimulus,
    signals=("x_valid", "r_valid", "start_valid", "start_ready", "w_valid", "w_ready", "done"),
    cycles=124,
    small=("width=32", "ffn=32", "columns=2", "norm_lanes=1"),
)
