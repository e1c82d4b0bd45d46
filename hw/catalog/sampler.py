"""The sampler in the catalog."""

from __future__ import annotations

from typing import Any

from tokenloom.hw.catalog.spec import BlockSpec, Parameter, Timing, bit_table
from tokenloom.hw.sampler.candidates import BINS
from tokenloom.hw.sampler.noise import Noise
from tokenloom.hw.sampler.sampler import Sampler
from tokenloom.hw.sampler.settings import FIELDS, VOCAB_BITS_MAX, Settings, make_settings

__all__ = ["SPEC"]

_FRACTION = 20  # of the wave's logits
_LISTED = 4
_BITS_ALONE = 32  # of an id, without candidates


def _timing(*, vocab_bits: int, candidates: int) -> list[Timing]:
    found = [
        Timing("duration of a logit", "1", 1, "1 logit per lane per cycle"),
        Timing("first logit behind restart", f"{Noise.LEAD + 1}", Noise.LEAD + 1),
        Timing(
            "last logit to token, greedy or temperature",
            f"{Sampler.LATENCY}",
            Sampler.latency(Settings()),
        ),
    ]
    if candidates:
        rules = Settings(window=1)
        found.append(
            Timing(
                "... with penalty, bias or mask",
                f"{Sampler.latency(rules)}",
                Sampler.latency(rules),
            )
        )
        for count in sorted({min(40, candidates), candidates}):
            found.append(
                Timing(
                    f"... with top-k, top-p or min-p, count = {count}",
                    f"18 + max(count, {BINS}) + count",
                    Sampler.latency(Settings(count=count)),
                    "k = 40 to 64",
                )
            )
    return found


async def _stimulus(ctx: Any, block: Any, parameters: dict[str, Any]) -> None:
    """Six logits, greedily; with a list of four where there is one."""
    listed = min(_LISTED, parameters["candidates"])
    settings = make_settings(
        fraction_bits=_FRACTION, candidates=max(listed, 1), listed=bool(listed)
    )
    ctx.set(block.sampling, settings.word())
    await ctx.tick()
    ctx.set(block.restart, 1)
    await ctx.tick()
    ctx.set(block.restart, 0)
    # Without a temperature there is no noise to wait for.
    logits = [1.5, -0.25, 3.0, 2.0, 3.0, 0.5]
    for number, logit in enumerate(logits):
        ctx.set(block.in_valid, 1)
        ctx.set(block.in_logit, int(logit * 2**_FRACTION))
        ctx.set(block.in_start, number == 0)
        ctx.set(block.in_last, number == len(logits) - 1)
        await ctx.tick()
    ctx.set(block.in_valid, 0)


def _build(*, vocab_bits: int, candidates: int) -> Sampler:
    if candidates and VOCAB_BITS_MAX < vocab_bits <= _BITS_ALONE:
        raise ValueError(
            f"vocab_bits = {vocab_bits} is impossible with candidates = {candidates}: allowed is "
            f"1..{VOCAB_BITS_MAX}, or 1..{_BITS_ALONE} with candidates = 0"
        )
    return Sampler(vocab_bits=vocab_bits, candidates=candidates)


SPEC = BlockSpec(
    name="sampler",
    title="Sampler",
    summary=(
        "The next token from a row's logits: greedy, temperature, top-k, top-p, min-p, repetition "
        "penalty, bias, mask, and the logarithms of the largest probabilities."
    ),
    parameters=(
        Parameter("vocab_bits", 17, "1 to 20; 1 to 32 with candidates=0", "Width of a token id."),
        Parameter(
            "candidates", 64, "0, or 2 to 64",
            "Ids in the list in which the cut-offs cut; 0: greedy and temperature only.",
        ),
    ),
    build=_build,
    timing=_timing,
    formula=(
        "The largest of `logit + T g(seed, position, id)`, with `g` a Gumbel variable that "
        "Threefry-2x32-20 makes of a key (the seed) and a counter (id and position), is a draw "
        "from `softmax(logits / T)`: point 16 of [numbers.md](../numbers.md). Penalty, bias and "
        "mask change the logits before (point 17), an exact sum of powers over the vocabulary "
        "and the sorted list of the largest logits beside it (point 18) are what top-k, top-p and "
        "min-p cut in (point 19). With the cut-offs off the token is that of all ids; top-p or "
        "min-p alone choose among the `candidates` largest.\n\n"
        "The bits of `sampling`, which `hw.sampler.settings.make_settings` makes of people's "
        "numbers:\n\n"
        + bit_table(FIELDS.items())
    ),
    verified=(
        "Bit for bit (token, list, logarithms, sum) against `candidates.choose` on rows with ties, "
        "extremes and every mixture of settings, with gaps and with stalls "
        "(`tests/hw/sampler/test_candidates_rtl.py`); chi-square over 200,000 draws per setting "
        "of the golden function against the softmax of what is left, and its cut-offs against "
        "floating point (`tests/hw/sampler/test_candidates.py`); in the chip against the golden "
        "model, token by token and cycle by cycle, for several array shapes "
        "(`tests/test_sampling.py`)."
    ),
    stimulus=_stimulus,
    signals=(
        "restart", "in_valid", "in_logit", "in_last", "token", "token_valid", "list_valid",
        "list_id", "list_log",
    ),
    cycles=66,
    small=("candidates=8",),
)  # fmt: skip
