"""Matrices, shapes and their checks."""

from typing import Any

import numpy as np
import pytest

from tokenloom.compiler.checkpoint import Matrix, ModelShape
from tokenloom.compiler.errors import ModelError, TokenloomError

SHAPE: dict[str, Any] = {
    "name": "tiny", "width": 64, "ffn": 172, "layers": 2, "heads": 8, "kv_heads": 4,
    "head_size": 8, "vocab": 512, "positions": 128, "rope_theta": 1e4, "norm_eps": 1e-5,
    "tied": True, "bos": 1, "eos": (2,),
}  # fmt: skip


def dense(values: np.ndarray) -> Matrix:
    return Matrix(kind="f32", cols=values.shape[1], dense=values.astype(np.float32))


def test_valid_shape() -> None:
    assert ModelShape(**SHAPE).heads == 8


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("width", 0, "width is 0; allowed are 1 to"),
        ("vocab", 1, "vocab is 1"),
        ("layers", 2.0, "layers must be an integer"),
        ("kv_heads", 3, "multiple of kv_heads"),
        ("head_size", 7, "must be even"),
        ("rope_theta", float("nan"), "rope_theta"),
        ("rope_theta", 0.5, "rope_theta"),
        ("norm_eps", 0.0, "norm_eps"),
        ("bos", 512, "special token 512"),
        ("eos", (2, -1), "special token -1"),
    ],
)
def test_refused_shape(field: str, value: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ModelShape(**{**SHAPE, field: value})


def test_model_error_is_for_users() -> None:
    assert issubclass(ModelError, TokenloomError)


def test_quantised_codes_and_padding() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(5, 172)).astype(np.float32)
    matrix = dense(values).quantised()
    assert matrix.kind == "q8_0" and matrix.codes is not None and matrix.scale is not None
    assert matrix.codes.shape == (5, 6, 32) and matrix.scale.shape == (5, 6)
    assert not matrix.codes[:, 5, 12:].any()  # 172 = 5 * 32 + 12
    for row in range(5):
        for block in range(6):
            part = values[row, block * 32 : block * 32 + 32]
            scale = np.float16(np.abs(part).max() / np.float32(127))
            assert matrix.scale[row, block] == scale
            codes = np.clip(np.rint(part / np.float32(scale)), -127, 127)
            assert (matrix.codes[row, block, : len(part)] == codes).all()
    error = np.abs(matrix.dequantise() - values)
    assert error.max() <= 0.52 * float(matrix.scale.max())
    assert matrix.quantised() is matrix


def test_quantised_zero_and_tiny_values() -> None:
    values = np.zeros((4, 32), dtype=np.float32)
    values[1, 3] = 1e-7  # its nearest fp16 scale would be zero
    values[2, 4] = -1.49 * 2.0**-24 * 127  # and this one's a third too small
    values[3, 5] = 1e-12
    matrix = dense(values).quantised()
    assert not matrix.dequantise()[0].any()
    assert np.abs(matrix.dequantise() - values).max() <= 2.0**-24


def test_quantised_refuses_overflow() -> None:
    with pytest.raises(ModelError, match="too large"):
        dense(np.full((1, 32), 1e30)).quantised()
    exact = dense(np.full((1, 32), 65504.0 * 127)).quantised().dequantise()
    assert (exact == 65504.0 * 127).all()


def test_dequantise_some_rows() -> None:
    matrix = dense(np.random.default_rng(2).normal(size=(6, 40))).quantised()
    rows = np.array([4, 0, 4])
    assert (matrix.dequantise(rows) == matrix.dequantise()[rows]).all()


def test_q4_1_values() -> None:
    codes = np.arange(32, dtype=np.int8).reshape(1, 1, 32) % 16
    scale = np.full((1, 1), 0.5, np.float16)
    minimum = np.full((1, 1), -2.0, np.float16)
    matrix = Matrix(kind="q4_1", cols=32, codes=codes, scale=scale, minimum=minimum)
    assert matrix.dequantise()[0, :3].tolist() == [-2.0, -1.5, -1.0]


def test_refused_matrices() -> None:
    codes = np.zeros((2, 2, 32), np.int8)
    scale = np.ones((2, 2), np.float16)
    with pytest.raises(ModelError, match="minimum"):
        Matrix(kind="q4_1", cols=64, codes=codes, scale=scale)
    with pytest.raises(ModelError, match="minimum"):
        Matrix(kind="q8_0", cols=64, codes=codes, scale=scale, minimum=scale)
    with pytest.raises(ModelError, match="codes must be int8"):
        Matrix(kind="q8_0", cols=65, codes=codes, scale=scale)
    with pytest.raises(ModelError, match="outside -8 to 7"):
        Matrix(kind="q4_0", cols=64, codes=codes + np.int8(8), scale=scale)
    with pytest.raises(ModelError, match="infinite"):
        Matrix(kind="q8_0", cols=64, codes=codes, scale=scale * np.float16(np.inf))
    with pytest.raises(ModelError, match="infinite"):
        dense(np.full((2, 3), np.nan))
    with pytest.raises(ModelError, match="dense values only"):
        Matrix(kind="f32", cols=3)
