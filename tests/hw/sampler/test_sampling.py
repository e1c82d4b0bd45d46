"""Point 16: the generator's known answers, the noise's error, and the distribution of tokens."""

import math

import numpy as np
import pytest

from tests.deep import DEEP
from tokenloom.hw.numbers.formats import round_shift
from tokenloom.hw.numbers.tables import gumbel_segments
from tokenloom.hw.sampler import sampling
from tokenloom.hw.sampler.sampling import GREEDY_SCALE, gumbel, noise_scale, sample, threefry

MASK = 2**32 - 1
FRACTION = 20  # of the logits here
CHUNK = 5000  # draws at a time


@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((MASK, MASK), (MASK, MASK), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_known_answers(key, counter, words):
    """Vectors that Random123 publishes for threefry2x32 with 20 rounds."""
    assert tuple(int(x) for x in threefry(key[1] << 32 | key[0], *counter)) == words


def test_gumbel_error():
    """Both ends of every segment, the words nearest 0 and 1, and random ones."""
    rng = np.random.default_rng(1)
    starts = np.array([(16 + i) << k for k in range(28) for i in range(16)])
    near = np.unique(np.concatenate([np.arange(1 << 12), starts, starts - 1, starts + 1]))
    words = np.concatenate([near, MASK - near, rng.integers(0, 2**32, 1 << 20)])
    low = (words + np.longdouble(0.5)) / 2**32
    high = (MASK - words + np.longdouble(0.5)) / 2**32
    exact = -np.log(np.where(words < 2**31, -np.log(low), -np.log1p(-high)))
    error = np.abs(gumbel(words) / 2.0**16 - exact)
    assert 2.0e-4 < error.max() < 2.6e-4


def test_gumbel_fits_its_table():
    start, rise = np.array(gumbel_segments()).T
    assert len(start) == 1024
    assert np.abs(start).max() < 1 << 21 and np.abs(rise).max() < 1 << 13
    assert np.abs(gumbel(np.array([0, MASK]))).max() < 1 << 21


@pytest.mark.parametrize("fraction", [-13, 0, 12, 20, 31])
@pytest.mark.parametrize("temperature", [0.001, 0.3, 1.0, 1.9999999, 100.0])
def test_noise_scale(temperature, fraction):
    mantissa, shift = noise_scale(temperature, fraction)
    assert 1 << 15 <= mantissa < 1 << 16 and 0 <= shift <= 62
    value = math.ldexp(mantissa, sampling.NOISE_LEFT - shift)
    exact = math.ldexp(temperature, fraction + sampling.GUARD_BITS - 16)
    assert value == pytest.approx(exact, rel=2**-16)


def test_noise_scale_refuses():
    with pytest.raises(ValueError, match="temperature 0.001"):
        noise_scale(0.001, -20)
    with pytest.raises(ValueError, match="temperature 100"):
        noise_scale(100.0, 40)
    assert noise_scale(0.0, 99) == GREEDY_SCALE


def test_without_temperature_the_lowest_of_the_largest():
    assert sample([3, 7, 7, -1], 5, GREEDY_SCALE, 1) == 1


def test_equal_scores_give_the_lowest_id():
    """Noise far below a unit of the score is rounded away."""
    assert {sample([5, 5, 5], p, sampling.NoiseScale(1 << 15, 62), 1) for p in range(50)} == {0}


def draws(logits, temperature, count, seed):
    """`sample` at positions 0..count - 1, vectorised; [count] token ids."""
    scale = noise_scale(temperature, FRACTION)
    found = np.empty(count, dtype=np.int64)
    for start in range(0, count, CHUNK):
        position = np.arange(start, min(start + CHUNK, count))
        words, _ = threefry(seed, np.arange(len(logits)), position[:, None])
        noise = gumbel(words) * scale.mantissa << sampling.NOISE_LEFT
        noise = round_shift(noise, scale.shift)
        found[position] = np.argmax((logits << sampling.GUARD_BITS) + noise, axis=1)
        assert sample(logits, start, scale, seed) == found[start]
    return found


def chi_square(counts, probability):
    """Statistic and degrees of freedom; ids with fewer than 10 expected draws are one cell."""
    expected = probability * counts.sum()
    rare = expected < 10
    counts, expected = (
        np.append(a[~rare], a[rare].sum()) if rare.any() else a for a in (counts, expected)
    )
    return float((np.square(counts - expected) / expected).sum()), len(counts) - 1


@pytest.mark.parametrize("temperature", [0.25, 0.8, 1.0, 1.7])
def test_distribution_is_the_softmax(temperature):
    """Chi-square of 200,000 draws: below its mean plus 4 standard deviations."""
    count = 1_000_000 if DEEP else 200_000
    rng = np.random.default_rng(7)
    logits = np.round(rng.normal(0, 1.5, 40) * 2**FRACTION).astype(np.int64)
    scaled = logits / 2.0**FRACTION / temperature
    probability = np.exp(scaled - scaled.max())
    probability /= probability.sum()
    found = np.bincount(draws(logits, temperature, count, seed=2026), minlength=40)
    statistic, freedom = chi_square(found, probability)
    assert freedom >= 10
    assert abs(statistic - freedom) < 4 * math.sqrt(2 * freedom)
    # The test can fail: a temperature 5 % off is far out.
    wrong = np.exp((scaled - scaled.max()) / 1.05)
    statistic, freedom = chi_square(found, wrong / wrong.sum())
    assert statistic > freedom + 8 * math.sqrt(2 * freedom)


def test_positions_and_seeds_are_independent():
    """Pairs of tokens of neighbouring positions and of neighbouring seeds fill their cells."""
    count, vocab = 100_000, 8
    logits = np.zeros(vocab, dtype=np.int64)
    first, other = (draws(logits, 1.0, count, seed) for seed in (5, 6))
    even = np.full(vocab * vocab, 1 / vocab**2)
    for a, b in ((first[:-1], first[1:]), (first, other)):
        pairs = np.bincount(a * vocab + b, minlength=vocab * vocab)
        statistic, freedom = chi_square(pairs, even)
        assert abs(statistic - freedom) < 4 * math.sqrt(2 * freedom)
