"""The golden LayerNorm against rational numbers and floats."""

import math
from fractions import Fraction

import numpy as np
import pytest

from tokenloom.hw.norm.layer_norm import (
    layer_norm,
    layer_norm_epsilon,
    layer_norm_sums,
    root_bits,
)
from tokenloom.hw.numbers import formats as fx

MAX, MIN = 2**31 - 1, -(2**31)


def test_root_bits():
    for width in [*range(1, 70), 4095, 4096, 4097, 1 << 16]:
        e = root_bits(width)
        assert 4**e >= width and (e == 0 or 4 ** (e - 1) < width)


def test_sums_are_exact():
    rng = np.random.default_rng(1)
    rows = rng.integers(MIN, MAX, (3, 1000), endpoint=True)
    rows[1] = MIN
    found = layer_norm_sums(rows, 5)
    for row, total in zip(rows.tolist(), found, strict=True):
        mean = Fraction(sum(row), len(row))
        variance = sum((v - mean) ** 2 for v in row) / len(row)
        assert total == variance * len(row) ** 2 * 2**16 + 5
    assert found[1] == 5  # a row of equal values has no variance


@pytest.mark.parametrize("width", [2, 33, 768])
def test_is_layer_norm(width):
    """Within the root's 2^-16 and the one rounding, over gains, biases and magnitudes."""
    rng = np.random.default_rng(width)
    rows = rng.integers(-(2**24), 2**24, (6, width)) >> np.array([[0], [4], [8], [12], [16], [20]])
    rows[0] += 2**30  # a mean that dwarfs the deviations
    rows[5] = 0
    rows[5, 0] = MIN
    gain = rng.integers(-32767, 32768, width)
    bias = rng.integers(-(2**20), 2**20, width)
    eps = layer_norm_epsilon(width, 1e-5, 10)
    y, k = fx.rsqrt_rows(layer_norm_sums(rows, eps))
    value, count = layer_norm(rows, gain, bias, y, k)
    assert count == 0
    centred = [[width * v - sum(row) for v in row] for row in rows.tolist()]
    root = [math.sqrt(s / 2**16) for s in layer_norm_sums(rows, eps)]
    unit = 2.0 ** (16 - root_bits(width))
    for r, line in enumerate(centred):
        exact = np.array([c / root[r] for c in line]) * gain * unit
        error = np.abs(value[r] - bias - exact)
        assert (error <= np.abs(exact) * 2.0**-16 + 0.5001).all()


def test_a_value_that_stands_alone_reaches_the_bound():
    """sqrt(D - 1) times the largest gain still fits 32 bits."""
    row = np.zeros((1, 4096), dtype=np.int64)
    row[0, 7] = MIN
    y, k = fx.rsqrt_rows(layer_norm_sums(row, 1))
    value, count = layer_norm(row, np.full(4096, 32767), np.zeros(4096, dtype=int), y, k)
    assert count == 0
    assert abs(value[0, 7] / (-math.sqrt(4095) * 32767 * 2.0 ** (16 - 6)) - 1) < 2.0**-15
    # The bias is added exactly and may clamp.
    value, _ = layer_norm(row, np.full(4096, 32767), np.full(4096, MIN), y, k)
    assert value[0, 7] == MIN and (value[0, :7] > MIN).all()
