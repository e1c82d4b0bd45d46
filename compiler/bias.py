"""Biases as one more weight block: the array adds them, exactly, before the drain.

The operand buffer holds, behind the norm's blocks, one constant block of activations, `ONES`, with
shift 0. A row's bias is the product of its bias block with it: `(sum_i code_i x_i) (m << sw)`, in
the accumulator's own units. Rounding happens once, here, when the codes and the scale are chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenloom.compiler.errors import ModelError
from tokenloom.hw.numbers import formats as fx

__all__ = ["ONES", "QBias", "largest_bias", "quantise_bias"]

ONES = tuple(1 << (7 - i // 4) for i in range(fx.BLOCK))
"""The constant activations: four times each of 128, 64, .. 1. With digits on them every integer up
to 255 times four times the largest code can be said in any table of codes that has small ones."""

_MANTISSAS = 1024  # scales that are tried for a row
_SHIFT_MAX = 29  # of a rebased fp16


@dataclass(frozen=True, kw_only=True, eq=False)
class QBias:
    """The bias block of every row.

    Attributes
    ----------
    codes : int8 array [N, 32]
    scale : uint16 array [N]
        Rebased fp16 as the tensor's others; carries the sign.
    """

    codes: npt.NDArray[np.int8]
    scale: npt.NDArray[np.uint16]

    def integers(self) -> fx.Int:
        """What the array adds to each row's accumulator, int64 [N]; exact."""
        mantissa, shift = fx.decode_scale(self.scale)
        digits = self.codes.astype(np.int64) @ np.asarray(ONES, dtype=np.int64)
        result: fx.Int = digits * (mantissa << shift)
        return result


def _largest_code(bits: int) -> int:
    return 15 if bits == 4 else 127


def largest_bias(bits: int) -> float:
    """The largest bias, in units of the accumulator, that a block of `bits`-bit codes says."""
    return _largest_code(bits) * sum(ONES) * (2047 << _SHIFT_MAX) * 0.99


def quantise_bias(name: str, bits: int, target: npt.NDArray[np.float64]) -> QBias:
    """The blocks whose products are nearest to `target`.

    Parameters
    ----------
    name : str
        Tensor, for messages.
    bits : int
        Code bits of the tensor: 4 (0..15) or 8.
    target : float64 array [N]
        Biases in units of the accumulator. The error is at most 1/2, or 2^-17 of the bias where
        that is more (2^-14 with 4 bits).

    Raises
    ------
    ModelError
        When a bias is larger than any block can say.
    """
    largest = _largest_code(bits)
    reach = largest * sum(ONES)
    size = np.abs(target)
    if not size.max(initial=0.0) <= largest_bias(bits):
        raise ModelError(
            f"{name}: a bias is too large for a weight block: {size.max():g} units of the "
            f"accumulator; allowed are {largest_bias(bits):g}"
        )
    codes = np.zeros((len(size), fx.BLOCK), dtype=np.int8)
    scale = np.zeros(len(size), dtype=np.uint16)
    for n, value in enumerate(size.tolist()):
        least = value / reach
        shift = max(0, int(np.floor(np.log2(least))) - 10) if least > 1.0 else 0
        first = max(1, int(np.ceil(np.ldexp(least, -shift))))
        # From 2048 on the next exponent, where every second one can be said.
        tried = first + np.arange(_MANTISSAS)
        over = tried > 2047
        mantissa = np.where(over, tried - 1024, tried)
        unit = np.ldexp(mantissa.astype(np.float64), shift + over)
        digits = np.minimum(np.rint(value / unit), reach)
        best = int(np.abs(digits * unit - value).argmin())
        shift += int(over[best])
        rest = int(digits[best])
        for lane, x in enumerate(ONES):
            codes[n, lane] = min(rest // x, largest)
            rest -= int(codes[n, lane]) * x
        assert rest == 0
        m = int(mantissa[best])
        # With shift 0 the exponent's field is 0 for mantissas below 1024, 1 from there on.
        scale[n] = m if m < 1024 else ((shift + 1) << 10) | (m - 1024)
    scale[np.asarray(target) < 0] |= 0x8000
    return QBias(codes=codes, scale=scale)
