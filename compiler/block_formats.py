"""Block formats of weights: their code tables, and how dense values become codes and scales.

Every format has blocks of 32 along the reduction and one fp16 scale; a value is scale · code, plus
a minimum for Q4_1. The 4-bit formats with a table hold a place in it; here and in the array a code
is what the table says there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenloom.compiler.errors import ModelError
from tokenloom.hw.numbers.codebook import CODEBOOK

__all__ = ["BLOCK", "CODEBOOKS", "LINEAR", "e8m0_scale", "from_table", "places", "quantised_blocks"]

BLOCK = 32
"""Weights in one quantisation block, along the reduction axis."""

LINEAR = CODEBOOK
"""The table of Q4_0 and Q4_1: a 4-bit code is itself; Q4_0's offset is a minimum of -8 scales."""

CODEBOOKS: dict[str, tuple[int, ...]] = {
    # round(127 · level) of the 16 levels of NormalFloat (T. Dettmers et al., "QLoRA", 2023,
    # appendix E): off by 1/2 of 127 at most, that is 0.4 % of a block's largest value.
    "nf4": (-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127),
    # Twice the values of E2M1 (OCP Microscaling Formats v1.0), exact; 8 is minus zero.
    "mxfp4": (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12),
    # llama.cpp's IQ4_NL.
    "iq4_nl": (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113),
}
"""Kind -> what its 16 codes mean, as int8."""

_SMALLEST, _LARGEST = -24, 15  # powers of two that fp16 has
_E2M1_TOP = 2  # exponent of its largest value, 6


def from_table(kind: str, index: NDArray[np.uint8]) -> NDArray[np.int8]:
    """The codes at these places of the kind's table."""
    return np.array(CODEBOOKS[kind], dtype=np.int8)[index]


def e8m0_scale(exponent: NDArray[np.uint8], used: NDArray[np.bool_]) -> NDArray[np.float16]:
    """MXFP4's scales 2^(e - 127), halved for the table's doubled values, as fp16.

    Blocks that are not `used`, as all their codes are zero, have a scale of 0, whatever the file
    says.

    Raises
    ------
    ModelError
        If fp16 does not have one of them.
    """
    power = np.where(used, exponent.astype(np.int64) - 128, 0)
    if power.size and (power.min() < _SMALLEST or power.max() > _LARGEST):
        wrong = int(power[(power < _SMALLEST) | (power > _LARGEST)].flat[0]) + 1
        raise ModelError(
            f"an MXFP4 scale is 2^{wrong}; allowed are 2^{_SMALLEST + 1} to 2^{_LARGEST + 1}, "
            "because the chip's scales are fp16"
        )
    return np.where(used, np.exp2(power.astype(np.float64)), 0).astype(np.float16)


def places(codes: NDArray[np.int8], book: tuple[int, ...]) -> NDArray[np.int8]:
    """Where the codes are in a table; the first place of those that are there twice.

    Raises
    ------
    ValueError
        When a code is not in the table.
    """
    where = np.full(256, -1, dtype=np.int8)
    for place in reversed(range(len(book))):
        where[book[place] & 255] = place
    found = where[codes.view(np.uint8)]
    if found.size and found.min() < 0:
        missing = int(codes[found < 0].flat[0])
        raise ValueError(f"code {missing} is not in the table {book}")
    return found


def quantised_blocks(
    kind: str, values: NDArray[np.float32]
) -> tuple[NDArray[np.int8], NDArray[np.float16], NDArray[np.float16] | None]:
    """Codes, scales and minima of dense values, the nearest codes for the block's scale.

    * Q8_0: the scale is the fp16 nearest to ``max|x| / 127``.
    * Q4_0: the scale is the value of the largest magnitude over -8, as llama.cpp does it.
    * Q4_1: the minimum is the least value, the scale a fifteenth of the span.
    * NF4, IQ4_NL: the scale is ``max|x|`` over the table's largest magnitude.
    * MXFP4: ``2^(floor(log2 max|x|) - 2)``, half of it for the table's doubled values; what is
      beyond 6 scales saturates (OCP Microscaling Formats v1.0, 6.3). The scale of a tiny block is
      the smallest that fp16 has.

    Parameters
    ----------
    kind : str
        "q8_0", "q4_0", "q4_1" or a name in `CODEBOOKS`.
    values : float32 array [N, blocks, 32]

    Raises
    ------
    ModelError
        If there is no such kind, or a value is too large for an fp16 scale.
    """
    peak = np.abs(values).max(axis=2)
    if kind == "mxfp4":
        with np.errstate(divide="ignore"):
            exponent = np.floor(np.log2(peak)) - _E2M1_TOP - 1
        exponent = np.maximum(exponent, _SMALLEST)
        if peak.size and exponent.max() > _LARGEST:
            raise ModelError(f"a weight of {peak.max():g} is too large for MXFP4's fp16 scale")
        scale = np.exp2(exponent).astype(np.float16)
        return _nearest(kind, values, scale), scale, None
    if kind in CODEBOOKS:
        scale = _scale(peak, max(map(abs, CODEBOOKS[kind])), kind)
        return _nearest(kind, values, scale), scale, None
    if kind == "q8_0":
        scale = _scale(peak, 127, kind)
        return _rounded(values, scale, -127, 127), scale, None
    if kind == "q4_0":
        where = np.abs(values).argmax(axis=2)[..., None]
        signed = np.take_along_axis(values, where, axis=2)[..., 0]
        scale = np.copysign(_scale(peak, 8, kind), -signed).astype(np.float16)
        return _rounded(values, scale, -8, 7), scale, None
    if kind == "q4_1":
        low = values.min(axis=2)
        _scale(np.abs(low), 1, kind)
        minimum = low.astype(np.float16)
        above = values - minimum.astype(np.float32)[..., None]
        scale = _scale(above.max(axis=2), 15, kind)
        return _rounded(above, scale, 0, 15), scale, minimum
    raise ModelError(
        f"no weights of kind {kind!r}; allowed are q8_0, q4_0, q4_1, {', '.join(CODEBOOKS)}"
    )


def _scale(peak: NDArray[Any], largest: int, kind: str) -> NDArray[np.float16]:
    """fp16 nearest to peak / largest."""
    if peak.size and peak.max() / largest > np.finfo(np.float16).max:
        raise ModelError(f"a weight of {peak.max():g} is too large for {kind.upper()}'s fp16 scale")
    scale = (peak / largest).astype(np.float16)
    # Among fp16's subnormals the nearest scale can be far too small, or zero: the next larger
    # one then keeps the largest value within reach.
    small = scale.astype(np.float32) * np.float32(largest + 0.5) < peak
    scale[small] = np.nextafter(scale[small], np.float16(np.inf))
    return scale


def _in_scales(values: NDArray[np.float32], scale: NDArray[np.float16]) -> NDArray[np.float32]:
    divisor = np.where(scale != 0, scale, np.float16(1)).astype(np.float32)
    return values / divisor[..., None]


def _rounded(
    values: NDArray[np.float32], scale: NDArray[np.float16], low: int, high: int
) -> NDArray[np.int8]:
    return np.clip(np.rint(_in_scales(values, scale)), low, high).astype(np.int8)


def _nearest(
    kind: str, values: NDArray[np.float32], scale: NDArray[np.float16]
) -> NDArray[np.int8]:
    """The table's nearest value; of two equally near ones the one at the even place (E2M1)."""
    table = CODEBOOKS[kind]
    # Distinct values from below, and the place of each.
    levels = sorted({value: place for place, value in reversed(list(enumerate(table)))}.items())
    at = np.array([value for value, _ in levels], dtype=np.float32)
    even = np.array([place % 2 == 0 for _, place in levels])
    wanted = _in_scales(values, scale)
    upper = np.clip(np.searchsorted(at, wanted), 1, len(at) - 1)
    below, above = wanted - at[upper - 1], at[upper] - wanted
    take_upper = (above < below) | ((above == below) & even[upper])
    chosen: NDArray[np.int8] = at[np.where(take_upper, upper, upper - 1)].astype(np.int8)
    return chosen
