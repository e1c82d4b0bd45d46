"""Systolic attention in the catalog."""

from __future__ import annotations

from typing import Any

from tokenloom.hw.attention.softmax import Softmax
from tokenloom.hw.attention.systolic_attention import SystolicAttention
from tokenloom.hw.catalog.spec import BlockSpec, Parameter, Timing
from tokenloom.hw.numbers.formats import BLOCK

__all__ = ["SPEC"]


def _timing(
    *,
    columns: int,
    rows: int,
    drain: int,
    slots: int,
    tokens_max: int,
    head_max: int,
    score_tokens: int,
) -> list[Timing]:
    block = SystolicAttention(
        columns=columns, rows=rows, drain=drain, slots=slots, tokens_max=tokens_max,
        head_max=head_max, score_tokens=score_tokens,
    )  # fmt: skip
    found = []
    # In chunks the keys of all but the last one come twice.
    closed = ""
    if not 0 < score_tokens < tokens_max:
        closed = "⌈T/columns⌉·⌈head_max/32⌉ + ⌈T/32⌉·⌈head_max/min(columns, 32)⌉"
    for tokens in sorted({min(128, tokens_max), tokens_max}):
        scores = min(tokens, score_tokens or tokens)
        words = -(-scores // BLOCK) * BLOCK // drain
        found.append(
            Timing(
                f"softmax of T = {scores} scores, a slot in each of {rows} rows",
                "⌈T / 32⌉·32 / drain + 9",
                Softmax.latency(1, words),
                "8 parallel groups" if drain == 8 else "",
            )
        )
        given = {"rows_used": 1, "group": min(rows, 4), "head_size": head_max, "tokens": tokens}
        one = block.timing(**given)
        call = f"timing({', '.join(f'{name}={value}' for name, value in given.items())})"
        found += [
            Timing(
                f"start to last context block, {tokens} tokens, {min(rows, 4)} heads, 1 row",
                f"{call}.last",
                one.last,
            ),
            Timing(
                f"beats of K and V per column, T = {tokens} tokens",
                closed or f"{call}.beats",
                one.beats,
            ),
        ]
    return found


async def _stimulus(ctx: Any, block: Any, parameters: dict[str, Any]) -> None:
    """One query of one head, a token of context: scores, a softmax, values, a block."""
    size = min(BLOCK, parameters["head_max"])
    for name, value in (
        ("rows_used", 1), ("group", 1), ("head_size", size), ("score_shift", 8),
    ):  # fmt: skip
        ctx.set(getattr(block, name), value)
    ctx.set(block.q_we, 1)
    ctx.set(block.q_codes, sum((i + 1) << 9 * i for i in range(size)))
    await ctx.tick()
    ctx.set(block.q_we, 0)
    ctx.set(block.start, 1)
    await ctx.tick()
    ctx.set(block.start, 0)
    # Every beat is the same, so it need not wait for `take`.
    ctx.set(block.codes, int.from_bytes(bytes(range(1, 33)) * parameters["columns"], "little"))


SPEC = BlockSpec(
    name="attention",
    title="Systolic attention",
    summary=(
        "softmax(q kT) v of a group of query heads over one KV head: K and V streamed once, exact "
        "maximum, causal and sliding-window masks, decode and prefill."
    ),
    parameters=(
        Parameter("columns", 8, "a power of two from 2 on", "Columns of the array (C)."),
        Parameter(
            "rows", 2, "a power of two up to 32", "Rows of the array (R): queries at a time."
        ),
        Parameter(
            "drain",
            8,
            "a power of two up to columns",
            "Scores that a row's softmax takes per cycle: 8 are eight parallel groups.",
        ),
        Parameter("slots", 2, "1 to 64", "Queries per row that share a beat in turn."),
        Parameter(
            "tokens_max", 256, "a multiple of 32 up to 131072; any in chunks", "Longest context."
        ),
        Parameter("head_max", 64, "a multiple of drain up to 256", "Longest head."),
        Parameter(
            "score_tokens",
            0,
            "0, or a power of two from 32 and columns on",
            "Tokens whose scores are held at a time, 0 for all; longer contexts come in chunks.",
        ),
    ),
    build=SystolicAttention,
    timing=_timing,
    formula=(
        "Points 9 to 12 of [numbers.md](../numbers.md): scores are exact sums of products of 9-bit "
        "query codes and int8 K codes, each block with a power-of-two shift, rounded once to 11 "
        "fraction bits of a base-2 logit. `p = 2^(score - max)` has 17 fraction bits, the "
        "denominator is their exact sum (35 bits). V's shifts are folded into the probabilities, "
        "which go through the same array as two int8 digits of a block of 32 tokens; the sum over "
        "V is exact and divided once, by a reciprocal of table and Newton step."
    ),
    verified=(
        "Its units on their own in `tests/hw/attention` and `tests/hw/array`, and together in the "
        "chip. The block as a whole has a bench against the golden functions, bit for bit, beat "
        "for beat and cycle for cycle (`tests/hw/attention/test_systolic_attention.py`)."
    ),
    stimulus=_stimulus,
    signals=("start", "ready", "take", "block_valid", "block_row", "block_index", "block_last"),
    cycles=80,
    small=("columns=2", "rows=1", "drain=2", "slots=1", "tokens_max=64", "head_max=32"),
)
