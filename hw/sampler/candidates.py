"""Points 17 to 19: adjusted logits, candidates, cut-offs, as integer functions (docs/numbers.md).

The token of a request with cut-offs is the Gumbel-max winner (point 16) among the candidates that
the cut-offs leave. Sums are exact, so neither order nor array shape can change it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tokenloom.hw.numbers.formats import PROB_FRAC, SCORE_FRAC, Int, exp2_table, round_shift, sat32
from tokenloom.hw.numbers.tables import LOG2_FRAC, LOG2_SEGMENT_BITS, log2_segments
from tokenloom.hw.sampler.sampling import GUARD_BITS, NOISE_LEFT, gumbel, threefry
from tokenloom.hw.sampler.settings import FACTOR_FRAC, FACTOR_ONE, SHARE_FRAC, Settings

__all__ = [
    "BINS",
    "DEPTH_BITS",
    "LOG2_OFFSET_BITS",
    "UNIT_BITS",
    "Choice",
    "adjust",
    "choose",
    "kept_candidates",
    "log2_total",
    "log_probabilities",
    "power_sum",
    "powers",
    "scores",
]

BINS = 32  # octaves below the largest power that count
UNIT_BITS = PROB_FRAC + BINS - 1  # a power's unit is 2^-48 of the top octave
DEPTH_BITS = 24  # of a power's distance from the top octave, clamped
LOG2_OFFSET_BITS = 14  # of a place in a segment


class Choice(NamedTuple):
    """What a row's sampler finds.

    Attributes
    ----------
    token : int
    ids : list of int
        The candidates: the ids of the largest logits, largest first, the lowest id among equals.
    kept : int
        How many of them, from the first on, the cut-offs leave.
    total : int
        Sum of the powers of all ids not masked, unit 2^-48 of the top octave; 0 without a list.
    octave : int
        The top octave: the sum is total 2^(-48 - octave).
    """

    token: int
    ids: list[int]
    kept: int
    total: int
    octave: int


def adjust(
    logits: npt.ArrayLike,
    settings: Settings,
    recent: Collection[int] = (),
    biases: Sequence[tuple[int, int]] = (),
) -> Int:
    """Point 17: repetition penalty, then bias.

    Parameters
    ----------
    logits : fixed32 array [vocab]
    settings : Settings
    recent : collection of int
        Ids in the window (`settings.window` is how long it is; the caller cuts it).
    biases : sequence of (id, fixed32)
        Each id once.

    Returns
    -------
    int64 array of fixed32 [vocab]
    """
    values = np.asarray(logits, dtype=np.int64)
    factor = np.full(values.shape, FACTOR_ONE)
    bias = np.zeros_like(values)
    again = np.array(sorted(set(recent)), dtype=np.int64)
    factor[again] = np.where(values[again] < 0, settings.up, settings.down)
    for token, value in biases:
        bias[token] = value
    # Fits: 32 and 16 bits.
    return sat32(round_shift(values * factor, FACTOR_FRAC) + bias)[0]


def powers(logits: npt.ArrayLike, settings: Settings) -> tuple[Int, Int]:
    """Point 18: 2^(logit log2(e) / T) as mantissa and octave.

    Returns
    -------
    mantissa : int64 array
        2^16 < m <= 2^17: E of point 10.
    octave : int64 array
        The power is m 2^(-17 - octave); signed.
    """
    values = np.asarray(logits, dtype=np.int64)
    # Fits: 32 and 16 bits.
    depth = -round_shift(values * settings.power_mantissa, settings.power_shift)
    table = np.asarray(exp2_table(), dtype=np.int64)
    return table[depth & ((1 << SCORE_FRAC) - 1)], depth >> SCORE_FRAC


def power_sum(mantissas: Int, octaves: Int) -> tuple[int, int]:
    """Point 18: the exact sum of powers, of the `BINS` octaves from the top one on.

    Returns
    -------
    total : int
        Unit 2^-48 of the top octave.
    octave : int
        The top octave.
    """
    top = int(octaves.min())
    place = octaves - top
    # Exact: a bin's sum is below 2^(20 + 17), so a double holds it.
    bins = np.bincount(np.minimum(place, BINS), weights=mantissas, minlength=BINS)
    return sum(int(value) << (BINS - 1 - i) for i, value in enumerate(bins[:BINS])), top


def kept_candidates(ids_mantissas: Int, ids_octaves: Int, total: int, top: int,
                    settings: Settings) -> int:  # fmt: skip
    """Point 19: how many of the candidates, largest first, the cut-offs leave.

    Parameters
    ----------
    ids_mantissas, ids_octaves : int64 arrays [candidates]
    total, top : int
        `power_sum` of the vocabulary.
    settings : Settings
    """
    values = [
        int(m) << (BINS - 1 - place) if (place := int(octave) - top) < BINS else 0
        for m, octave in zip(ids_mantissas, ids_octaves, strict=True)
    ]
    limit = settings.top_p * (sum(values) if settings.limited else total)
    least = settings.min_p * int(ids_mantissas[0])
    before = 0
    for rank, value in enumerate(values):
        # As a share of the first one's power, which lies in the top octave.
        small = value << SHARE_FRAC < least << (BINS - 1)
        if small or (settings.top_p and limit <= before << SHARE_FRAC):
            return rank
        before += value
    return len(values)


def scores(
    logits: npt.ArrayLike, ids: npt.ArrayLike, position: npt.ArrayLike, settings: Settings
) -> Int:
    """Point 16's scores of these ids, whose logits these are; also for an array of positions."""
    found = np.asarray(logits, dtype=np.int64) << GUARD_BITS
    if settings.mantissa:
        words, _ = threefry(settings.seed, ids, position)
        noise = gumbel(words) * settings.mantissa << NOISE_LEFT
        found = found + round_shift(noise, settings.shift)
    return found


def choose(
    logits: npt.ArrayLike,
    position: int,
    settings: Settings,
    *,
    recent: Sequence[int] = (),
    biases: Sequence[tuple[int, int]] = (),
    mask: npt.ArrayLike | None = None,
) -> Choice:
    """The token after `position`.

    Parameters
    ----------
    logits : fixed32 array [vocab]
    position : int
    settings : Settings
    recent : sequence of int
        The sequence up to `position`; the last `settings.window` tokens count.
    biases : sequence of (id, fixed32)
        The first `settings.biases` count.
    mask : bool array [vocab], optional
        True: the id is not allowed; counts with `settings.masked`.
    """
    window = recent[-settings.window :] if settings.window else ()
    values = adjust(logits, settings, window, biases[: settings.biases])
    ids = np.arange(len(values))
    if settings.masked and mask is not None:
        ids = ids[~np.asarray(mask, dtype=bool)]
    if not len(ids):
        return Choice(0, [], 0, 0, 0)
    values = values[ids]
    if not settings.cuts:
        token = int(ids[np.argmax(scores(values, ids, position, settings))])
    if not settings.count:
        return Choice(token, [], 0, 0, 0)
    order = np.argsort(-values, kind="stable")[: settings.count]
    total, top = power_sum(*powers(values, settings))
    mantissas, octaves = powers(values[order], settings)
    kept = kept_candidates(mantissas, octaves, total, top, settings)
    if settings.cuts:
        left = order[:kept]
        found = scores(values[left], ids[left], position, settings)
        token = int(ids[left[found == found.max()]].min())
    return Choice(token, ids[order].tolist(), kept, total, top)


def log2_total(total: int) -> int:
    """Point 18: log2 of a sum of powers in units of the top octave, `LOG2_FRAC` fraction bits.

    Parameters
    ----------
    total : int
        From `power_sum`, positive.

    Returns
    -------
    int
        Wrong by less than 1.5 units: 2.3e-5.
    """
    width = total.bit_length()
    place_bits = LOG2_SEGMENT_BITS + LOG2_OFFSET_BITS
    place = (total << place_bits >> (width - 1)) - (1 << place_bits)  # truncated
    start, rise = log2_segments()[place >> LOG2_OFFSET_BITS]
    offset = place & (1 << LOG2_OFFSET_BITS) - 1
    fraction = start + int(round_shift(rise * offset, LOG2_OFFSET_BITS))
    return ((width - 1 - UNIT_BITS) << LOG2_FRAC) + fraction


def log_probabilities(logits: npt.ArrayLike, settings: Settings, total: int, octave: int) -> Int:
    """Point 18: base-2 logarithms of probabilities, fixed32 with `LOG2_FRAC` fraction bits."""
    values = np.asarray(logits, dtype=np.int64)
    below = -round_shift(values * settings.power_mantissa, settings.power_shift)
    below = np.minimum(below - (octave << SCORE_FRAC), (1 << DEPTH_BITS) - 1)
    return -(below << (LOG2_FRAC - SCORE_FRAC)) - log2_total(total)
