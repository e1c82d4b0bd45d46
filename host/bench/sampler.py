"""Sampler: the distribution of its tokens, and the chip's sampler against the golden function."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tokenloom.host.bench.registry import Figure, group
from tokenloom.host.bench.runs import STORY, prepared

if TYPE_CHECKING:
    import numpy.typing as npt

_row = group("Sampler")

_DRAWS, _CHUNK = 200_000, 5_000
_FRACTION = 20
_TEMPERATURE = 0.9
_CUTS: tuple[dict[str, Any], ...] = (
    {},
    {"top_k": 12},
    {"top_p": 0.85},
    {"min_p": 0.05},
    {"top_k": 30, "top_p": 0.9, "min_p": 0.01},
)
_LOGITS = 100_000  # that the chip's sampler takes in for its row, and more


def _deviation(logits: npt.NDArray[Any], cuts: dict[str, Any], seed: int) -> float:
    """Chi-square of draws against what the cut-offs leave of the softmax: standard deviations."""
    import numpy as np

    from tokenloom.hw.sampler.candidates import choose, scores
    from tokenloom.hw.sampler.settings import make_settings

    settings = make_settings(fraction_bits=_FRACTION, temperature=_TEMPERATURE, seed=seed, **cuts)
    found = choose(logits, 0, settings)
    left = np.sort(found.ids[: found.kept]) if settings.cuts else np.arange(len(logits))
    counts = np.zeros(len(left))
    for start in range(0, _DRAWS, _CHUNK):
        position = np.arange(start, start + _CHUNK)[:, None]
        drawn = np.argmax(scores(logits[left], left, position, settings), axis=1)
        counts += np.bincount(drawn, minlength=len(left))
    weights = np.exp((logits[left] - logits.max()) / 2.0**_FRACTION / _TEMPERATURE)
    expected = _DRAWS * weights / weights.sum()
    rare = expected < 10
    if rare.any():
        counts = np.append(counts[~rare], counts[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    statistic = float((np.square(counts - expected) / expected).sum())
    freedom = len(counts) - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)


@_row("sampler_chi2", "standard deviations", "within ± 4", how="golden model")
def sampler_chi2() -> Figure:
    """The draws' chi-square, furthest from its mean."""
    import numpy as np

    logits = np.round(np.random.default_rng(8).normal(0, 1.8, 200) * 2**_FRACTION).astype(np.int64)
    found = [_deviation(logits, cuts, 2027) for cuts in _CUTS]
    each = "; ".join(
        f"{' '.join(f'{name} {value}' for name, value in cuts.items()) or 'no cut'}: {value:+.2f}"
        for cuts, value in zip(_CUTS, found, strict=True)
    )
    worst = max(found, key=abs)
    detail = (
        f"chi-square of {_DRAWS:,} draws each among 200 ids at temperature {_TEMPERATURE} against "
        f"the float64 softmax of what the cut-offs leave, as (statistic - freedom) / "
        f"sqrt(2 freedom): {each}"
    )
    return Figure(value=worst, detail=detail, ok=abs(worst) < 4)


@_row("sampler_rtl", "tokens equal", "all", how="simulated")
def sampler_rtl() -> Figure:
    """The chip's sampler with every setting against the golden function, on the chip's logits."""
    from tokenloom.host import progress
    from tokenloom.host.session import predictor
    from tokenloom.sim.chip_device import ChipDevice
    from tokenloom.sim.request import Sampling

    ready, model = prepared("tiny", "mini", ())
    with progress.steps() as step:
        chip = ChipDevice(model, ready.hardware, step)
    prompt = ready.text.encode(STORY)
    vocab, new = model.shape.vocab, 32
    tokens = equal = exact = 0
    more: list[int] = []
    number = 0
    while tokens * vocab < _LOGITS:
        cuts = _CUTS[number % len(_CUTS)]
        sampling = Sampling(
            temperature=0.7 + 0.1 * (number % 7),
            seed=number,
            repetition_penalty=1.0 if number % 2 else 1.15,
            logit_bias=((number, 1.5), (number + 9, -1.5)) if number % 3 else (),
            **cuts,
        )
        plain, schedule = predictor(chip), predictor(chip, sampling)
        seen = list(prompt)
        for record in chip.generate(prompt, new, sampling=sampling):
            if record.token is None or record.logits is None:
                continue
            cycles = schedule(record.rows, record.pos, True).cycles
            exact += record.scheduled == cycles
            logits, last = record.logits[-1], record.pos + record.rows - 1
            equal += record.token == sampling.choose(model, logits, last, seen)
            more.append(cycles - plain(record.rows, record.pos, True).cycles)
            seen.append(record.token)
            tokens += 1
        number += 1
    chip.close()
    detail = (
        f"tiny on 'mini', {number} requests with every mixture of top-k, top-p, min-p, penalty and "
        f"bias: {tokens * vocab:,} logits, {tokens} tokens, {equal} equal; {exact} of their passes "
        f"have the predicted length, up to {max(more)} belt cycles longer than without"
    )
    return Figure(value=equal, detail=detail, ok=equal == tokens == exact)
