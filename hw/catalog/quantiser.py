"""The quantiser in the catalog."""

from __future__ import annotations

from typing import Any

from tokenloom.hw.array.quantiser import Quantiser
from tokenloom.hw.catalog.spec import BlockSpec, Parameter, Timing
from tokenloom.hw.numbers.formats import BLOCK

__all__ = ["SPEC"]


def _timing(*, tag_bits: int, kv_bits: int) -> list[Timing]:
    return [
        Timing("latency", f"{Quantiser.LATENCY}", Quantiser.LATENCY),
        Timing("duration of a block of 32 values", "1", 1, "one vector per cycle"),
    ]


async def _stimulus(ctx: Any, block: Any, parameters: dict[str, Any]) -> None:
    """Three blocks, the last one narrow, with a gap before it."""
    await ctx.tick()
    for number, (scale, narrow) in enumerate([(3, 0), (1000, 0), (1000, 1)]):
        if narrow:
            ctx.set(block.in_valid, 0)
            await ctx.tick()
        values = [(scale * (i * 37 % 64 - 32)) & 0xFFFFFFFF for i in range(BLOCK)]
        ctx.set(block.in_values, sum(value << 32 * i for i, value in enumerate(values)))
        ctx.set(block.in_valid, 1)
        ctx.set(block.in_narrow, narrow)
        ctx.set(block.in_tag, number & (1 << parameters["tag_bits"]) - 1)
        await ctx.tick()
    ctx.set(block.in_valid, 0)


SPEC = BlockSpec(
    name="quantiser",
    title="Quantiser",
    summary="A block of 32 fixed32 values becomes codes of 9, 8 or 4 bits, a shift and their sum.",
    parameters=(
        Parameter("tag_bits", 8, "1 or more", "Width of the tag beside each block."),
        Parameter("kv_bits", 8, "8 or 4", "Bits of a code of K and V."),
    ),
    build=Quantiser,
    timing=_timing,
    formula=(
        "With b = 9 bits, or `kv_bits` for K and V: `M = OR_i (v_i < 0 ? ~v_i : v_i)`, "
        "`s = max(bitlen(M) - (b - 1), floor)`, `code_i = min(rs(v_i, s), 2^(b-1) - 1)`, "
        "`sx = s - floor`: point 7 of [numbers.md](../numbers.md)."
    ),
    verified=(
        "Bit for bit against `formats.mx` on random and corner blocks, with gaps and with stalls "
        "(`tests/hw/array/test_quantiser.py`), and as a part of the chip in every test of whole "
        "models."
    ),
    stimulus=_stimulus,
    signals=("in_valid", "in_narrow", "in_tag", "out_valid", "out_codes", "out_sx", "out_tag"),
    cycles=12,
)
