"""The compiler's decisions: exact weights, proofs, fraction bits and refusals."""

import dataclasses

import numpy as np
import pytest

from tokenloom.compiler.checkpoint import Checkpoint, LayerWeights, Matrix, ModelShape
from tokenloom.compiler.errors import ModelError
from tokenloom.compiler.quantise import iter_tensors, quantise
from tokenloom.hw.numbers import formats as fx


def random_matrix(rng, kind, rows, cols, size=0.08):
    if kind == "f32":
        dense = rng.normal(0, size, (rows, cols)).astype(np.float32)
        return Matrix(kind="f32", cols=cols, dense=dense)
    low, high = {"q8_0": (-127, 128), "q4_0": (-8, 8), "q4_1": (0, 16)}[kind]
    blocks = -(-cols // 32)
    codes = rng.integers(low, high, (rows, blocks, 32)).astype(np.int8)
    step = size * 3.5 / (high - low)
    scale = (step * rng.uniform(0.5, 1.5, (rows, blocks))).astype(np.float16)
    if kind == "q4_0":
        scale = (scale * rng.choice([-1, 1], scale.shape)).astype(np.float16)
    minimum = (-7.5 * scale).astype(np.float16) if kind == "q4_1" else None
    return Matrix(kind=kind, cols=cols, codes=codes, scale=scale, minimum=minimum)


def random_checkpoint(
    *, kind="f32", width=64, ffn=172, heads=8, kv_heads=4, head_size=8, layers=2, vocab=96,
    tied=True, positions=64, up_kind=None, seed=1, bos=1,
):  # fmt: skip
    rng = np.random.default_rng(seed)
    shape = ModelShape(
        name="random", width=width, ffn=ffn, layers=layers, heads=heads, kv_heads=kv_heads,
        head_size=head_size, vocab=vocab, positions=positions, rope_theta=10000.0, norm_eps=1e-5,
        tied=tied, bos=bos, eos=(),
    )  # fmt: skip

    def gain():
        return rng.uniform(0.5, 1.5, width).astype(np.float32)

    def matrix(rows, cols, what=kind):
        return random_matrix(rng, what, rows, cols)

    stack = tuple(
        LayerWeights(
            attn_norm=gain(),
            q=matrix(heads * head_size, width),
            k=matrix(kv_heads * head_size, width),
            v=matrix(kv_heads * head_size, width),
            o=matrix(width, heads * head_size),
            ffn_norm=gain(),
            gate=matrix(ffn, width),
            up=matrix(ffn, width, up_kind or kind),
            down=matrix(width, ffn),
        )
        for _ in range(layers)
    )
    embedding = matrix(vocab, width, "q8_0" if kind != "f32" else kind)
    head = embedding if tied else matrix(vocab, width)
    return Checkpoint(
        shape=shape, embedding=embedding, layers=stack, final_norm=gain(), head=head,
        source="test",
    )  # fmt: skip


KINDS = ["f32", "q8_0", "q4_0", "q4_1"]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_exact(kind):
    size = {} if kind == "f32" else {"ffn": 192}
    checkpoint = random_checkpoint(kind=kind, tied=False, **size)
    model = quantise(checkpoint)
    assert model.head is not model.embedding
    for weights, layer in zip(checkpoint.layers, model.layers, strict=True):
        for name in ("q", "k", "v", "o", "down"):
            stored = getattr(weights, name).quantised().dequantise()
            tensor = getattr(layer, name)
            assert np.array_equal(tensor.values(), stored)
            assert tensor.bits == (4 if kind.startswith("q4") else 8)
            assert (tensor.minimum is not None) == kind.startswith("q4")
            if tensor.bits == 4:
                assert tensor.codes.min() >= 0 and tensor.codes.max() <= 15
        values = layer.gate_up.values()
        assert np.array_equal(values[0::2], weights.gate.quantised().dequantise())
        assert np.array_equal(values[1::2], weights.up.quantised().dequantise())


@pytest.mark.parametrize("up_kind", KINDS)
def test_gate_and_up_of_different_kinds(up_kind):
    checkpoint = random_checkpoint(kind="q4_1", ffn=192, up_kind=up_kind)
    values = quantise(checkpoint).layers[0].gate_up.values()
    assert np.array_equal(values[1::2], checkpoint.layers[0].up.quantised().dequantise())
    assert np.array_equal(values[0::2], checkpoint.layers[0].gate.dequantise())


def test_tied_head_is_the_embedding():
    model = quantise(random_checkpoint())
    assert model.head is model.embedding
    assert len(list(iter_tensors(model))) == 1 + 2 * 6


@pytest.mark.parametrize("kind", KINDS)
def test_every_proof_and_shift_holds(kind):
    model = quantise(random_checkpoint(kind=kind, ffn=192))
    assert {p.name for p in model.proofs} >= {"score", "context", "head", "layer 1 down"}
    for proof in model.proofs:
        assert proof.bits <= proof.limit == 63 and 0 <= proof.floor <= 20
    for layer in model.layers:
        assert set(layer.shift) == {
            "k", "v", "q", "score", "o", "gate_up", "swiglu", "down"
        }  # fmt: skip
        assert all(0 <= shift <= 63 for shift in layer.shift.values())
        assert layer.floor["k"] == layer.floor["v"] == layer.floor["q"]
    assert 0 <= model.embedding_shift <= 63 and 0 <= model.head_shift <= 63


def test_proof_covers_the_worst_activations():
    model = quantise(random_checkpoint())
    for proof in model.proofs:
        if not proof.name.startswith("layer 0 "):
            continue
        tensor = getattr(model.layers[0], proof.name.removeprefix("layer 0 "))
        whole = np.abs(tensor.integers()).astype(object).sum(axis=(1, 2)).max()
        assert whole * 256 << (23 - proof.floor) < 1 << proof.bits


def test_gain_uses_sixteen_bits():
    checkpoint = random_checkpoint()
    gain = quantise(checkpoint).layers[0].attn_gain
    exact = 8.0 * checkpoint.layers[0].attn_norm
    assert 16384 <= np.abs(gain.codes).max() <= 32767
    assert np.abs(np.ldexp(gain.codes.astype(float), -gain.fraction) - exact).max() <= (
        2.0 ** -(gain.fraction + 1)
    )


def test_wide_scales_get_a_floor_or_a_refusal():
    checkpoint = random_checkpoint(kind="q8_0", ffn=192, layers=1)
    weights = checkpoint.layers[0]
    assert weights.down.scale is not None
    scale = weights.down.scale.copy()
    scale[0, 0], scale[1, 1] = 2.0**-14, 2.0**12
    codes = weights.down.codes.copy()
    codes[1, 1] = 127
    wide = dataclasses.replace(weights.down, scale=scale, codes=codes)
    model = quantise(dataclasses.replace(
        checkpoint, layers=(dataclasses.replace(weights, down=wide),)))  # fmt: skip
    assert model.layers[0].floor["down"] > 0
    assert np.array_equal(model.layers[0].down.values(), wide.dequantise())

    many = 1 << 14
    big = random_matrix(np.random.default_rng(0), "q8_0", 64, many)
    scale = np.full((64, many // 32), 60000.0, dtype=np.float16)
    scale[0, 0] = 2.0**-24
    huge = dataclasses.replace(big, scale=scale, codes=np.full_like(big.codes, 127))
    wide_ffn = random_matrix(np.random.default_rng(0), "q8_0", many, 64)
    layer = dataclasses.replace(weights, gate=wide_ffn, up=wide_ffn, down=huge)
    broken = dataclasses.replace(
        checkpoint, shape=dataclasses.replace(checkpoint.shape, ffn=many), layers=(layer,)
    )
    # 7 + 8 code bits, 11 of mantissa, 29 of exponent, 14 of length: 69 + 23 bits
    with pytest.raises(ModelError, match="layer 0 down"):
        quantise(broken)


def test_subnormal_and_zero_scales():
    checkpoint = random_checkpoint(kind="q8_0", ffn=192, layers=1)
    weights = checkpoint.layers[0]
    scale = weights.o.scale.copy()
    scale[0, 0], scale[0, 1], scale[1, 0] = 2.0**-24 * 5, 0.0, -0.0
    odd = dataclasses.replace(weights.o, scale=scale)
    layer = dataclasses.replace(weights, o=odd)
    model = quantise(dataclasses.replace(checkpoint, layers=(layer,)))
    assert model.layers[0].o.e0 == 1
    assert np.array_equal(model.layers[0].o.values(), odd.dequantise())


def test_q4_0_scale_whose_minimum_overflows():
    checkpoint = random_checkpoint(kind="q4_0", ffn=192, layers=1)
    weights = checkpoint.layers[0]
    scale = weights.v.scale.copy()
    scale[3, 1] = 60000.0
    layer = dataclasses.replace(weights, v=dataclasses.replace(weights.v, scale=scale))
    with pytest.raises(ModelError, match="layer 0 v: a scale"):
        quantise(dataclasses.replace(checkpoint, layers=(layer,)))


def test_too_many_positions():
    checkpoint = random_checkpoint(positions=1 << 18)
    with pytest.raises(ModelError, match="holds 131072; compile for fewer positions"):
        quantise(checkpoint)
    for positions, floor in ((4096, 0), (32767, 0), (32768, 1), (131072, 3)):
        model = quantise(checkpoint, positions=positions)
        assert (model.positions, model.v_floor) == (positions, floor)
        (proof,) = (p for p in model.proofs if p.name == "context")
        assert proof.bits <= 63
        # What the proof is about, exactly: every token the largest, with the largest V.
        assert positions * 2 ** (17 + 24 - floor + 7) < 2**proof.bits
    with pytest.raises(ModelError, match="positions is 0"):
        quantise(checkpoint, positions=0)


def test_scores_in_base_two():
    model = quantise(random_checkpoint(head_size=8))
    layer = model.layers[0]
    assert layer.shift["score"] == (
        layer.fraction["q"] - model.ek + layer.fraction["k"]
        - model.q_floor - model.k_floor - fx.SCORE_FRAC
    )  # fmt: skip
    assert model.q_floor + model.k_floor == 5
