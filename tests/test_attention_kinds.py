"""Kinds of attention on the whole chip: norms of q and k, windows; logits, tokens and cycles."""

import pytest

from tests.compiler.test_schedule import Case
from tests.models_for_tests import SMALL, prompt_for, random_model
from tests.test_chip import check
from tokenloom.compiler.errors import ConfigError
from tokenloom.compiler.image import lay_out
from tokenloom.compiler.program import compile_program
from tokenloom.compiler.quantise import quantise
from tokenloom.hw.config import load

NORMED = load("mini", ["maxima.qk_norm=1"])

SHAPES = {
    "small": SMALL,
    "head-2": dict(width=24, ffn=20, heads=4, kv_heads=2, head_size=2, vocab=7),
    "head-16": dict(width=48, ffn=64, heads=4, kv_heads=4, head_size=16, layers=2),
    "biased": dict(**SMALL, bias=2.0),
}


@pytest.mark.parametrize("name", SHAPES)
def test_head_norms(name, device):
    model = quantise(random_model(**SHAPES[name], qk_norm=True, seed=len(name)))
    check(device(model, hardware=NORMED), prompt_for(model, 5), 4)


def test_a_model_without_norms_on_a_chip_that_has_them(device):
    model = quantise(random_model(**SMALL))
    check(device(model, hardware=NORMED), prompt_for(model, 3), 3)
    assert Case(model, 3, 3, NORMED).differences() == []


@pytest.mark.parametrize("prompt", [1, 7])
@pytest.mark.parametrize("name", SHAPES)
def test_prediction_with_head_norms(name, prompt):
    model = quantise(random_model(**SHAPES[name], qk_norm=True))
    assert Case(model, prompt, 4, NORMED).differences() == []


def test_a_chip_without_norms_refuses():
    model = quantise(random_model(**SMALL, qk_norm=True))
    plain = load("mini")
    with pytest.raises(ConfigError, match=r"its qk_norm is .*maxima.qk_norm is 0; .*-P maxima"):
        compile_program(model, lay_out(model, plain), plain)
