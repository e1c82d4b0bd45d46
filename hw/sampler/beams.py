"""Point 20: one step of beam search, as an integer function (docs/numbers.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["BEAMS_MAX", "BEAM_SCORE_BITS", "PENALTY_BITS", "Beam", "beam_step"]

BEAMS_MAX = 8
BEAM_SCORE_BITS = 48  # signed, 16 fraction bits: the sum of 8160 logarithms and penalties fits
PENALTY_BITS = 24  # of the diversity penalty, 16 fraction bits


class Beam(NamedTuple):
    """A beam after a step: its parent, its new token and its score."""

    parent: int
    token: int
    score: int


def beam_step(
    candidates: Sequence[Sequence[tuple[int, int]]],
    scores: Sequence[int],
    *,
    groups: int = 1,
    penalty: int = 0,
) -> list[Beam]:
    """The beams that go on: in each group the largest scores, group after group.

    A score is the parent's plus the token's logarithm minus the penalty for each beam of an earlier
    group that took this token in this step (Hamming diversity: Vijayakumar et al., "Diverse Beam
    Search", 2016). The penalty stays in the score.

    Parameters
    ----------
    candidates : per beam its (token, logarithm) pairs, largest first
        Logarithms as `candidates.log_probabilities`. As many as there are beams suffice: at most
        that many tokens are penalised or chosen. A beam that has ended has none.
    scores : sequence of int
        The beams'.
    groups : int
        A divisor of the number of beams; a group is a run of neighbouring beams.
    penalty : int
        16 fraction bits.

    Returns
    -------
    list of Beam
        Group by group, largest first; among equals the lowest parent, then the first candidate. A
        group with too few candidates has fewer.

    Raises
    ------
    ValueError
        When there are more than `BEAMS_MAX` beams or they do not make equal groups.
    """
    count = len(candidates)
    if not 1 <= count <= BEAMS_MAX:
        raise ValueError(f"{count} beams are impossible; allowed: 1 to {BEAMS_MAX}")
    if groups < 1 or count % groups:
        raise ValueError(f"{groups} groups of {count} beams are impossible; allowed: divisors")
    width = count // groups
    result: list[Beam] = []
    for first in range(0, count, width):
        taken = [beam.token for beam in result]
        found = [
            Beam(parent, token, scores[parent] + logarithm - penalty * taken.count(token))
            for parent in range(first, first + width)
            for token, logarithm in candidates[parent]
        ]
        result += sorted(found, key=lambda beam: -beam.score)[:width]
    return result
