"""Where everything lies in the channels, and what does not fit there."""

import pytest

from tests.models_for_tests import random_model
from tokenloom.compiler.errors import ModelError
from tokenloom.compiler.image import lay_out
from tokenloom.compiler.quantise import quantise
from tokenloom.hw.config import load


def test_pages_beyond_the_addresses_of_writes():
    """A KV write there would wrap and land in the weights."""
    model = quantise(random_model(width=128, heads=8, kv_heads=4, layers=8))
    overrides = ["memory.page_tokens=256", "memory.pages="]
    page = lay_out(model, load("mini")).kv.page_stride * 4  # of four times the tokens
    base = lay_out(model, load("mini")).kv_base * 64
    fit = (2**32 - base) // page
    image = lay_out(model, load("mini", [overrides[0], f"{overrides[1]}{fit}"]))
    assert image.kv.page_stride == page
    assert 2**32 - page < image.words * 64 <= 2**32
    with pytest.raises(ModelError, match=r"each of 2 channels; allowed are 4294967296, because"):
        lay_out(model, load("mini", [overrides[0], f"{overrides[1]}{fit + 1}"]))
