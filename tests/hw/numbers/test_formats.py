"""Each rounding point against exact rational numbers or against floats with a stated bound."""

import math
from fractions import Fraction

import numpy as np
import pytest

from tokenloom.hw.numbers import formats as fx
from tokenloom.hw.numbers import tables

MAX, MIN = 2**31 - 1, -(2**31)


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def floor_half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def test_bit_length(rng):
    values = [0, 1, 2, 3, 2**31 - 1, 2**31, 2**52, 2**53 - 1, *rng.integers(0, 2**53, 1000)]
    assert fx.bit_length(values).tolist() == [int(v).bit_length() for v in values]


@pytest.mark.parametrize("shift", [0, 1, 2, 16, 31, 61])
def test_round_shift(rng, shift):
    values = [0, 1, -1, 2, -2, 3, -3, MAX, MIN, *rng.integers(-(2**61), 2**61, 200)]
    expected = [floor_half_up(Fraction(int(v), 1 << shift)) for v in values]
    assert fx.round_shift(values, shift).tolist() == expected


def test_sat32_counts():
    value, count = fx.sat32([MAX, MAX + 1, MIN, MIN - 1, 0])
    assert value.tolist() == [MAX, MAX, MIN, MIN, 0]
    assert count == 2


@pytest.mark.parametrize("shift", [0, 1, 20, 40, 62, 63])
def test_drain_of_any_accumulator(rng, shift):
    values = [2**63 - 1, -(2**63), 0, -1, 1 << 62, *rng.integers(-(2**63), 2**63 - 1, 500)]
    exact = [floor_half_up(Fraction(int(v), 1 << shift)) for v in values]
    value, count = fx.drain(values, shift)
    assert value.tolist() == [min(max(v, MIN), MAX) for v in exact]
    assert count == sum(not MIN <= v <= MAX for v in exact)


def test_drain_refuses_a_shift():
    with pytest.raises(ValueError, match="64"):
        fx.drain([0], 64)


def test_decode_scale_is_fp16():
    bits = np.arange(1 << 16, dtype=np.uint16)
    finite = np.isfinite(bits.view(np.float16))
    mantissa, shift = fx.decode_scale(bits)
    value = np.ldexp(mantissa.astype(float), shift - 24)
    assert np.array_equal(value[finite], bits[finite].view(np.float16).astype(float))


def test_embed(rng):
    codes = rng.integers(-128, 128, (5, 2, 32)).astype(np.int8)
    scale = rng.uniform(0.001, 0.1, (5, 2)).astype(np.float16)
    minimum = rng.uniform(-0.1, 0.1, (5, 2)).astype(np.float16)
    value, count = fx.embed(codes, scale.view(np.uint16), minimum.view(np.uint16), 24 - 14)
    exact = codes * scale.astype(float)[..., None] + minimum.astype(float)[..., None]
    assert np.array_equal(value, np.floor(np.ldexp(exact, 14) + 0.5))
    assert count == 0


def test_residual_saturates():
    value, count = fx.residual([MAX, MIN, 5], [1, -1, -6])
    assert (value.tolist(), count) == ([MAX, MIN, -1], 2)


def test_sum_squares(rng):
    rows = rng.integers(MIN, MAX, (3, 4096), endpoint=True)
    rows[0] = MIN
    assert fx.sum_squares(rows) == [sum(int(v) ** 2 for v in row) for row in rows]


def test_rsqrt_error_of_every_mantissa():
    """|y / (2^17 / sqrt(m)) - 1| < 2^-16 for every sum: integers only, no sample.

    A sum is `m 4^k` with m in [m22, m22 + 1) / 2^22, so both ends of that interval bound the error
    of all sums with the mantissa m22; and y depends on nothing but m22.
    """
    one, frac = 1 << 16, fx.RSQRT_FRAC
    for start in range(1 << 22, 1 << 24, 1 << 20):
        m22 = np.arange(start, start + (1 << 20), dtype=np.int64)
        square = fx.rsqrt_mantissa(m22) ** 2
        # y^2 m > (1 - 2^-16)^2 4^17 and y^2 m < (1 + 2^-16)^2 4^17, times 2^22; below 2^59.
        assert (square * m22 > (one - 1) ** 2 << (2 * frac + 22 - 32)).all()
        assert (square * (m22 + 1) <= (one + 1) ** 2 << (2 * frac + 22 - 32)).all()


def test_rsqrt_error(rng):
    totals = [1, 2, 3, 4, 5, 2**93 - 1, 2**92, 2**92 - 1, 2**91]
    totals += [int(m) << int(s) for m, s in zip(
        rng.integers(1, 2**40, 3000), rng.integers(0, 53, 3000), strict=True)]  # fmt: skip
    worst = Fraction(0)
    for total in totals:
        y, k = fx.rsqrt(total)
        assert 1 << 16 <= y < 1 << 17 and 0 <= k <= 46
        # (y / 2^(17+k))^2 S = (1 + error)^2
        square = Fraction(y * y * total, 1 << (34 + 2 * k))
        worst = max(worst, abs(square - 1) / 2)
    assert worst < Fraction(1, 2**16)


def test_rsqrt_refuses_zero():
    with pytest.raises(ValueError, match="0"):
        fx.rsqrt(0)


def test_norm_is_rmsnorm(rng):
    rows = rng.integers(-(2**20), 2**20, (4, 96))
    rows[3] = 0
    rows[3, 5] = MIN  # the extreme: one value has the whole norm
    gain = rng.integers(-32767, 32768, 96)
    gain[5] = 32767
    y, k = fx.rsqrt_rows(fx.norm_sums(fx.sum_squares(rows), 1 << 16))
    value, _ = fx.norm(rows, gain, y, k)
    root = np.sqrt([float(s + 1) for s in fx.sum_squares(rows)])[:, None]
    exact = rows / root * gain * 65536.0
    assert np.abs(value - exact).max() <= np.abs(exact).max() * 2.0**-16 + 0.5001


@pytest.mark.parametrize("bits", [8, 9])
@pytest.mark.parametrize("floor", [0, 3, 20])
def test_mx_quantise(rng, floor, bits):
    values = rng.integers(MIN, MAX, (200, 32), endpoint=True) >> rng.integers(0, 31, (200, 1))
    values[0], values[1], values[2], values[3] = 0, -1, MIN, MAX
    codes, shift, sums = fx.mx_quantise(values, floor, bits)
    top = 1 << (bits - 1)
    assert codes.min() >= -top and codes.max() <= top - 1
    assert shift.min() >= 0 and shift.max() <= 32 - bits - floor
    assert np.array_equal(sums, codes.sum(axis=1))
    unit = 1 << (shift + floor)[:, None]
    error = np.abs(codes * unit - values)
    assert (2 * error <= np.where(codes == top - 1, 2, 1) * unit).all()
    # No shift smaller by one would do, unless the floor forbids it.
    tight = np.abs(codes).max(axis=1) >= top // 2
    assert (tight | (shift == 0)).all()


def test_rope_coefficients_match_cosine(rng):
    freq = np.array(tables.rope_frequencies(10000.0, 64))
    position = np.array([0, 1, 2, 511, 8191, 100000])
    cosine, sine = fx.rope_coefficients(position, freq)
    step = (((position[:, None] * freq) & 0xFFFFFFFF) >> 19) + 0.5
    angle = step * 2 * np.pi / 8192
    assert np.abs(cosine - 65535 * np.cos(angle)).max() <= 0.5001
    assert np.abs(sine - 65535 * np.sin(angle)).max() <= 0.5001
    true = position[:, None] * 10000.0 ** (-2 * np.arange(32) / 64)
    turn = np.angle(np.exp(1j * (angle - true)))
    # Half a step, plus what rounding the frequency adds up to.
    assert (np.abs(turn) < np.pi / 8192 + (position[:, None] + 1) * np.pi / 2**32 + 1e-9).all()


@pytest.mark.parametrize("head_size", [8, 48, 64, 128])
def test_score_factor(head_size):
    kappa, exponent = tables.score_factor(head_size)
    assert 1 << 15 <= kappa < 1 << 16
    assert math.isclose(
        kappa * 2.0 ** (exponent - 16), math.log2(math.e) / math.sqrt(head_size), rel_tol=2**-15
    )


def test_rope_rotates(rng):
    values = rng.integers(-(2**29), 2**29, (7, 3, 8))
    freq = np.array(tables.rope_frequencies(10000.0, 8))
    kappa, _ = tables.score_factor(8)
    for factor, scale in ((None, 1.0), (kappa, kappa / 65536)):
        cosine, sine = fx.rope_coefficients(np.arange(7), freq, factor)
        turned, count = fx.rope(values, cosine[:, None], sine[:, None])
        x = values[..., 0::2] + 1j * values[..., 1::2]
        y = turned[..., 0::2] + 1j * turned[..., 1::2]
        assert count == 0
        assert np.abs(np.abs(y) / (np.abs(x) * scale) - 1).max() < 5e-5
    _, count = fx.rope([MIN, MIN], [40000], [-40000])
    assert count == 1


def test_relative_rotation_is_all_that_scores_see(rng):
    # The half step of the table turns q and k alike, so q.k depends on the distance only.
    q, k = rng.integers(-(2**24), 2**24, (2, 64))
    freq = np.array(tables.rope_frequencies(10000.0, 64))
    true = 10000.0 ** (-2 * np.arange(32) / 64)
    (cq, sq), (ck, sk) = fx.rope_coefficients(100, freq), fx.rope_coefficients(93, freq)
    score = (fx.rope(q, cq, sq)[0].astype(float) * fx.rope(k, ck, sk)[0]).sum()
    pairs = (q[0::2] + 1j * q[1::2]) * np.conj(k[0::2] + 1j * k[1::2])
    expected = (pairs * np.exp(7j * true)).real.sum()
    assert abs(score - expected) < 3 * 2 * np.pi / 8192 * np.abs(pairs).sum() / math.sqrt(32)


def test_exp2(rng):
    scores = rng.integers(-60000, 60000, (6, 70))
    mask = np.tri(6, 70, 10, dtype=bool)
    p, den = fx.exp2(scores, mask)
    best = np.where(mask, scores, MIN).max(axis=1, keepdims=True)
    exact = np.where(mask, 2.0**17 * np.exp2((scores - best) / 2048.0), 0)
    assert np.abs(p - exact).max() <= 1.0
    assert (p.max(axis=1) == 1 << 17).all()
    assert np.array_equal(den, p.sum(axis=1))
    far, _ = fx.exp2([MAX, MIN, MIN + 1])
    assert far.tolist() == [1 << 17, 0, 0]


def test_prob_quantise(rng):
    weights = rng.integers(0, 2**17, (300, 32), endpoint=True) << rng.integers(0, 25, (300, 32))
    weights[:100] >>= rng.integers(0, 41, (100, 1))
    weights[0] = 0
    codes, shift = fx.prob_quantise(weights)
    assert codes.min() >= 0 and codes.max() <= fx.PROB_CODE_MAX
    unit = 1 << shift[:, None]
    error = np.abs(codes * unit - weights)
    assert (2 * error <= np.where(codes == fx.PROB_CODE_MAX, 257, 1) * unit).all()
    high, low = fx.prob_split(np.arange(fx.PROB_CODE_MAX + 1))
    assert np.array_equal(256 * high + low, np.arange(fx.PROB_CODE_MAX + 1))
    assert (low.min(), low.max(), high.min(), high.max()) == (-128, 127, 0, 127)


def test_reciprocal(rng):
    den = np.concatenate(
        [[1, 2, 3, 2**17, 2**30 - 1, 2**30, 2**34, 2**35 - 1], rng.integers(1, 2**35, 5000)]
    )
    result = fx.reciprocal(den)
    exact = np.exp2(16.0 + fx.bit_length(den)) / den
    assert result.max() <= 131071
    assert np.abs(result / exact - 1).max() < 2.0**-16


def test_largest_scores(rng):
    scores = rng.integers(-9, 9, (4, 3, 50))
    mask = np.arange(50) <= rng.integers(0, 50, (3, 1))
    for count in (1, 5, 49, 50, 80):
        kept = fx.largest_scores(scores, mask, count)
        assert not (kept & ~mask).any()
        for place in np.ndindex(4, 3):
            row = scores[place][mask[place[1]]]
            threshold = np.sort(row)[::-1][min(count, len(row)) - 1]
            assert np.array_equal(scores[place][kept[place]], row[row >= threshold])


def test_context_with_a_floor(rng):
    """The floor comes off the shift, which is the same as a larger accumulator."""
    for floor in range(18):
        den = rng.integers(2**17, 2**34, 50)
        acc = rng.integers(-(2**44), 2**44, 50)
        value, _ = fx.context(acc, den, floor)
        larger, _ = fx.context(acc << floor, den, 0)
        assert np.array_equal(value, larger)


def test_context(rng):
    den = rng.integers(2**17, 2**26, 1000)
    mean = rng.uniform(-(2.0**30), 2.0**30, 1000)
    acc = (mean * den).astype(np.int64)
    value, count = fx.context(acc, den, 0)
    assert count == 0
    assert np.abs(value - acc / den).max() <= 2.0**30 * 2.0**-16 + 2


def test_silu_error():
    gate = np.concatenate(
        [np.arange(-13 << 16, 13 << 16, 7), [MIN, MAX, 0, 12 << 16, (12 << 16) - 1, -12 << 16]]
    )
    x = gate / 65536.0
    exact = 0.5 * x * (1 + np.tanh(x / 2))
    error = np.abs(fx.silu(gate) / 65536.0 - exact)
    assert error.max() < 12e-4  # 0.01 % of 12
    assert error.max() < 2.1e-4  # what it is in fact
    assert fx.silu([0]).tolist() == [0]
    result = fx.silu(gate)
    assert result.min() >= MIN and result.max() <= MAX


def test_silu_operands_fit_the_pipeline():
    c0, c1, c2 = np.array(fx.silu_coefficients()).T
    assert c0.min() >= 0 and c0.max() < 2**24
    assert np.abs(c1).max() < 1 << 21 and np.abs(c2).max() < 1 << 16
    slope = np.abs(c1) + (np.abs(c2) * 65535 >> fx.SILU_SLOPE_SHIFT) + 1
    assert slope.max() < 1 << 22


def test_swiglu(rng):
    gate, up = rng.integers(-(10 << 16), 10 << 16, (2, 1000))
    value, _ = fx.swiglu(gate, up, 20)
    exact = fx.silu(gate).astype(object) * up.astype(object)
    assert value.tolist() == [floor_half_up(Fraction(int(v), 1 << 20)) for v in exact]
    extreme, count = fx.swiglu([MAX], [MIN], 0)
    assert (extreme.tolist(), count) == ([MIN], 1)


def test_tables_against_libm():
    i = np.arange(256, 1024)
    assert np.array_equal(
        np.array(fx.rsqrt_table())[256:],
        np.minimum(np.rint(65536 / np.sqrt((i + 0.5) / 256)), 65535),
    )
    i = np.arange(512, 1024)
    assert np.array_equal(fx.recip_table(), np.rint(2.0**26 / (i + 0.5)))
    i = np.arange(2048)
    assert np.array_equal(fx.exp2_table(), np.rint(np.exp2(17 - i / 2048)))
    assert np.array_equal(fx.sine_table(), np.rint(65535 * np.sin((i + 0.5) * np.pi / 4096)))


def test_scaled_epsilon():
    assert tables.scaled_epsilon(64, 1e-7, 0) == 1
    assert tables.scaled_epsilon(64, 2.0**-10, 14) == 64 << (18 + 16)
    assert tables.scaled_epsilon(64, 1e-5, -10) == 1
    # What rounding leaves of it: below 2^-24 of itself from D eps 4^f >= 2^7 on.
    exact = 576 * Fraction(1e-5) * 4**10 * 2**16
    assert abs(tables.scaled_epsilon(576, 1e-5, 10) / exact - 1) < Fraction(1, 2**24)


def test_norm_of_a_row_that_epsilon_outweighs():
    """r^2 far below epsilon: the shift is the smallest that a row with a value can have."""
    row = np.zeros((1, 32), dtype=np.int64)
    row[0, 3] = 1
    for eps in (1, 3 << 14, 1 << 16, 5 << 40):
        y, k = fx.rsqrt_rows(fx.norm_sums(fx.sum_squares(row), eps))
        assert k[0] >= 8
        value, _ = fx.norm(row, np.full(32, 32767), y, k)
        assert abs(value[0, 3] - 32767 * 65536 / math.sqrt(1 + eps / 65536)) <= 2.0**15 + 1
        y, k = fx.rsqrt_rows(fx.norm_sums([0], eps))
        assert not fx.norm(0 * row, np.full(32, 32767), y, k)[0].any()
