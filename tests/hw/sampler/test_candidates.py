"""Points 17 to 19: rules, sums, cut-offs and the distribution of tokens, against floating point."""

import math

import numpy as np
import pytest

from tests.deep import DEEP
from tests.hw.sampler.test_sampling import FRACTION, chi_square
from tokenloom.hw.numbers.tables import LOG2_FRAC, log2_segments
from tokenloom.hw.sampler.candidates import (
    UNIT_BITS,
    adjust,
    choose,
    log2_total,
    log_probabilities,
    power_sum,
    powers,
    scores,
)
from tokenloom.hw.sampler.sampling import sample
from tokenloom.hw.sampler.settings import Settings, bias_table, make_settings, power_scale

UNIT = 2.0**FRACTION


def some_logits(seed, size, spread=2.0):
    rng = np.random.default_rng(seed)
    return np.round(rng.normal(0, spread, size) * UNIT).astype(np.int64)


def softmax(logits, temperature):
    scaled = logits / UNIT / temperature
    weights = np.exp(scaled - scaled.max())
    return weights / weights.sum()


def cut(logits, temperature, top_k, top_p, min_p):
    """What other programs leave, largest first, and how near the next decision was."""
    order = np.argsort(-logits, kind="stable")[: top_k or 64]
    share = softmax(logits, temperature)[order]
    if top_k:
        share = share / share.sum()
    before = np.concatenate([[0], np.cumsum(share)[:-1]])
    margin = min(
        np.abs(before / top_p - 1).min(), np.abs(share / share[0] / (min_p or 9) - 1).min()
    )
    return order[(before < top_p) & (share >= min_p * share[0])], margin


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_cut_offs_are_those_of_floating_point(temperature):
    rng = np.random.default_rng(3)
    compared = 0
    for number in range(400):
        logits = some_logits(number, int(rng.integers(1, 400)), spread=rng.choice([0.5, 2, 5]))
        top_k = int(rng.choice([0, 1, 5, 64]))
        top_p, min_p = float(rng.choice([1, 0.3, 0.9, 0.99])), float(rng.choice([0, 0.02, 0.5]))
        left, margin = cut(logits, temperature, top_k, top_p, min_p)
        settings = make_settings(
            fraction_bits=FRACTION, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
        )
        if margin > 2e-3 and settings.cuts:
            found = choose(logits, 0, settings)
            assert found.ids[: found.kept] == left.tolist(), f"row {number}: {settings}"
            assert found.token in left
            compared += 1
    assert compared > 200


def test_sum_and_logarithm():
    """The exact sum does not depend on the order; the logarithms are those of the softmax."""
    rng = np.random.default_rng(5)
    for temperature, spread in ((0.2, 1.0), (1.0, 3.0), (100.0, 50.0)):
        logits = some_logits(7, 5000, spread)
        settings = make_settings(fraction_bits=FRACTION, temperature=temperature, listed=True)
        total, octave = power_sum(*powers(logits, settings))
        assert power_sum(*powers(rng.permutation(logits), settings)) == (total, octave)
        logs = log_probabilities(logits, settings, total, octave) * math.log(2) / 2**LOG2_FRAC
        exact = np.log(softmax(logits, temperature))
        # The temperature's own error goes with the distance from the mean.
        bound = 4e-4 + 2**-16 * np.abs(logits / UNIT / temperature).max()
        assert np.abs(logs - exact).max() < bound
        assert np.abs(logs - exact).max() > 1e-5


def test_what_lies_32_octaves_below_does_not_count():
    settings = make_settings(fraction_bits=FRACTION, temperature=1.0, listed=True)
    for gap, counts in ((30.9, True), (33.1, False)):
        logits = np.array([0, -round(gap * math.log(2) * UNIT)])
        total, _ = power_sum(*powers(logits, settings))
        assert (total > 1 << UNIT_BITS) == counts


def test_log2_error():
    starts = np.array(log2_segments())
    assert starts[:, 0].max() < 1 << 17 and 0 <= starts[:, 1].min() and starts[:, 1].max() < 1 << 9
    rng = np.random.default_rng(1)
    totals = [*range(1, 600), *(int(x) for x in rng.integers(1, 2**62, 20000)), 1 << 68]
    error = max(abs(log2_total(t) / 2**LOG2_FRAC - (math.log2(t) - UNIT_BITS)) for t in totals)
    assert 1e-5 < error < 1.5 * 2**-LOG2_FRAC


def test_rules():
    """As others do: a penalty divides logits above zero and multiplies those below; then biases."""
    logits = some_logits(11, 300)
    settings = make_settings(fraction_bits=FRACTION, penalty=1.3, biases=2)
    recent = [5, 9, 5, 200]
    found = adjust(logits, settings, recent, bias_table({7: 1.25, 9: -3.0}, FRACTION)) / UNIT
    want = logits / UNIT
    for token in (5, 9, 200):
        want[token] = want[token] / 1.3 if want[token] > 0 else want[token] * 1.3
    want[7] += 1.25
    want[9] -= 3.0
    assert np.abs(found - want).max() < 8 * 2**-14
    assert np.array_equal(np.delete(found, recent + [7, 9]), np.delete(want, recent + [7, 9]))


def test_window_and_table_are_cut():
    logits = np.array([5, 4, 3, 2]) << FRACTION
    one = make_settings(fraction_bits=FRACTION, penalty=3.9, window=2)
    assert choose(logits, 0, one, recent=[0, 2, 3]).token == 0  # 0 is no longer in the window
    assert choose(logits, 0, one, recent=[2, 3, 0]).token == 1
    biased = make_settings(fraction_bits=FRACTION, biases=1)
    table = [(3, 20 << FRACTION), (2, 30 << FRACTION)]
    assert choose(logits, 0, biased, biases=table).token == 3


def test_masks():
    logits = some_logits(2, 100)
    mask = np.ones(100, dtype=bool)
    mask[[17, 40]] = False
    for more in ({}, {"top_k": 5}, {"top_p": 0.5}):
        settings = make_settings(
            fraction_bits=FRACTION, temperature=1.0, seed=3, masked=True, **more
        )
        found = {choose(logits, position, settings, mask=mask).token for position in range(200)}
        assert found <= {17, 40} and (found == {17, 40} or more.get("top_p"))
        assert choose(logits, 1, settings, mask=np.ones(100, dtype=bool)).token == 0


def test_without_a_cut_the_token_is_that_of_the_plain_sampler():
    """A list that cuts nothing off, and no list at all: the same noise, the same tokens."""
    logits = some_logits(4, 64)
    whole = make_settings(fraction_bits=FRACTION, temperature=1.2, seed=9, top_k=64)
    listed = make_settings(fraction_bits=FRACTION, temperature=1.2, seed=9, listed=True)
    assert whole.cuts and not listed.cuts
    for position in range(500):
        want = sample(logits, position, whole.scale, 9)
        assert choose(logits, position, whole).token == want
        assert choose(logits, position, listed).token == want
        assert choose(
            logits, position, Settings(**vars(whole) | dict(count=0, limited=0))
        ).token == (want)


def test_equal_logits_are_listed_by_id():
    settings = make_settings(fraction_bits=FRACTION, top_k=3)
    found = choose(np.array([1, 5, 5, 2, 5, 5]) << FRACTION, 0, settings)
    assert found.ids == [1, 2, 4] and found.token == 1


@pytest.mark.parametrize(
    "cuts",
    [dict(top_k=12), dict(top_p=0.85), dict(min_p=0.05), dict(top_k=30, top_p=0.9, min_p=0.01)],
    ids=str,
)
def test_distribution_is_the_softmax_of_what_is_left(cuts):
    """Chi-square of 200,000 draws from golden functions, as in test_sampling."""
    count, temperature = 1_000_000 if DEEP else 200_000, 0.9
    logits = some_logits(8, 500, 1.8)
    settings = make_settings(fraction_bits=FRACTION, temperature=temperature, seed=2027, **cuts)
    left, margin = cut(
        logits, temperature, cuts.get("top_k", 0), cuts.get("top_p", 1.0), cuts.get("min_p", 0.0)
    )
    assert margin > 1e-3
    found = choose(logits, 0, settings)
    assert sorted(found.ids[: found.kept]) == sorted(left)
    left = np.sort(left)
    drawn = np.empty(count, dtype=np.int64)
    for start in range(0, count, 5000):
        position = np.arange(start, start + 5000)
        drawn[position] = left[
            np.argmax(scores(logits[left], left, position[:, None], settings), axis=1)
        ]
        assert choose(logits, start, settings).token == drawn[start]
    counts = np.bincount(np.searchsorted(left, drawn), minlength=len(left))
    statistic, freedom = chi_square(counts, softmax(logits[left], temperature))
    assert freedom >= 8
    assert abs(statistic - freedom) < 4 * math.sqrt(2 * freedom)
    statistic, freedom = chi_square(counts, softmax(logits[left], temperature * 1.05))
    assert statistic > freedom + 8 * math.sqrt(2 * freedom)


def test_settings():
    settings = make_settings(fraction_bits=FRACTION, top_p=1e-9, min_p=1e-9)
    assert (settings.top_p, settings.min_p) == (1, 1)
    settings = make_settings(fraction_bits=FRACTION, top_p=1 - 1e-9, min_p=1 - 1e-9, penalty=2.0)
    assert (settings.top_p, settings.min_p, settings.up, settings.down) == (
        65535,
        65535,
        32768,
        8192,
    )
    assert bias_table({9: 1e9, 2: -1e9, 5: 0.5}, 4) == [(2, -(2**31)), (5, 8), (9, 2**31 - 1)]
    for temperature in (0.001, 1.0, 100.0):
        for fraction in (6, 20, 31):
            mantissa, shift = power_scale(temperature, fraction)
            exact = math.log2(math.e) / temperature * 2.0 ** (11 - fraction)
            assert math.ldexp(mantissa, -shift) == pytest.approx(exact, rel=2**-16)
    with pytest.raises(ValueError, match="temperature 0.001 is beyond what the cut-offs allow"):
        power_scale(0.001, 0)
    with pytest.raises(ValueError, match="count = 128 does not fit its 7 bits"):
        Settings(count=128)
