"""The constant tables of the machine (docs/numbers.md, points 5, 8, 10, 12, 13, 16, 18).

Every entry is computed in decimal arithmetic of 50 digits and rounded once, so a table is the same
on every machine: nothing here asks the platform's libm, numpy or BLAS.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache
from math import isqrt

__all__ = [
    "ACTIVATIONS",
    "activation_coefficients",
    "exp2_table",
    "gumbel_segments",
    "log2_e",
    "log2_segments",
    "recip_table",
    "rope_frequencies",
    "rsqrt_table",
    "scaled_epsilon",
    "score_factor",
    "silu_coefficients",
    "sine_table",
]

_DIGITS = 50
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097")

RSQRT_SEED_MAX = 65535
EPS_FRAC = 16  # fraction bits, below those of the sum of squares, that epsilon brings
SINE_AMPLITUDE = 65535
SINE_ENTRIES = 2048
EXP2_ENTRIES = 2048

# SiLU, point 13. The segments: eight of 1/2 over [0, 4), eight of 1 over [4, 12).
SILU_SEGMENTS = 16
SILU_C0_FRAC = 20
SILU_C1_FRAC = 20
SILU_C2_FRAC = 17

# Gumbel noise, point 16: segments of an octave of u or 1 - u, offsets in a segment.
GUMBEL_SEGMENT_BITS = 4
GUMBEL_OFFSET_BITS = 14
GUMBEL_FRAC = 16

# Logarithm of a sum of powers, point 18: segments of [1, 2).
LOG2_SEGMENT_BITS = 8
LOG2_FRAC = 16


def _round(value: Decimal) -> int:
    """Nearest integer, halves away from zero (no table entry is a half)."""
    return int(value.to_integral_value(rounding="ROUND_HALF_UP"))


def _sin(x: Decimal) -> Decimal:
    """Sine of `x` in radians, |x| <= 2, by its Taylor series."""
    term = total = x
    n = 1
    while abs(term) > Decimal(10) ** -(_DIGITS - 5):
        term = -term * x * x / ((n + 1) * (n + 2))
        total += term
        n += 2
    return total


@cache
def rsqrt_table() -> tuple[int, ...]:
    """Seeds of the reciprocal square root (point 5).

    Returns
    -------
    tuple of int
        1024 entries of 16 bits; entry i is round(2^16 / sqrt((i + 0.5) / 256)), clamped to 65535.
        Only 256..1023 are addressed; the entries below 256 are all 65535.
    """
    # 2^16 / sqrt((2i + 1) / 512) = sqrt(2^41 / (2i + 1)); a rounded root is isqrt(4v) + 1 >> 1.
    return tuple(
        min(RSQRT_SEED_MAX, (isqrt((1 << 43) // (2 * i + 1)) + 1) >> 1) for i in range(1024)
    )


@cache
def recip_table() -> tuple[int, ...]:
    """Seeds of the reciprocal of a softmax denominator (point 12).

    Returns
    -------
    tuple of int
        512 entries of 17 bits; entry i - 512 is R[i] = round(2^26 / (i + 0.5)), i = 512..1023.
    """
    return tuple(((1 << 28) + 2 * i + 1) // (2 * (2 * i + 1)) for i in range(512, 1024))


@cache
def exp2_table() -> tuple[int, ...]:
    """Powers of two for the softmax (point 10).

    Returns
    -------
    tuple of int
        2048 entries of 18 bits; entry i is round(2^(17 - i / 2048)).
    """
    with localcontext() as context:
        context.prec = _DIGITS
        ln2 = Decimal(2).ln()
        return tuple(
            _round((ln2 * (17 - Decimal(i) / EXP2_ENTRIES)).exp()) for i in range(EXP2_ENTRIES)
        )


@cache
def sine_table() -> tuple[int, ...]:
    """First quadrant of the sine, sampled at half steps (point 8).

    Returns
    -------
    tuple of int
        2048 entries of 16 bits; entry j is round(65535 sin((j + 0.5) pi / 4096)).
    """
    with localcontext() as context:
        context.prec = _DIGITS
        return tuple(
            _round(SINE_AMPLITUDE * _sin((2 * j + 1) * _PI / 8192)) for j in range(SINE_ENTRIES)
        )


def _twice_even_silu(x: Decimal) -> Decimal:
    """2e(x) = x tanh(x / 2), twice the even part of SiLU."""
    decay = (-x).exp()
    return x * (1 - decay) / (1 + decay)


def _erf(z: Decimal) -> Decimal:
    """Error function of z >= 0: 2/sqrt(pi) exp(-z^2) sum of 2^n z^(2n+1) / (2n+1)!!, all positive.

    Abramowitz and Stegun, 7.1.6.
    """
    term = total = z
    n = 1
    while term > total * Decimal(10) ** -(_DIGITS - 5):
        term = term * 2 * z * z / (2 * n + 1)
        total += term
        n += 1
    return 2 / _PI.sqrt() * (-z * z).exp() * total


def _twice_even_gelu(x: Decimal) -> Decimal:
    """2e(x) = x erf(x / sqrt 2), twice the even part of x Phi(x)."""
    return x * _erf(x / Decimal(2).sqrt())


def _twice_even_gelu_tanh(x: Decimal) -> Decimal:
    """2e(x) = x tanh(sqrt(2 / pi) (x + 0.044715 x^3)): Hendrycks and Gimpel's approximation."""
    decay = (-2 * (2 / _PI).sqrt() * (x + Decimal("0.044715") * x * x * x)).exp()
    return x * (1 - decay) / (1 + decay)


_TWICE_EVEN = {
    "silu": _twice_even_silu,
    "gelu": _twice_even_gelu,
    "gelu_tanh": _twice_even_gelu_tanh,
}
ACTIVATIONS = tuple(_TWICE_EVEN)


def silu_coefficients() -> tuple[tuple[int, int, int], ...]:
    """`activation_coefficients` of SiLU: C0 has 24 bits unsigned, C1 22 and C2 17 bits signed."""
    return activation_coefficients("silu")


@cache
def activation_coefficients(activation: str) -> tuple[tuple[int, int, int], ...]:
    """Quadratics for twice the even part of a function on the 16 segments of [0, 12) (point 13).

    Each is the interpolation at the segment's three Chebyshev nodes (within a few per cent of
    minimax), rewritten around the segment's left end and rounded.

    Parameters
    ----------
    activation : str
        One of ACTIVATIONS.

    Returns
    -------
    tuple of (C0, C1, C2)
        16 triples with 20, 20 and 17 fraction bits, for u = x - (left end) as a real number.
    """
    twice_even = _TWICE_EVEN[activation]
    result = []
    with localcontext() as context:
        context.prec = _DIGITS
        for segment in range(SILU_SEGMENTS):
            width = Decimal("0.5") if segment < 8 else Decimal(1)
            left = segment * width if segment < 8 else Decimal(segment - 4)
            half = width / 2
            node = half * Decimal(3).sqrt() / 2
            low, middle, high = (
                twice_even(left + half + offset) for offset in (-node, Decimal(0), node)
            )
            slope = (high - low) / (2 * node)
            curve = (high + low - 2 * middle) / (2 * node * node)
            c0 = middle - slope * half + curve * half * half
            c1 = slope - 2 * curve * half
            if segment == 0:
                c0 = Decimal(0)  # so that f(0) = 0 exactly; SiLU's fit has -1.2e-4 here
            result.append(
                (
                    _round(c0 * (1 << SILU_C0_FRAC)),
                    _round(c1 * (1 << SILU_C1_FRAC)),
                    _round(curve * (1 << SILU_C2_FRAC)),
                )
            )
    return tuple(result)


@cache
def gumbel_segments() -> tuple[tuple[int, int], ...]:
    """Lines for g(u) = -ln(-ln u), 16 segments per octave of u and of 1 - u (point 16).

    Each is the interpolation at the segment's two Chebyshev nodes.

    Returns
    -------
    tuple of (start, rise)
        1024 pairs with 16 fraction bits, 22 and 14 bits signed: the value at the segment's left
        end, and how much it grows up to the right end. Entry ((upper * 32 + octave) * 16 + i) is
        segment i of [2^-octave / 4, 2^-octave / 2), for u (upper = 0) or 1 - u (upper = 1).
    """
    count = 1 << GUMBEL_SEGMENT_BITS
    unit = 1 << GUMBEL_FRAC
    result = []
    with localcontext() as context:
        context.prec = _DIGITS
        node = Decimal(2).sqrt() / 4
        for upper in (False, True):
            for octave in range(32):
                for segment in range(count):
                    low, high = (
                        -(-(1 - x if upper else x).ln()).ln()
                        for x in (
                            (1 + (segment + offset) / count) / (4 << octave)
                            for offset in (Decimal("0.5") - node, Decimal("0.5") + node)
                        )
                    )
                    result.append(_line(low, high, node, unit))
    return tuple(result)


@cache
def log2_e() -> Fraction:
    """log2(e) to 50 digits."""
    with localcontext() as context:
        context.prec = _DIGITS
        return Fraction(1 / Decimal(2).ln())


@cache
def log2_segments() -> tuple[tuple[int, int], ...]:
    """Lines for log2 on 256 segments of [1, 2) (point 18), as those of `gumbel_segments`.

    Returns
    -------
    tuple of (start, rise)
        Pairs with 16 fraction bits, 17 and 9 bits.
    """
    count = 1 << LOG2_SEGMENT_BITS
    unit = 1 << LOG2_FRAC
    result = []
    with localcontext() as context:
        context.prec = _DIGITS
        node = Decimal(2).sqrt() / 4
        ln2 = Decimal(2).ln()
        for segment in range(count):
            low, high = (
                (1 + (segment + offset) / count).ln() / ln2
                for offset in (Decimal("0.5") - node, Decimal("0.5") + node)
            )
            result.append(_line(low, high, node, unit))
    return tuple(result)


def _line(low: Decimal, high: Decimal, node: Decimal, unit: int) -> tuple[int, int]:
    """Start and rise of the line through `low` and `high`, `node` to either side of the middle."""
    rise = (high - low) / (2 * node)
    start = (high + low) / 2 - rise / 2
    return _round(start * unit), _round(rise * unit)


@cache
def rope_frequencies(theta: float, head_size: int) -> tuple[int, ...]:
    """Phase steps per position (point 8): round(theta^(-2i / hd) / 2 pi * 2^32).

    Parameters
    ----------
    theta : float
        The model's RoPE base.
    head_size : int
        Values per head, even.

    Returns
    -------
    tuple of int
        head_size / 2 unsigned 32-bit turns per position.
    """
    with localcontext() as context:
        context.prec = _DIGITS
        log = Decimal(theta).ln()
        return tuple(
            _round((-log * 2 * i / head_size).exp() * (1 << 32) / (2 * _PI))
            for i in range(head_size // 2)
        )


@cache
def score_factor(head_size: int) -> tuple[int, int]:
    """log2(e) / sqrt(head size) as mantissa and exponent (point 8).

    Returns
    -------
    kappa : int
        16-bit mantissa in [2^15, 2^16).
    exponent : int
        `ek` with kappa * 2^(ek - 16) = log2(e) / sqrt(head_size).
    """
    with localcontext() as context:
        context.prec = _DIGITS
        factor = 1 / (Decimal(2).ln() * Decimal(head_size).sqrt())
        exponent = 0
        while factor * Decimal(2) ** -exponent >= 1:
            exponent += 1
        while factor * Decimal(2) ** -exponent < Decimal("0.5"):
            exponent -= 1
        kappa = _round(factor * Decimal(2) ** (16 - exponent))
    if kappa == 1 << 16:
        return 1 << 15, exponent + 1
    return kappa, exponent


def scaled_epsilon(width: int, epsilon: float, fraction_bits: int) -> int:
    """eps_int = max(1, round(D eps 2^(2 f_res + 16))) of point 5; the rounding itself is exact."""
    value = width * Fraction(epsilon) * Fraction(4) ** fraction_bits * (1 << EPS_FRAC)
    return max(1, int(value + Fraction(1, 2)))
