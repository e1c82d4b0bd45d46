"""Kinds of attention on the whole chip: norms of q and k, windows; logits, tokens and cycles."""

import pytest

from tests.compiler.test_schedule import Case
from tests.models_for_tests import SMALL, prompt_for, random_model
from tests.test_chip import check
from tokenloom.compiler.errors import ConfigError
from tokenloom.compiler.image import lay_out
from tokenloom.compiler.program import compile_program
from tokenloom.compiler.quantise import quantise
from tokenloom.hw.attention.window import first_token
from tokenloom.hw.config import load

PAGE = load("mini").memory.page_tokens
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


WINDOWED = {
    "one-token": dict(**SMALL, window=1),
    "inside-a-page": dict(**SMALL, window=40),
    "over-pages": dict(**SMALL, window=PAGE + 3),
    "one-layer-of-two": dict(**SMALL, window=21, full_layers=(0,)),
    "wider-than-the-context": dict(**SMALL, window=1000),
}


def windowed(name):
    return quantise(random_model(**WINDOWED[name], seed=len(name)))


@pytest.mark.parametrize("name", WINDOWED)
def test_windows(name, device):
    """A prompt over three pages, the last tokens with their logits, then more."""
    model = windowed(name)
    check(device(model), prompt_for(model, 2 * PAGE + 11), 6)


@pytest.mark.parametrize("name", ["inside-a-page", "one-layer-of-two"])
def test_prediction_with_a_window(name):
    case = Case(windowed(name), 2 * PAGE + 5, 4)
    assert case.differences() == []
    # Pages before the window are not fetched: without it, a pass takes more beats.
    plain = Case(quantise(random_model(**SMALL)), 2 * PAGE + 5, 1)
    assert case.records[-4].beats < plain.records[-1].beats


def test_first_token():
    for window in (0, 1, 5, PAGE, PAGE + 1, 300):
        for pos in (0, 1, PAGE - 1, PAGE, 2 * PAGE + 3, 500):
            found = first_token(pos=pos, window=window, page_tokens=PAGE)
            seen = [t for t in range(pos + 1) if window == 0 or t > pos - window]
            assert found % PAGE == 0 and found <= seen[0]
            assert window == 0 or seen[0] < found + PAGE
