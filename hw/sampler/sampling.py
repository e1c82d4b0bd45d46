"""Point 16: the sampled token, as integer functions (docs/numbers.md).

Gumbel-max: the largest of `logit + T g(seed, position, id)`, with independent Gumbel variables g,
is a draw from softmax(logits / T). Here g is a function of seed, position and id alone, so the
order in which logits leave the array cannot change the token; with T = 0 it is the greedy one.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tokenloom.hw.numbers.formats import Int, bit_length, round_shift
from tokenloom.hw.numbers.tables import (
    GUMBEL_FRAC,
    GUMBEL_OFFSET_BITS,
    GUMBEL_SEGMENT_BITS,
    gumbel_segments,
)

__all__ = [
    "GREEDY_SCALE",
    "NoiseScale",
    "gumbel",
    "noise_scale",
    "normalised",
    "sample",
    "threefry",
]

THREEFRY_ROUNDS = 20
THREEFRY_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
THREEFRY_PARITY = 0x1BD11BDA
THREEFRY_GROUP = 4  # rounds between two injections of the key

SEED_BITS = 64
NOISE_MANTISSA_BITS = 16  # of T in units of a score
NOISE_SHIFT_BITS = 6
NOISE_SHIFT_MAX = 62
NOISE_LEFT = 16  # T g = rs(g mantissa << NOISE_LEFT, shift)
GUARD_BITS = 8  # fraction bits that a score has more than a logit

_MASK = 0xFFFFFFFF


class NoiseScale(NamedTuple):
    """The temperature in units of a score: mantissa 2^(16 - shift), the mantissa has 16 bits."""

    mantissa: int
    shift: int


GREEDY_SCALE = NoiseScale(0, 0)


def noise_scale(temperature: float, fraction_bits: int) -> NoiseScale:
    """The scale for logits with `fraction_bits` fraction bits.

    Raises
    ------
    ValueError
        When the temperature is beyond what such logits allow.
    """
    if temperature == 0:
        return GREEDY_SCALE
    # g has GUMBEL_FRAC fraction bits, a score fraction_bits + GUARD_BITS.
    value = Fraction(temperature) * Fraction(2) ** (fraction_bits + GUARD_BITS - GUMBEL_FRAC)
    scale = normalised(value, NOISE_LEFT)
    if scale is None:
        raise ValueError(
            f"temperature {temperature:g} is beyond what logits with {fraction_bits} fraction "
            "bits allow"
        )
    return scale


def normalised(value: Fraction, left: int = 0) -> NoiseScale | None:
    """`value` as mantissa 2^(left - shift) with all mantissa bits; None if no shift can say it."""
    shift = left + NOISE_MANTISSA_BITS - 1
    while value >= 2:
        value, shift = value / 2, shift - 1
    while value < 1:
        value, shift = value * 2, shift + 1
    mantissa = int(value * (1 << (NOISE_MANTISSA_BITS - 1)) + Fraction(1, 2))
    if mantissa == 1 << NOISE_MANTISSA_BITS:
        mantissa, shift = mantissa >> 1, shift - 1
    return NoiseScale(mantissa, shift) if 0 <= shift <= NOISE_SHIFT_MAX else None


def threefry_schedule(seed: int) -> Iterator[tuple[int, int]]:
    """The two words that are added before the first round and after every fourth."""
    low, high = seed & _MASK, seed >> 32
    keys = (low, high, low ^ high ^ THREEFRY_PARITY)
    for number in range(THREEFRY_ROUNDS // THREEFRY_GROUP + 1):
        yield keys[number % 3], (keys[(number + 1) % 3] + number) & _MASK


def threefry(seed: int, low: npt.ArrayLike, high: npt.ArrayLike) -> tuple[Int, Int]:
    """Threefry-2x32-20 (Salmon et al., 2011): a counter's two words become random ones.

    Parameters
    ----------
    seed : int
        The key, 64 bits.
    low, high : arrays of 32-bit words
        The counter.

    Returns
    -------
    int64 arrays of 32-bit words
    """
    x0, x1 = np.asarray(low, dtype=np.int64), np.asarray(high, dtype=np.int64)
    for number, (key0, key1) in enumerate(threefry_schedule(seed)):
        x0, x1 = (x0 + key0) & _MASK, (x1 + key1) & _MASK
        if number == THREEFRY_ROUNDS // THREEFRY_GROUP:
            break
        for i in range(number * THREEFRY_GROUP, (number + 1) * THREEFRY_GROUP):
            left = THREEFRY_ROTATIONS[i % len(THREEFRY_ROTATIONS)]
            x0 = (x0 + x1) & _MASK
            x1 = ((x1 << left | x1 >> (32 - left)) & _MASK) ^ x0
    return x0, x1


def gumbel(words: npt.ArrayLike) -> Int:
    """g = -ln(-ln u) of u = (w + 1/2) / 2^32, linear on 16 segments per octave of u and 1 - u.

    Parameters
    ----------
    words : int64 array of 32-bit words w

    Returns
    -------
    int64 array
        22 bits signed, 16 fraction bits; wrong by less than 2.6e-4.
    """
    w = np.asarray(words, dtype=np.int64)
    upper = w >> 31
    # The nearer end's distance, in 2^-33 and odd: 1..2^32 - 1.
    distance = ((w ^ -upper) & 0x7FFFFFFF) << 1 | 1
    octave = 32 - bit_length(distance)
    normal = distance << octave
    below = 31 - GUMBEL_SEGMENT_BITS
    segment = normal >> below & (1 << GUMBEL_SEGMENT_BITS) - 1
    offset = normal >> (below - GUMBEL_OFFSET_BITS) & (1 << GUMBEL_OFFSET_BITS) - 1
    table = np.asarray(gumbel_segments(), dtype=np.int64)
    entry = table[(upper << 5 | octave) << GUMBEL_SEGMENT_BITS | segment]
    return entry[..., 0] + round_shift(entry[..., 1] * offset, GUMBEL_OFFSET_BITS)


def sample(logits: npt.ArrayLike, position: int, scale: NoiseScale, seed: int) -> int:
    """The token after `position`: the largest score, the lowest id among equals.

    Parameters
    ----------
    logits : fixed32 array [vocab]
        After the token at `position`.
    position : int
    scale : NoiseScale
        From `noise_scale`; `GREEDY_SCALE` for the largest logit.
    seed : int
        64 bits.
    """
    scores = np.asarray(logits, dtype=np.int64) << GUARD_BITS
    if scale.mantissa:
        words, _ = threefry(seed, np.arange(len(scores)), position)
        # Fits: 22 + 16 bits, shifted to the left by 16; the sum has one more.
        noise = gumbel(words) * scale.mantissa << NOISE_LEFT
        scores = scores + round_shift(noise, scale.shift)
    return int(np.argmax(scores))
