"""Bounds of what an operation can reach: exponent floors, fraction bits, and the overflow proof.

See docs/numbers.md, "Where the fraction bits come from" and "The overflow proof".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tokenloom.compiler.bias import largest_bias
from tokenloom.compiler.errors import ModelError
from tokenloom.hw.numbers import formats as fx

if TYPE_CHECKING:
    from tokenloom.compiler.quantise import QTensor

__all__ = [
    "ACC_LIMIT",
    "SLACK",
    "Proof",
    "ceil_log2",
    "check_shift",
    "exponent_floor",
    "fraction_bits",
    "row_bounds",
    "score_floors",
]

ACC_LIMIT = fx.ACC_BITS - 1  # magnitude bits of the accumulator
SLACK = 1.07  # on every bound, for what quantising an activation can add to its norm


@dataclass(frozen=True, kw_only=True)
class Proof:
    """One line of the overflow proof.

    Attributes
    ----------
    name : str
        Tensor or operation.
    bits : int
        Magnitude bits that its accumulator can reach with this floor.
    floor : int
        Exponent floor of its activations.
    limit : int
        Bits that the accumulator has.
    """

    name: str
    bits: int
    floor: int
    limit: int = ACC_LIMIT


def _magnitude(tensor: QTensor) -> int:
    """max_n B_n: the largest sum of |W_int| over a row, times the largest |code|; exact."""
    largest = 0
    for start in range(0, tensor.rows, 4096):
        blocks = np.abs(tensor.integers(slice(start, start + 4096))).sum(axis=2)
        high, low = (blocks >> 30).sum(axis=1), (blocks & 0x3FFFFFFF).sum(axis=1)
        largest = max(
            largest,
            max((int(h) << 30) + int(x) for h, x in zip(high, low, strict=True)),
        )
    return largest << (fx.ACTIVATION_BITS - 1)


def _added(added: dict[str, float], name: str) -> int:
    """Bound of a bias once it is rounded, whatever the floor; 0 without one."""
    if name not in added:
        return 0
    return math.ceil(added[name] * (1 + 2.0**-10)) + (1 << fx.FLOOR_MAX)


def exponent_floor(
    source: str,
    tensors: list[tuple[str, QTensor]],
    proofs: list[Proof],
    added: dict[str, float] | None = None,
) -> int:
    """The smallest exponent floor with which all `tensors` (by name) fit the accumulator.

    Adds a line per tensor to `proofs`. `added` are the largest biases, in units of the accumulator
    without a floor; with it they have to fit a block of the tape, too.

    Raises
    ------
    ModelError
        If the largest floor does not suffice.
    """
    added = added or {}
    bits = [
        ((_magnitude(tensor) << fx.ACTIVATION_SHIFT_MAX) + _added(added, name)).bit_length()
        for name, tensor in tensors
    ]
    blocks = [
        math.ceil(math.log2(added[name] / largest_bias(tensor.bits)))
        for name, tensor in tensors
        if added.get(name, 0.0) > 0.0
    ]
    floor = max(0, max(bits) - ACC_LIMIT, *blocks)
    if floor > fx.FLOOR_MAX:
        worst = tensors[bits.index(max(bits))][0]
        raise ModelError(
            f"{source}: {worst} needs {max(bits)} accumulator bits; with the largest exponent "
            f"floor, {fx.FLOOR_MAX}, it may need {ACC_LIMIT + fx.FLOOR_MAX}"
        )
    for (name, _), need in zip(tensors, bits, strict=True):
        proofs.append(Proof(name=name, bits=need - floor, floor=floor))
    return floor


def score_floors(source: str, head_size: int, proofs: list[Proof]) -> tuple[int, int]:
    """Floors of q and k: as small as the accumulator allows, q's the larger by at most one.

    Adds a line to `proofs`.

    Raises
    ------
    ModelError
        If the largest floor does not suffice.
    """
    blocks = -(-head_size // fx.BLOCK)
    peak = blocks * fx.BLOCK << (fx.ACTIVATION_BITS - 1 + fx.KV_BITS - 1)
    bits = peak.bit_length() + fx.ACTIVATION_SHIFT_MAX + fx.KV_SHIFT_MAX
    excess = max(0, bits - ACC_LIMIT)
    q_floor, k_floor = excess - excess // 2, excess // 2
    if q_floor > fx.FLOOR_MAX:
        raise ModelError(f"{source}: score needs {bits} accumulator bits for head {head_size}")
    proofs.append(Proof(name="score", bits=bits - excess, floor=excess))
    return q_floor, k_floor


def row_bounds(tensor: QTensor, gain: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """|w x| <= sqrt(D) ||w o gain||_2 of each row (Cauchy-Schwarz), float64 [N]."""
    result = np.empty(tensor.rows)
    weight = np.zeros(tensor.blocks * fx.BLOCK)
    weight[: tensor.cols] = gain
    for start in range(0, tensor.rows, 4096):
        whole = tensor.integers(slice(start, start + 4096)).astype(np.float64)
        scaled = whole.reshape(len(whole), -1) * weight
        result[start : start + len(whole)] = np.sqrt(np.square(scaled).sum(axis=1))
    return np.ldexp(result, tensor.e0 - 25) * math.sqrt(tensor.cols)


def ceil_log2(value: float) -> int:
    """ceil(log2(value)), exact; 0 for 0."""
    if value <= 0.0:
        return 0
    mantissa, exponent = math.frexp(value)
    return exponent - 1 if mantissa == 0.5 else exponent


def fraction_bits(bound: float) -> int:
    """Fraction bits of a fixed32 that has to hold +-bound."""
    return 31 - ceil_log2(bound * SLACK)


def check_shift(source: str, name: str, shift: int) -> None:
    """Raise ModelError for a drain shift that the hardware has not."""
    if not 0 <= shift <= fx.DRAIN_SHIFT_MAX - (name.endswith("swiglu")):
        raise ModelError(
            f"{source}: {name} would drain with a shift of {shift}; allowed are 0.."
            f"{fx.DRAIN_SHIFT_MAX}"
        )
