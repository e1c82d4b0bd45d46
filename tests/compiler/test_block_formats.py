"""Block formats: tables, the nearest codes, and scales at fp16's ends."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import quants

from tests.models_for_tests import SMALL, random_model
from tokenloom.compiler.block_formats import (
    CODEBOOKS,
    LINEAR,
    e8m0_scale,
    from_table,
    places,
    quantised_blocks,
)
from tokenloom.compiler.errors import ModelError
from tokenloom.compiler.quantise import quantise

NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
]  # fmt: skip


def values(seed=1, shape=(40, 3, 32)):
    """Blocks of very different sizes, some of zeros."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=shape) * np.exp2(rng.uniform(-12, 4, (*shape[:2], 1)))
    found[rng.random(shape[:2]) < 0.1] = 0
    return found.astype(np.float32)


def test_tables():
    assert CODEBOOKS["nf4"] == tuple(round(127 * level) for level in NF4)
    e2m1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert CODEBOOKS["mxfp4"] == tuple(int(2 * v) for v in [*e2m1, *(-v for v in e2m1)])
    assert CODEBOOKS["iq4_nl"] == tuple(int(v) for v in quants.IQ4_NL.kvalues)
    for table in CODEBOOKS.values():
        assert len(table) == 16 and min(table) >= -128 and max(table) <= 127


@pytest.mark.parametrize("kind", CODEBOOKS)
def test_places(kind):
    codes = from_table(kind, np.arange(16, dtype=np.uint8))
    found = places(codes, CODEBOOKS[kind])
    assert (np.array(CODEBOOKS[kind])[found] == codes).all()
    with pytest.raises(ValueError, match="code 99 is not in the table"):
        places(np.array([99], np.int8), CODEBOOKS[kind])


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q4_1", *CODEBOOKS])
def test_no_code_is_nearer(kind):
    real = values()
    codes, scale, minimum = quantised_blocks(kind, real)
    wide = scale.astype(np.float64)[..., None]
    low = 0 if minimum is None else minimum.astype(np.float64)[..., None]
    allowed = {"q8_0": range(-127, 128), "q4_0": range(-8, 8), "q4_1": range(16)}
    off = np.abs(codes * wide + low - real)
    best = np.min(
        [np.abs(c * wide + low - real) for c in CODEBOOKS.get(kind, allowed.get(kind))], axis=0
    )
    # float32 finds the codes: of two that are equally near either is right.
    assert (off <= best * (1 + 1e-5) + 1e-12).all()
    zero = ~real.any(axis=2)
    assert zero.any() and not (codes * wide + low)[zero].any()


@pytest.mark.parametrize(("kind", "type_"), [("mxfp4", Type.MXFP4), ("q4_0", Type.Q4_0)])
def test_as_gguf_does_it(kind, type_):
    """The same scales as the gguf package's; its codes may differ by ties and rounding."""
    real = values(seed=2)
    codes, scale, _ = quantised_blocks(kind, real)
    stored = quants.quantize(real.reshape(len(real), -1), type_)
    theirs = quants.dequantize(stored, type_).reshape(real.shape)
    ours = codes * scale.astype(np.float32)[..., None]
    assert (np.abs(ours - real).sum() <= np.abs(theirs - real).sum() * 1.02).all()
    if kind == "mxfp4":
        some = real.any(axis=2)
        read = e8m0_scale(stored.reshape(*real.shape[:2], 17)[..., 0], some)
        assert not read[~some].any()
        assert np.isin(read[some] / scale[some], (0.5, 1, 2)).all()


def test_scales_that_fp16_has_not():
    used = np.array([True, True])
    assert (e8m0_scale(np.array([104, 143], np.uint8), used) == [2.0**-24, 2.0**15]).all()
    assert (e8m0_scale(np.array([0, 127], np.uint8), ~used) == 0).all()
    for wrong in (103, 144, 255):
        with pytest.raises(ModelError, match=r"scale is 2\^-?\d+; allowed are 2\^-23 to 2\^16"):
            e8m0_scale(np.array([120, wrong], np.uint8), used)
    big = np.full((1, 1, 32), 3e6, np.float32)
    for kind in ("q8_0", "q4_0", "q4_1", "mxfp4", "iq4_nl"):
        if kind != "q8_0" and kind != "iq4_nl":
            with pytest.raises(ModelError, match=r"too large for .* fp16 scale"):
                quantised_blocks(kind, big)
    tiny = np.full((1, 1, 32), 1e-9, np.float32)
    codes, scale, _ = quantised_blocks("mxfp4", tiny)
    assert scale[0, 0] == np.float16(2.0**-24) and not codes.any()
    with pytest.raises(ModelError, match="no weights of kind 'q5_0'; allowed are q8_0"):
        quantised_blocks("q5_0", tiny)


def test_one_codebook_per_model():
    """The kind with most blocks has 4 bits; the others keep their codes, in 8."""
    model = quantise(random_model(**SMALL, kind="nf4", kinds={"down": "mxfp4", "q": "q4_0"}))
    assert model.codebook == CODEBOOKS["nf4"]
    layer = model.layers[0]
    assert (layer.o.bits, layer.down.bits, layer.q.bits, layer.k.bits) == (4, 8, 8, 4)
    assert layer.o.minimum is not None and not layer.o.minimum.any()
    assert layer.down.minimum is None
    assert quantise(random_model(**SMALL)).codebook == LINEAR
    assert quantise(random_model(**SMALL, kind="q4_1")).codebook == LINEAR
