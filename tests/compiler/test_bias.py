"""Biases as weight blocks: how near they come, and that every part of the compiler agrees."""

import numpy as np
import pytest

from tests.models_for_tests import SMALL, random_model
from tokenloom.compiler.bias import ONES, quantise_bias
from tokenloom.compiler.errors import ModelError
from tokenloom.compiler.proofs import ACC_LIMIT
from tokenloom.compiler.quantise import quantise
from tokenloom.sim.golden import ExactMatrix, Golden
from tokenloom.sim.reference import Reference


@pytest.mark.parametrize(("bits", "steps"), [(8, 17), (4, 14)])
def test_error(bits: int, steps: int) -> None:
    rng = np.random.default_rng(bits)
    target = rng.normal(size=4000) * np.exp2(rng.uniform(-2, 50, 4000))
    target[:6] = [0, 0.4, -0.6, 2.0**53, -(2.0**53), 15300.4]
    found = quantise_bias("b", bits, target)
    error = np.abs(found.integers() - target)
    assert (error <= np.maximum(0.5, np.abs(target) * 2.0**-steps)).all()
    assert found.codes.min() == 0 and found.codes.max() <= (15 if bits == 4 else 127)


def test_too_large() -> None:
    with pytest.raises(ModelError, match=r"layer 3 q: a bias is too large .* 1.15292e\+18 units"):
        quantise_bias("layer 3 q", 8, np.array([1.0, -(2.0**60)]))


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q4_1", "f32"])
def test_the_tape_says_what_the_golden_model_adds(kind: str) -> None:
    """The tape's extra block times the constant activations is the bias, within its rounding."""
    checkpoint = random_model(**SMALL, kind=kind, bias=2.0)
    model = quantise(checkpoint)
    for weights, layer in zip(checkpoint.layers, model.layers, strict=True):
        for name in ("q", "k", "v"):
            tensor, real = getattr(layer, name), weights.bias(name)
            codes, scale, minimum = tensor.tape()
            assert codes.shape[1] == tensor.tape_blocks == tensor.blocks + 1
            assert minimum is None or not minimum[:, -1].any()
            x = np.zeros((1, tensor.blocks, 32), dtype=np.int64)
            acc = ExactMatrix(tensor).accumulate(x, x[..., 0])[0]
            assert (acc == tensor.bias.integers()).all()
            assert (codes[:, -1].astype(np.int64) @ ONES != 0).any()
            unit = 2.0 ** (25 - tensor.e0 - layer.floor[name] + layer.attn_gain.output_fraction)
            assert np.abs(acc / unit - real).max() <= np.abs(real).max() * 2.0**-14 + 1 / unit
        assert layer.o.tape_blocks == layer.o.blocks


def test_proof_counts_the_bias() -> None:
    """A huge bias raises the floor, until accumulator and weight block hold it; f follows."""
    floors = []
    for size in (1.0, 2.0**14, 2.0**16):
        checkpoint = random_model(**SMALL, bias=size)
        model = quantise(checkpoint)
        for weights, layer in zip(checkpoint.layers, model.layers, strict=True):
            for name in ("q", "k", "v"):
                largest = float(np.abs(weights.bias(name)).max())
                assert largest < 2.0 ** (31 - layer.fraction[name])
                assert abs(int(layer.k.bias.integers().max())) < 1 << ACC_LIMIT
        assert all(proof.bits <= ACC_LIMIT for proof in model.proofs)
        floors.append(model.layers[0].floor["k"])
    assert floors[0] == 0 < floors[1] < floors[2]


@pytest.mark.parametrize("kind", ["q8_0", "q4_1"])
def test_golden_follows_the_float_model(kind: str) -> None:
    """As near as without a bias; and the bias matters by far more than that."""
    tokens = [3, 7, 1, 30, 2, 2, 9, 15]
    error = {}
    for size in (0.0, 1.0):
        checkpoint = random_model(**SMALL, kind=kind, bias=size)
        golden = Golden(quantise(checkpoint))
        real = Reference(checkpoint).logits(tokens)
        found = golden.logits(tokens) * golden.logit_scale
        error[size] = float(np.sqrt(np.mean((found - real) ** 2)))
        if size:
            plain = Reference(random_model(**SMALL, kind=kind)).logits(tokens)
            assert np.sqrt(np.mean((real - plain) ** 2)) > 20 * error[size]
    assert error[1.0] < 2 * error[0.0]
