"""LayerNorm's rounding point as numpy functions (docs/numbers.md, point 21)."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from tokenloom.hw.numbers import formats as fx

__all__ = ["layer_norm", "layer_norm_epsilon", "layer_norm_sums", "root_bits"]

Int = npt.NDArray[np.int64]


def root_bits(width: int) -> int:
    """e = ceil(log2(D) / 2): |(D r - sum) / sqrt(D^2 var)| <= sqrt(D) <= 2^e."""
    return ((width - 1).bit_length() + 1) >> 1


def layer_norm_epsilon(width: int, epsilon: float, fraction_bits: int) -> int:
    """eps_int = max(1, round(D^2 eps 2^(2 f_res + 16)))."""
    value = width**2 * Fraction(epsilon) * Fraction(4) ** fraction_bits * (1 << fx.EPS_FRAC)
    return max(1, int(value + Fraction(1, 2)))


def layer_norm_sums(stream: npt.ArrayLike, eps_int: int) -> list[int]:
    """S = ((D sum r^2 - (sum r)^2) << 16) + eps_int of each row of [rows, D], exact."""
    r = np.asarray(stream, dtype=np.int64)
    totals = r.sum(axis=-1)  # fits: 2^31 times 2^17 values
    return [
        ((r.shape[-1] * squares - int(total) ** 2) << fx.EPS_FRAC) + eps_int
        for squares, total in zip(fx.sum_squares(r), totals, strict=True)
    ]


def layer_norm(
    stream: npt.ArrayLike,
    gain: npt.ArrayLike,
    bias: npt.ArrayLike,
    y: npt.ArrayLike,
    k: npt.ArrayLike,
    *,
    totals: npt.ArrayLike | None = None,
    width: int | None = None,
) -> tuple[Int, int]:
    """sat32(rs((D r - sum) g y, max(k - 7 + e, 0)) + bias), with one rounding.

    Parameters
    ----------
    stream : fixed32 array [rows, n]
    gain : int16 array [n]
        round(gain 2^f_g).
    bias : fixed32 array [n]
        With the result's fraction bits, f_g + 16 - e.
    y, k : int arrays [rows]
        From `rsqrt` of `layer_norm_sums`.
    totals, width : int array [rows], int; optional
        The rows' sums and D, when `stream` is not the whole row.

    Returns
    -------
    value : int64 array of fixed32 [rows, n]
    count : int
        Saturated elements.
    """
    r = np.asarray(stream, dtype=np.int64)
    d = r.shape[-1] if width is None else width
    total = r.sum(axis=-1) if totals is None else np.asarray(totals, dtype=np.int64)
    # Fits: 2^31 times 2^17, and as much again. The product takes up to 80 bits: Python integers.
    centred = (r * d - total[:, None]).astype(object)
    product = centred * np.asarray(gain).astype(object) * np.asarray(y).astype(object)[:, None]
    shift = np.maximum(np.asarray(k, dtype=np.int64) + fx.NORM_SHIFT + root_bits(d), 0)
    rounded = [
        (line + (1 << int(s) >> 1)) >> int(s) for line, s in zip(product, shift, strict=True)
    ]
    # Beyond 40 bits it is clamped whatever the bias.
    near = np.clip(np.stack(rounded), -(1 << 40), 1 << 40).astype(np.int64)
    return fx.sat32(near + np.asarray(bias, dtype=np.int64))
