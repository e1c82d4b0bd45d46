"""Sparse attention of the golden model, and what of V it leaves unread."""

import numpy as np
import pytest

from tests.models_for_tests import random_model
from tokenloom.compiler.quantise import quantise
from tokenloom.hw.numbers import formats as fx
from tokenloom.sim.golden import Golden
from tokenloom.sim.value_beats import ValueBeats


@pytest.fixture(scope="module")
def model():
    return quantise(random_model(seed=5), positions=128)


def ids(model, count):
    return np.random.default_rng(count).integers(0, model.shape.vocab, count).tolist()


def test_as_many_scores_as_tokens_change_nothing(model):
    tokens, beats = ids(model, 70), ValueBeats(70)
    few = Golden(model, trace=beats, sparse=70)
    assert np.array_equal(few.logits(tokens), Golden(model).logits(tokens))
    assert (beats.beats, beats.idle, beats.share) == (0, 0, 0)


def test_one_score_is_the_value_with_the_largest(model):
    found = {}
    few = Golden(model, lambda name, _, array: found.setdefault(name, array), sparse=1)
    few.logits(ids(model, 40))
    seen, kept, score = found["seen"], found["kept"], found["score"]
    assert np.array_equal(seen, np.tri(40, dtype=bool))
    best = np.where(seen, score, score.min() - 1).max(axis=-1, keepdims=True)
    assert np.array_equal(kept, seen & (score == best))
    assert np.array_equal(found["den"], kept.sum(axis=-1) << fx.PROB_FRAC)


def test_beats_are_counted_as_the_chip_reads_them():
    beats = ValueBeats(2)
    seen = np.tri(70, dtype=bool)[[1, 2, 69]]  # a row of 2 tokens has no choice
    kept = np.zeros((2, 3, 3, 70), dtype=bool)
    kept[0, 0, 1, 0] = True  # group 0: one head in block 0,
    kept[0, 1, 2, 31] = kept[0, 2, 2, 32] = True  # two heads in blocks 0 and 1 of 3;
    kept[1, :, 1, 2] = True  # group 1: all heads in block 0,
    kept[1, 0, 2, 69] = True  # one in block 2
    beats("kept.other", 0, kept)
    beats("seen", 0, seen)
    beats("kept", 0, kept)
    assert (beats.beats, beats.idle) == (2 * (1 + 3), 1 + 2)
    assert beats.share == 3 / 8
