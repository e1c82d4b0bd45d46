"""Every rounding point of the machine as one named integer function (docs/numbers.md).

The golden model calls these functions; the tests of the RTL compare with them. All arrays are
int64 (or Python integers where 64 bits do not suffice), and every comment "fits" says why no
intermediate exceeds 64 bits. `rs(v, s)` in the text is `round_shift` here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tokenloom.hw.numbers.tables import (
    ACTIVATIONS,
    EPS_FRAC,
    SILU_C1_FRAC,
    SILU_C2_FRAC,
    activation_coefficients,
    exp2_table,
    recip_table,
    rsqrt_table,
    silu_coefficients,
    sine_table,
)

__all__ = [
    "ACC_BITS",
    "ACTIVATIONS",
    "ACTIVATION_BITS",
    "ACTIVATION_SHIFT_MAX",
    "BLOCK",
    "KV4_BITS",
    "KV_BITS",
    "KV_SHIFT_MAX",
    "PROB_CODE_MAX",
    "PROB_FRAC",
    "SCORE_FRAC",
    "SUM_BITS",
    "WEIGHT_BITS",
    "activate",
    "bit_length",
    "context",
    "decode_scale",
    "denominator_bits",
    "drain",
    "embed",
    "exp2",
    "exp2_table",
    "largest_scores",
    "mx_quantise",
    "norm",
    "norm_shift",
    "norm_sums",
    "prob_quantise",
    "prob_split",
    "recip_table",
    "reciprocal",
    "residual",
    "rope",
    "rope_coefficients",
    "round_shift",
    "rsqrt",
    "rsqrt_mantissa",
    "rsqrt_rows",
    "rsqrt_table",
    "sat32",
    "silu",
    "silu_coefficients",
    "sine_table",
    "sum_squares",
    "swiglu",
]

Int = npt.NDArray[np.int64]

BLOCK = 32  # values that share one scale or one shift
ACC_BITS = 64  # signed accumulator
FIXED_BITS = 32  # signed fixed point between operations
WEIGHT_BITS = 8  # codes of weights, signed: the w side of the array
KV_BITS = WEIGHT_BITS  # codes of K and V: weights to the array, bytes in memory
KV4_BITS = 4  # the same in pages of int4, two to a byte
ACTIVATION_BITS = 9  # codes of activations, signed: the x side of the array
SUM_BITS = ACTIVATION_BITS + 5  # sum of a block's activation codes, signed
ACTIVATION_SHIFT_MAX = 32 - ACTIVATION_BITS  # largest stored shift of an activation block: 23
KV_SHIFT_MAX = 32 - KV_BITS  # the same of a K or V block: 24
FLOOR_MAX = 20  # largest exponent floor of an operation
DRAIN_SHIFT_MAX = 63
SCORE_FRAC = 11  # fraction bits of a base-2 logit
PROB_FRAC = 17  # fraction bits of an unnormalised probability
PROB_CODE_MAX = 32639  # 127 * 256 + 127: the largest code that splits into two int8
PROB_CODE_BITS = 15
EXP2_SHIFT_MAX = 31
RSQRT_FRAC = 17  # y = 2^17 / sqrt(m)
RSQRT_CLAMP = (1 << RSQRT_FRAC) - 1
SS_BITS = 80  # sum of squares of a row
SUM_TOTAL_BITS = SS_BITS + EPS_FRAC  # the same with epsilon's fraction bits
EPS_BITS = 64  # epsilon as it is added there
TOTAL_BITS = 48  # sum of a row, signed: up to 2^16 values
GAIN_BITS = 16  # a norm's gain, signed
NORM_FRAC = 16  # fraction bits that a norm's result has more than its gain
# What k has too much in it: y's bits beyond NORM_FRAC less the root of epsilon's fraction bits.
NORM_SHIFT = RSQRT_FRAC - NORM_FRAC - EPS_FRAC // 2
SINE_FRAC = 16
KAPPA_FRAC = 16
GATE_FRAC = 16  # fraction bits of the gate and of SiLU's result
SILU_KNEE = 4 << GATE_FRAC  # segments of 1/2 below, of 1 above
SILU_LIMIT = 12 << GATE_FRAC  # from here on SiLU(x) = max(x, 0)
SILU_OFFSET_FRAC = 16
SILU_SLOPE_SHIFT = SILU_C2_FRAC + SILU_OFFSET_FRAC - SILU_C1_FRAC  # 13
SILU_VALUE_SHIFT = SILU_C1_FRAC + SILU_OFFSET_FRAC - GATE_FRAC  # 20; C0 has 20 bits as well
RECIPROCAL_BITS = 30  # width of the normalised denominator
TOKENS_MAX = 131072  # longest context
DEN_BITS = PROB_FRAC + TOKENS_MAX.bit_length()  # of its denominator, up to 2^17 per token: 35
RECIPROCAL_CLAMP = 131071

_FIXED_MAX = (1 << (FIXED_BITS - 1)) - 1
_FIXED_MIN = -(1 << (FIXED_BITS - 1))


def bit_length(value: npt.ArrayLike) -> Int:
    """bitlen(v) of non-negative integers below 2^53; bitlen(0) = 0."""
    v = np.asarray(value, dtype=np.int64)
    # Exact: below 2^53 a double holds the integer, and frexp yields the exponent bitlen(v).
    return np.frexp(v.astype(np.float64))[1].astype(np.int64)


def round_shift(value: npt.ArrayLike, shift: npt.ArrayLike) -> Int:
    """rs(v, s) = (v + (1 << s >> 1)) >> s: arithmetic right shift, half rounds up.

    Parameters
    ----------
    value : int64 array
        Any shape; |v| + 2^(s-1) must stay below 2^63 (`drain` does without that bound).
    shift : int or int64 array, 0..62
    """
    v = np.asarray(value, dtype=np.int64)
    s = np.asarray(shift, dtype=np.int64)
    one = np.int64(1)
    return (v + ((one << s) >> one)) >> s


def sat32(value: npt.ArrayLike) -> tuple[Int, int]:
    """Clamp to signed 32 bits.

    Returns
    -------
    value : int64 array
        Same shape, within -2^31..2^31-1.
    count : int
        How many elements were clamped.
    """
    v = np.asarray(value, dtype=np.int64)
    result = np.clip(v, _FIXED_MIN, _FIXED_MAX)
    return result, int(np.count_nonzero(result != v))


def drain(acc: npt.ArrayLike, shift: int) -> tuple[Int, int]:
    """Point 2: an accumulator leaves the array, sat32(rs(acc, sh)).

    Parameters
    ----------
    acc : int64 array
        Any 64-bit value.
    shift : int
        0..63, one per operation.

    Returns
    -------
    value : int64 array of fixed32
    count : int
        Saturated elements.
    """
    if not 0 <= shift <= DRAIN_SHIFT_MAX:
        raise ValueError(f"drain shift {shift} is outside 0..{DRAIN_SHIFT_MAX}")
    v = np.asarray(acc, dtype=np.int64)
    if shift == 0:
        return sat32(v)
    # rs(v, s) = (v >> s) + bit s-1 of v: the same number, without a carry out of 64 bits.
    return sat32((v >> np.int64(shift)) + ((v >> np.int64(shift - 1)) & np.int64(1)))


def decode_scale(bits: npt.ArrayLike) -> tuple[Int, Int]:
    """Mantissa and shift of a rebased fp16 (docs/numbers.md, weight block).

    Parameters
    ----------
    bits : uint16 array
        Sign, exponent E' (5 bits), 10-bit fraction.

    Returns
    -------
    mantissa : int64 array
        Signed 11 bits (with the implicit one for E' > 0).
    shift : int64 array
        sw = max(E', 1) - 1, in 0..30.
    """
    b = np.asarray(bits).astype(np.int64)
    exponent = (b >> 10) & 31
    mantissa = (b & 1023) | (np.where(exponent > 0, 1, 0) << 10)
    return np.where(b >> 15 != 0, -mantissa, mantissa), np.maximum(exponent, 1) - 1


def embed(
    codes: npt.ArrayLike, scale: npt.ArrayLike, minimum: npt.ArrayLike | None, shift: int
) -> tuple[Int, int]:
    """Point 3: an embedding row becomes residual.

    Parameters
    ----------
    codes : int8 array [..., nb, 32]
    scale, minimum : rebased fp16 as uint16 [..., nb]
    shift : int
        The drain's shift, 25 - e0 - f_res.

    Returns
    -------
    value : int64 array of fixed32 [..., nb, 32], f_res fraction bits
    count : int
    """
    mantissa, left = decode_scale(scale)
    # Fits: 8 + 11 + 30 bits, twice.
    acc = (np.asarray(codes, dtype=np.int64) * mantissa[..., None]) << left[..., None]
    if minimum is not None:
        mantissa, left = decode_scale(minimum)
        acc = acc + (mantissa << left)[..., None]
    return drain(acc, shift)


def residual(stream: npt.ArrayLike, update: npt.ArrayLike) -> tuple[Int, int]:
    """Point 4: the saturating add of two fixed32 values with f_res fraction bits."""
    return sat32(np.asarray(stream, dtype=np.int64) + np.asarray(update, dtype=np.int64))


def sum_squares(stream: npt.ArrayLike) -> list[int]:
    """ss = sum of r^2, exact, of each row of [rows, D] fixed32 values (point 4)."""
    r = np.asarray(stream, dtype=np.int64)
    high, low = r >> 16, r & 0xFFFF
    # Fits: three sums of D products below 2^32.
    hh, hl, ll = ((a * b).sum(axis=-1) for a, b in ((high, high), (high, low), (low, low)))
    return [(int(a) << 32) + (int(b) << 17) + int(c) for a, b, c in zip(hh, hl, ll, strict=True)]


def norm_sums(squares: list[int], eps_int: int) -> list[int]:
    """S = (ss << 16) + eps_int of each row (point 5): epsilon enters the exact sum."""
    return [(total << EPS_FRAC) + eps_int for total in squares]


def rsqrt_mantissa(mantissa: npt.ArrayLike) -> Int:
    """Point 5: y of normalised sums, by table and one Newton step.

    Parameters
    ----------
    mantissa : int array
        m22 = floor(2^22 S / 4^k), 2^22 <= m22 < 2^24.

    Returns
    -------
    int64 array
        17 bits, y = 2^17 / sqrt(S / 4^k) with a relative error below 2^-16 for every S with that
        mantissa.
    """
    m22 = np.asarray(mantissa, dtype=np.int64)
    seed = np.asarray(rsqrt_table(), dtype=np.int64)[m22 >> 14]
    # Fits: 16 + 16 + 24 bits, then 16 + 34.
    t = (seed * seed * m22) >> 22
    # seed (3 - t) has 48 fraction bits and is twice the result.
    y = round_shift(seed * ((3 << 32) - t), 49 - RSQRT_FRAC)
    return np.minimum(y, RSQRT_CLAMP)


def rsqrt(total: int) -> tuple[int, int]:
    """Point 5: reciprocal square root of an exact sum.

    Parameters
    ----------
    total : int
        S, 1 <= S < 2^93 in the norm (a Python integer; the function takes any).

    Returns
    -------
    y : int
        See `rsqrt_mantissa`.
    k : int
        0..46; 1 / sqrt(S) = y * 2^(-17 - k).
    """
    if total < 1:
        raise ValueError(f"rsqrt needs a positive sum, not {total}")
    k = (total.bit_length() - 1) // 2
    return int(rsqrt_mantissa((total << 22) >> (2 * k))), k


def rsqrt_rows(totals: list[int]) -> tuple[Int, Int]:
    """`rsqrt` of several rows: y and k as int64 arrays [rows]."""
    y, k = zip(*(rsqrt(total) for total in totals), strict=True)
    return np.asarray(y, dtype=np.int64), np.asarray(k, dtype=np.int64)


def norm(
    stream: npt.ArrayLike, gain: npt.ArrayLike, y: npt.ArrayLike, k: npt.ArrayLike
) -> tuple[Int, int]:
    """Point 6: RMSNorm of residual rows, v = sat32(rs(r g y, max(k - 7, 0))).

    Parameters
    ----------
    stream : fixed32 array [rows, D]
    gain : int16 array [D]
        round(sqrt(D) gain 2^f_g), |g| <= 32767.
    y, k : int arrays [rows]
        From `rsqrt` of `norm_sums`.

    Returns
    -------
    value : int64 array of fixed32 [rows, D], f_g + 16 fraction bits
    count : int
    """
    r = np.asarray(stream, dtype=np.int64)
    g = np.asarray(gain, dtype=np.int64)
    # Fits: |r| <= 2^31, |g| < 2^15, y < 2^17: below 2^63 - 2^48, and the half adds 2^38.
    product = r * g * np.asarray(y, dtype=np.int64)[:, None]
    return sat32(round_shift(product, norm_shift(k)[:, None]))


def norm_shift(k: npt.ArrayLike) -> Int:
    """Point 6: the shift that belongs to `rsqrt`'s k; a row that is not all zeros has k >= 8."""
    return np.maximum(np.asarray(k, dtype=np.int64) + NORM_SHIFT, 0)


def mx_quantise(
    values: npt.ArrayLike, floor: int, bits: int = ACTIVATION_BITS
) -> tuple[Int, Int, Int]:
    """Point 7: blocks of 32 fixed32 values become codes with a shared shift.

    Parameters
    ----------
    values : fixed32 array [..., 32]
    floor : int
        The operation's exponent floor, 0..20.
    bits : int
        Width of a code: ACTIVATION_BITS, or KV_BITS or KV4_BITS for K and V.

    Returns
    -------
    codes : int64 array [..., 32], -256..255 (K and V: -128..127, of int4: -8..7)
    shift : int64 array [...]
        Stored shift sx = s - floor, 0..32 - bits; value = code * 2^(sx + floor).
    sums : int64 array [...]
        Sum of each block's codes (SUM_BITS bits).
    """
    v = np.asarray(values, dtype=np.int64)
    magnitude = np.bitwise_or.reduce(v ^ (v >> np.int64(63)), axis=-1)
    s = np.maximum(bit_length(magnitude) - (bits - 1), floor)
    codes = np.minimum(round_shift(v, s[..., None]), (1 << (bits - 1)) - 1)
    return codes, s - floor, codes.sum(axis=-1)


def rope_coefficients(
    position: npt.ArrayLike, freq: npt.ArrayLike, kappa: int | None = None
) -> tuple[Int, Int]:
    """Point 8: cosine and sine of a position's phases.

    Parameters
    ----------
    position : int array [...]
    freq : uint32 array [head size / 2]
        Turns per position, in 2^-32.
    kappa : int, optional
        16-bit mantissa of the score factor: given for q, None for k.

    Returns
    -------
    cosine, sine : int64 arrays [..., head size / 2]
        Signed 17 bits, 16 fraction bits.
    """
    table = np.asarray(sine_table(), dtype=np.int64)
    # Fits: positions below 2^31 times 2^32.
    phase = np.asarray(position, dtype=np.int64)[..., None] * np.asarray(freq, dtype=np.int64)
    phase &= 0xFFFFFFFF
    quadrant, index = phase >> 30, (phase >> 19) & 2047
    rising, falling = table[index], table[index ^ 2047]
    odd = (quadrant & 1) != 0
    sine = np.where(odd, falling, rising) * np.where(quadrant >= 2, -1, 1)
    cosine = np.where(odd, rising, falling) * np.where((quadrant == 1) | (quadrant == 2), -1, 1)
    if kappa is not None:
        sine, cosine = (round_shift(c * kappa, KAPPA_FRAC) for c in (sine, cosine))
    return cosine, sine


def rope(values: npt.ArrayLike, cosine: npt.ArrayLike, sine: npt.ArrayLike) -> tuple[Int, int]:
    """Point 8: rotate the pairs (2i, 2i+1) of q or k.

    Parameters
    ----------
    values : fixed32 array [..., head size]
    cosine, sine : int arrays, broadcast against [..., head size / 2]

    Returns
    -------
    value : int64 array of fixed32 [..., head size]
    count : int
    """
    v = np.asarray(values, dtype=np.int64)
    c, s = np.asarray(cosine, dtype=np.int64), np.asarray(sine, dtype=np.int64)
    x0, x1 = v[..., 0::2], v[..., 1::2]
    result = np.empty_like(v)
    # Fits: two products of 2^31 and 2^16.
    result[..., 0::2], first = sat32(round_shift(x0 * c - x1 * s, SINE_FRAC))
    result[..., 1::2], second = sat32(round_shift(x0 * s + x1 * c, SINE_FRAC))
    return result, first + second


def exp2(scores: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> tuple[Int, Int]:
    """Point 10: unnormalised base-2 softmax of each row.

    Parameters
    ----------
    scores : fixed32 array [..., T]
        11 fraction bits.
    mask : bool array, broadcast against [..., T], optional
        True where a token takes part; at least one per row.

    Returns
    -------
    p : int64 array [..., T]
        17 fraction bits, 0..2^17; 0 where masked.
    den : int64 array [...]
        Sum of p, exact.
    """
    s = np.asarray(scores, dtype=np.int64)
    if mask is not None:
        s = np.where(mask, s, _FIXED_MIN - 1)
    distance = s.max(axis=-1, keepdims=True) - s
    table = np.asarray(exp2_table(), dtype=np.int64)
    p = round_shift(table[distance & 2047], np.minimum(distance >> SCORE_FRAC, EXP2_SHIFT_MAX))
    if mask is not None:
        p = np.where(mask, p, 0)
    return p, p.sum(axis=-1)


def prob_quantise(weights: npt.ArrayLike) -> tuple[Int, Int]:
    """Point 11: blocks of 32 weighted probabilities w = p << s_v become 15-bit codes.

    Parameters
    ----------
    weights : int64 array [..., 32], 0..2^41

    Returns
    -------
    codes : int64 array [..., 32], 0..32639
    shift : int64 array [...]
        w = code * 2^shift, rounded.
    """
    w = np.asarray(weights, dtype=np.int64)
    shift = np.maximum(bit_length(np.bitwise_or.reduce(w, axis=-1)) - PROB_CODE_BITS, 0)
    return np.minimum(round_shift(w, shift[..., None]), PROB_CODE_MAX), shift


def prob_split(codes: npt.ArrayLike) -> tuple[Int, Int]:
    """Point 11: a 15-bit code as two int8 values, code = 256 hi + lo.

    Returns
    -------
    hi : int64 array, 0..127
    lo : int64 array, -128..127
    """
    c = np.asarray(codes, dtype=np.int64)
    low = ((c + 128) & 255) - 128
    return (c - low) >> 8, low


def largest_scores(scores: npt.ArrayLike, mask: npt.ArrayLike, count: int) -> npt.NDArray[np.bool_]:
    """Tokens that take part in a sparse softmax: those not below the `count`-th largest score.

    More than `count` when several tokens share that score: no order among equals is needed.

    Parameters
    ----------
    scores : int64 array [..., T]
    mask : bool array, broadcast against scores
        Tokens that count.
    count : int
        1 or more.

    Returns
    -------
    bool array [..., T]
        A part of `mask`.
    """
    s = np.asarray(scores, dtype=np.int64)
    seen = np.broadcast_to(np.asarray(mask, dtype=bool), s.shape)
    if s.shape[-1] <= count:
        return seen.copy()
    counted = np.where(seen, s, _FIXED_MIN)
    place = s.shape[-1] - count
    threshold = np.partition(counted, place, axis=-1)[..., place : place + 1]
    result: npt.NDArray[np.bool_] = seen & (s >= threshold)
    return result


def denominator_bits(den: npt.ArrayLike) -> Int:
    """nd = bitlen(den) of point 12."""
    return bit_length(den)


def reciprocal(den: npt.ArrayLike) -> Int:
    """Point 12: rm = 2^16 * 2^nd / den by table and one Newton step.

    Parameters
    ----------
    den : int64 array
        Softmax denominators, 1 <= den < 2^35.

    Returns
    -------
    int64 array
        2^16..131071 (17 bits), nd = bitlen(den).
    """
    d = np.asarray(den, dtype=np.int64)
    left = RECIPROCAL_BITS - denominator_bits(d)
    dn = np.where(left >= 0, d << np.maximum(left, 0), d >> np.maximum(-left, 0))
    seed = np.asarray(recip_table(), dtype=np.int64)[(dn >> 20) - 512]
    # Fits: 2^17 * 2^30, then 2^17 * 2^33.
    e = (seed * dn) >> 14
    return np.minimum((seed * ((1 << 33) - e) + (1 << 31)) >> 32, RECIPROCAL_CLAMP)


def context(acc: npt.ArrayLike, den: npt.ArrayLike, floor: int) -> tuple[Int, int]:
    """Point 12: attention's accumulator over its denominator.

    Parameters
    ----------
    acc : int64 array [...]
        Unit 2^(-17 + floor_v - f_v).
    den : int64 array, broadcast against acc
        At least 2^17: the token with the largest score has that.
    floor : int
        floor_v, 0..17.

    Returns
    -------
    value : int64 array of fixed32, f_v fraction bits
    count : int
    """
    a = np.asarray(acc, dtype=np.int64)
    d = np.asarray(den, dtype=np.int64)
    # Fits: |acc| <= T 2^(48 - floor) <= 2^63 - 2^46, and the half is at most 2^34.
    t, first = sat32(round_shift(a, denominator_bits(d) - floor))
    # Fits: 2^31 * 2^17.
    value, second = sat32(round_shift(t * reciprocal(d), 16))
    return value, first + second


def activate(gate: npt.ArrayLike, activation: str = "silu") -> Int:
    """Point 13: SiLU or GELU by its even part, 16 quadratic segments.

    Two multiplications in sequence, 17 x 17 and 17 x 23 bits signed::

        h  = C1 + rs(C2 u, 13)                20 fraction bits
        e2 = rs((C0 << 16) + h u, 20)         16 fraction bits, twice the even part
        f  = rs(g + e2, 1)

    Parameters
    ----------
    gate : fixed32 array, 16 fraction bits
    activation : str
        One of ACTIVATIONS.

    Returns
    -------
    int64 array of fixed32, 16 fraction bits
    """
    g = np.asarray(gate, dtype=np.int64)
    magnitude = np.abs(g)
    a = np.minimum(magnitude, SILU_LIMIT - 1)
    wide = a >= SILU_KNEE
    segment = np.where(wide, 4 + (a >> GATE_FRAC), a >> (GATE_FRAC - 1))
    u = np.where(wide, a & 0xFFFF, a & 0x7FFF)
    c0, c1, c2 = np.asarray(activation_coefficients(activation), dtype=np.int64).T
    h = c1[segment] + round_shift(c2[segment] * u, SILU_SLOPE_SHIFT)
    e2 = round_shift((c0[segment] << SILU_OFFSET_FRAC) + h * u, SILU_VALUE_SHIFT)
    e2 = np.where(magnitude >= SILU_LIMIT, magnitude, e2)
    return round_shift(g + e2, 1)


def silu(gate: npt.ArrayLike) -> Int:
    """Point 13 for SiLU."""
    return activate(gate, "silu")


def swiglu(
    gate: npt.ArrayLike, up: npt.ArrayLike, shift: int, activation: str = "silu"
) -> tuple[Int, int]:
    """Point 14: h = sat32(rs(f(gate) up, 16 + f_up - f_h)); f is SiLU unless said otherwise.

    Without a gate of its own a network has up = 2^16, that is 1.

    Parameters
    ----------
    gate, up : fixed32 arrays
        16 and f_up fraction bits.
    shift : int
        16 + f_up - f_h, 0..62.

    Returns
    -------
    value : int64 array of fixed32, f_h fraction bits
    count : int
    """
    # Fits: 2^31 * 2^31, and the half of a shift up to 62 adds 2^61.
    return sat32(round_shift(activate(gate, activation) * np.asarray(up, dtype=np.int64), shift))
