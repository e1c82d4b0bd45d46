"""Which page a sequence can best do without: formats and choice, the golden function.

Per page the hardware keeps three values:

* age: epochs (`tick`s) since the page was last used, 0..`AGE_MAX`, where it stays;
* frequency: uses, `FREQUENCY_BITS` unsigned, saturating;
* mass: attention that the page got, `MASS_BITS` unsigned, saturating, in a unit of the user's
  choice (256 for one token's whole attention leaves room for 256 tokens).

A use of a page adds 1 to its frequency and an amount to its mass, and makes its age 0. With each
epoch frequency and mass halve (rounded down), so the user sets their half-life by ticking.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "AGE_BITS",
    "AGE_MAX",
    "FREQUENCY_BITS",
    "FREQUENCY_MAX",
    "MASS_BITS",
    "MASS_MAX",
    "SCORE_BITS",
    "WEIGHT_BITS",
    "PageState",
    "Weights",
    "choose",
    "score",
]

AGE_BITS = 8
AGE_MAX = (1 << AGE_BITS) - 1
FREQUENCY_BITS = 8
FREQUENCY_MAX = (1 << FREQUENCY_BITS) - 1
MASS_BITS = 16
MASS_MAX = (1 << MASS_BITS) - 1
WEIGHT_BITS = 8
# Recency and frequency are scaled to mass's range.
SCALE_BITS = MASS_BITS - FREQUENCY_BITS
SCORE_BITS = WEIGHT_BITS + MASS_BITS + 2


@dataclass(frozen=True)
class Weights:
    """What each of the three values counts for, 0..255."""

    recency: int
    frequency: int
    mass: int


@dataclass
class PageState:
    """A page's three values; a new page's are all 0."""

    age: int = 0
    frequency: int = 0
    mass: int = 0

    def use(self, mass: int) -> None:
        """The page is used and gets so much attention."""
        self.age = 0
        self.frequency = min(self.frequency + 1, FREQUENCY_MAX)
        self.mass = min(self.mass + mass, MASS_MAX)

    def tick(self) -> None:
        """An epoch passes."""
        self.age = min(self.age + 1, AGE_MAX)
        self.frequency >>= 1
        self.mass >>= 1


def score(page: PageState, weights: Weights) -> int:
    """How much a page is worth keeping: exact, `SCORE_BITS` unsigned.

    `((w_recency (AGE_MAX - age) + w_frequency frequency) << 8) + w_mass mass`
    """
    near = weights.recency * (AGE_MAX - page.age) + weights.frequency * page.frequency
    return (near << SCALE_BITS) + weights.mass * page.mass


def choose(candidates: Iterable[PageState], weights: Weights) -> int | None:
    """Number of the candidate with the lowest score, the first among equals; None of none."""
    scores = [score(page, weights) for page in candidates]
    return min(range(len(scores)), key=scores.__getitem__) if scores else None
