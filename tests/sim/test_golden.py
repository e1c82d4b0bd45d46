"""The golden model: exact, independent of how rows are grouped, close to the float model."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest

from tokenloom.compiler.hf_dir import load_hf
from tokenloom.compiler.quantise import quantise
from tokenloom.hw.numbers import formats as fx
from tokenloom.sim.golden import ExactMatrix, Golden, exact_product
from tokenloom.sim.reference import Reference

SHARED = Path(os.environ.get("TOKENLOOM_SHARED", "../shared"))

# The random models of the compiler's tests, imported by path: tests are no package.
_spec = importlib.util.spec_from_file_location(
    "quantise_cases", Path(__file__).parents[1] / "compiler" / "test_quantise.py"
)
cases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)


def tokens_for(model, count, seed=3):
    return np.random.default_rng(seed).integers(0, model.shape.vocab, count).tolist()


def plain_matmul(tensor, codes, shift):
    """Point 1, literally, in Python integers."""
    result = []
    for x, left in zip(codes.tolist(), shift.tolist(), strict=True):
        row = []
        for n in range(tensor.rows):
            acc = 0
            for b in range(tensor.blocks):
                m, sw = (int(v) for v in fx.decode_scale(tensor.scale[n, b]))
                dot = sum(int(c) * v for c, v in zip(tensor.codes[n, b], x[b], strict=True))
                acc += (dot * m) << (sw + left[b])
                if tensor.minimum is not None:
                    m, sw = (int(v) for v in fx.decode_scale(tensor.minimum[n, b]))
                    acc += (sum(x[b]) * m) << (sw + left[b])
            row.append(acc)
        result.append(row)
    return result


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("spread", [1, 12, 25])
def test_matmul_equals_python_integers(kind, spread):
    rng = np.random.default_rng(spread)
    model = quantise(cases.random_checkpoint(kind=kind, ffn=96, layers=1))
    tensor = model.layers[0].down
    codes = rng.integers(-256, 256, (5, tensor.blocks, 32))
    codes[1], codes[2, 1], codes[3] = 0, 0, 255
    shift = rng.integers(0, spread, (5, tensor.blocks))
    shift[4] = np.arange(tensor.blocks) * 12 % spread
    acc = ExactMatrix(tensor).accumulate(codes, shift)
    assert acc.tolist() == plain_matmul(tensor, codes, shift)


def test_matmul_with_scales_far_apart():
    rng = np.random.default_rng(0)
    matrix = cases.random_matrix(rng, "q8_0", 6, 96)
    scale = np.ldexp(1 + rng.uniform(size=(6, 3)), rng.integers(-14, 11, (6, 3)))
    wide = cases.Matrix(kind="q8_0", cols=96, codes=matrix.codes, scale=scale.astype(np.float16))
    tensor = cases_tensor(wide)
    codes = rng.integers(-256, 256, (4, 3, 32))
    shift = rng.integers(0, 8, (4, 3))
    shift[0] = [0, 14, 7]
    assert ExactMatrix(tensor).accumulate(codes, shift).tolist() == plain_matmul(
        tensor, codes, shift
    )


def cases_tensor(matrix):
    from tokenloom.compiler.quantise import _tensor

    return _tensor("w", "test", [matrix])


@pytest.mark.parametrize("bits", [(7, 7), (31, 15), (31, 26), (40, 14)])
def test_exact_product(bits):
    rng = np.random.default_rng(0)
    x = rng.integers(-(2 ** bits[0]), 2 ** bits[0], (2, 5, 40))
    y = rng.integers(-(2 ** bits[1]), 2 ** bits[1], (2, 40, 6))
    assert (exact_product(x, y).astype(object) == x.astype(object) @ y.astype(object)).all()


SHAPES = {
    "head 8, ffn 172": {},
    "q4_1": {"kind": "q4_1", "ffn": 192},
    "q4_0, untied": {"kind": "q4_0", "ffn": 192, "tied": False},
    "head 48": {"heads": 2, "kv_heads": 1, "head_size": 48, "width": 96},
    "head 64": {"heads": 3, "kv_heads": 1, "head_size": 64, "width": 192, "kind": "q8_0",
                "ffn": 224},
    "no bos": {"bos": None, "heads": 4, "kv_heads": 4, "head_size": 16},
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_grouping_of_rows_changes_nothing(shape):
    golden = Golden(quantise(cases.random_checkpoint(**shape)))
    tokens = tokens_for(golden.model, 45)
    whole = golden.logits(tokens)
    session = golden.session()
    parts = [session.prefill(tokens[:7], every_logit=True)]
    parts += [session.decode(t)[None] for t in tokens[7:12]]
    parts.append(session.prefill(tokens[12:44], every_logit=True))
    parts.append(session.prefill(tokens[44:]))
    assert session.length == 45
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_close_to_float(shape):
    checkpoint = cases.random_checkpoint(**shape)
    golden = Golden(quantise(checkpoint))
    tokens = tokens_for(golden.model, 40)
    expected = Reference(checkpoint).logits(tokens)
    error = golden.logits(tokens) * golden.logit_scale - expected
    assert golden.saturations == 0
    # Measured 2.2 to 4.5 % of the logits' spread: what int8 activations, K and V cost.
    assert np.sqrt(np.square(error).mean()) < 0.06 * expected.std()


def test_trace_names_every_operation():
    seen = []
    model = quantise(cases.random_checkpoint(layers=1))
    golden = Golden(model, trace=lambda name, layer, array: seen.append((name, layer, array)))
    golden.session().prefill([1, 2, 3])
    names = [name for name, _, _ in seen]
    assert names == [
        "embedding", "attn_norm.codes", "attn_norm.shift", "k", "v", "q", "k.codes", "k.shift",
        "v.codes", "v.shift", "q.codes", "q.shift", "score", "den",
            "prob.codes.0", "prob.shift.0", "context", "context.codes",
        "context.shift", "o", "residual.attn", "ffn_norm.codes", "ffn_norm.shift", "gate_up",
        "hidden", "hidden.codes", "hidden.shift", "down", "residual.ffn", "final_norm.codes",
        "final_norm.shift", "logits",
    ]  # fmt: skip
    shapes = {name: array.shape for name, _, array in seen}
    assert shapes["k.codes"] == (3, 4, 1, 32)
    assert shapes["hidden.codes"] == (3, 6, 32)
    assert shapes["logits"] == (1, model.shape.vocab)


def test_saturations_are_counted():
    model = quantise(cases.random_checkpoint(layers=1))
    model.layers[0].shift["o"] = 0
    golden = Golden(model)
    golden.logits([1, 2, 3, 4])
    assert golden.saturations > 0


def test_refuses_bad_tokens():
    golden = Golden(quantise(cases.random_checkpoint(layers=1, positions=8)))
    with pytest.raises(ValueError, match="0..95"):
        golden.logits([96])
    with pytest.raises(ValueError, match="at least one"):
        golden.logits([])
    with pytest.raises(ValueError, match="9 positions"):
        golden.logits([1] * 9)


@pytest.mark.parametrize("name", ["stories260K", "tinystories-656k"])
def test_real_model_follows_the_float_model(name):
    folder = SHARED / "models" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing: {name} is published on Hugging Face (TOKENLOOM_SHARED)")
    checkpoint = load_hf(folder)
    golden, reference = Golden(quantise(checkpoint)), Reference(checkpoint)
    found = golden.greedy([1], 60)
    tokens = [1, *found[:-1]]
    error = golden.logits(tokens) * golden.logit_scale - reference.logits(tokens)
    assert golden.saturations == 0
    assert np.sqrt(np.square(error).mean()) < 0.3
    # The same text from the float model ranks the chosen tokens first or within a hair of it.
    expected = reference.logits(tokens)
    behind = expected.max(axis=1) - expected[np.arange(60), found]
    assert np.mean(behind == 0) > 0.9 and behind.max() < 1.0
    assert json.dumps(found)  # plain integers
