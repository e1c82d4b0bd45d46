"""Rows of logits for many samplers next to each other."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from tests.hw.side_by_side import Lanes
from tests.hw.words import words
from tokenloom.hw.sampler.noise import Noise

__all__ = ["HIGH", "LOW", "row_size", "send", "some_rows"]

LOW, HIGH = -(2**31), 2**31 - 1


def row_size(rng: random.Random, most: int) -> int:
    """Of all lengths alike, by their logarithm; one of five is as long as can be."""
    return most if rng.random() < 0.2 else round(most ** rng.random())


def some_rows(rng: np.random.Generator, lanes: int, size: int, fraction: int) -> np.ndarray:
    """A row for each lane, [lanes, size]: real ones, ties, extremes, falling, rising, one value."""
    bound = rng.choice((0, 1, 3, 1000, 1 << fraction, 8 << fraction, HIGH), (lanes, 1))
    rows = rng.integers(-bound, bound, (lanes, size), endpoint=True)
    kind = rng.integers(0, 8, lanes)
    rows[kind == 0] = np.sort(rows[kind == 0])
    rows[kind == 1] = np.sort(rows[kind == 1])[:, ::-1]
    rows[kind == 2] = rng.choice((LOW, HIGH, 0), (int((kind == 2).sum()), size))
    real = (int((kind >= 6).sum()), size)
    rows[kind >= 6] = (rng.normal(0, 2, real) * 2**fraction).astype(np.int64)
    return rows


async def send(
    lanes: Lanes,
    rows: np.ndarray,
    *,
    gap: float,
    masks: np.ndarray | None = None,
    **stable: list[int],
) -> None:
    """Restart all samplers and send their rows, the last logit as this cycle's input."""
    size = rows.shape[1]
    logits = words(rows.T, 32)
    masked = words(masks.T, 1) if masks is not None else []

    def about(lane: int) -> str:
        return f"a token before the row's end, {size} logits"

    lanes.drive(restart=lanes.every, **stable)
    await lanes.next()
    for _ in range(Noise.LEAD + lanes.rng.choice((0, 0, 1, 30))):
        lanes.drive()
        await lanes.next()
    for i in range(size):
        while lanes.rng.random() < gap:
            lanes.drive()
            await lanes.next()
            lanes.same("token_valid", 0, about)
        given: dict[str, Any] = {"in_masked": masked[i]} if masked else {}
        lanes.drive(
            in_valid=lanes.every,
            in_logit=logits[i],
            in_start=lanes.every if i == 0 else 0,
            in_last=lanes.every if i == size - 1 else 0,
            **given,
        )
        if i < size - 1:
            await lanes.next()
            lanes.same("token_valid", 0, about)
