"""Rows for samplers with candidates: settings, tables and what `candidates` makes of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tests.hw.sampler.row_lanes import HIGH, LOW
from tokenloom.hw.sampler.candidates import Choice, adjust, choose, log_probabilities
from tokenloom.hw.sampler.settings import BIASES_MAX, WINDOW_MAX, Settings, make_settings

__all__ = ["FRACTION", "LISTED", "Row", "a_row"]

Numbers = np.ndarray | list[int]
FRACTION = 20
LISTED = ("list_id", "list_logit", "list_log", "list_kept")


def settings_of(rng: Any, most: int, entries: int) -> Settings:
    """Settings for `most` candidates and up to `entries` biases, with any part on or off; now and
    then fields at their ends.
    """
    settings = make_settings(
        fraction_bits=FRACTION,
        temperature=rng.choice((0, 0.001, 0.3, 0.8, 1.0, 2.0, 100.0)),
        seed=rng.getrandbits(64),
        top_k=min(
            most, rng.choice((0, 0, 1, 2, 31, 32, 33, most - 1, most, rng.randrange(1, most)))
        ),
        top_p=rng.choice((1.0, 1.0, 1e-9, 0.1, 0.5, 0.9, 0.95, 0.9999999, rng.random() or 0.5)),
        min_p=rng.choice((0.0, 0.0, 1e-9, 0.05, 0.3, 0.999999, rng.random())),
        penalty=rng.choice((1.0, 1.0, 1.1, 1.3, 0.8, 3.999, 0.2501)),
        window=rng.choice((1, 2, 5, 63, 64)),
        biases=min(entries, rng.choice((0, 0, 1, 5, 31, 32))),
        masked=rng.random() < 0.3,
        candidates=most,
        listed=rng.random() < 0.3,
    )  # fmt: skip
    if rng.random() < 0.1:
        ends = {"power_mantissa": 16, "power_shift": 6, "up": 16, "down": 16, "top_p": 16}
        name = rng.choice(list(ends))
        value = 62 if name == "power_shift" else rng.choice((1, (1 << ends[name]) - 1))
        # A cut-off cuts in a list.
        count = max(1, settings.count) if name == "top_p" else settings.count
        settings = Settings(**{**vars(settings), "count": count, name: value})
    return settings


class Row(NamedTuple):
    """What a sampler gets beside the logits, and what comes out."""

    settings: Settings
    vocab_bits: int
    position: int
    recent: list[int]
    biases: list[tuple[int, int]]  # the whole table
    want: Choice
    listed: list[tuple[int, ...]]  # id, logit, logarithm, kept

    @property
    def recent_count(self) -> int:
        return min(self.settings.window, len(self.recent)) if self.settings.window else 0

    @property
    def recent_word(self) -> int:
        latest = enumerate(reversed(self.recent[-WINDOW_MAX:]))
        return sum(token << self.vocab_bits * place for place, token in latest)


def a_row(rng: Any, logits: Numbers, mask: Numbers, *, candidates: int, vocab_bits: int) -> Row:
    """Any settings for these logits, and the golden answer."""
    size, entries = len(logits), min(1 << vocab_bits, BIASES_MAX)
    settings = settings_of(rng, candidates, entries)
    spread = max(1, size // rng.choice((1, 4)))
    recent = [rng.randrange(spread) for _ in range(rng.choice((1, 3, 64, 100)))]
    few = rng.random() >= 0.5
    ids = sorted(range(entries) if few else rng.sample(range(1 << vocab_bits), entries))
    biases = [(i, rng.choice((LOW, HIGH, 0, rng.randint(LOW, HIGH) >> 8))) for i in ids]
    inside = [entry for entry in biases[: settings.biases] if entry[0] < size]
    position = rng.getrandbits(20)
    want = choose(logits, position, settings, recent=recent, biases=inside, mask=mask)
    listed: list[tuple[int, ...]] = []
    if want.ids:
        window = recent[-settings.window :] if settings.window else ()
        values = adjust(logits, settings, window, inside)[want.ids]
        logs = log_probabilities(values, settings, want.total, want.octave)
        kept = [int(i < want.kept) for i in range(len(want.ids))]
        listed = list(zip(want.ids, values.tolist(), logs.tolist(), kept, strict=True))
    return Row(settings, vocab_bits, position, recent, biases, want, listed)
