"""GGUF files written by the gguf package are read value for value."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from tokenloom.compiler.errors import ModelError
from tokenloom.compiler.gguf_file import gguf_tokenizer, load_gguf
from tokenloom.compiler.text import gguf_text

D, F, HEADS, KV, VOCAB = 64, 96, 4, 2, 48
SIZES = {
    "attn_q": (D, D), "attn_k": (D // 2, D), "attn_v": (D // 2, D), "attn_output": (D, D),
    "ffn_gate": (F, D), "ffn_up": (F, D), "ffn_down": (D, F),
}  # fmt: skip
KINDS = [
    Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.IQ4_NL, Type.MXFP4, Type.F16, Type.F32, Type.BF16,
]  # fmt: skip


def stored_as(value: np.ndarray, kind: Type) -> np.ndarray:
    """gguf's own quantisation; of IQ4_NL, which it only reads, blocks with random codes."""
    if kind != Type.IQ4_NL:
        return gguf.quants.quantize(value, kind)
    blocks = value.size // 32
    codes = np.random.default_rng(5).integers(0, 256, (blocks, 16), dtype=np.uint8)
    scale = np.abs(value.reshape(blocks, 32)).max(axis=1, keepdims=True) / 127
    whole = np.concatenate([scale.astype("<f2").view(np.uint8), codes], axis=1)
    return whole.reshape(len(value), -1)


def write(
    path: Path,
    kind: Type = Type.F32,
    *,
    tied: bool = True,
    change: Callable[[dict[str, tuple[np.ndarray, Type]]], Any] | None = None,
    architecture: str = "llama",
    extra: dict[str, Any] | None = None,
    tokenizer: Callable[[gguf.GGUFWriter], Any] | None = None,
) -> dict[str, np.ndarray]:
    """Write a one-layer model and return each tensor's values as gguf itself dequantises them."""
    rng = np.random.default_rng(3)
    tensors: dict[str, tuple[np.ndarray, Type]] = {}
    names = {"token_embd": (VOCAB, D), **{f"blk.0.{name}": size for name, size in SIZES.items()}}
    if not tied:
        names["output"] = (VOCAB, D)
    for name, size in names.items():
        tensors[f"{name}.weight"] = (rng.normal(size=size).astype(np.float32), kind)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        tensors[f"{name}.weight"] = (rng.normal(size=D).astype(np.float32), Type.F32)
    if change:
        change(tensors)

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(D)
    writer.add_feed_forward_length(F)
    writer.add_block_count(1)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(5000.0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for key, value in (extra or {}).items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32,
               str: writer.add_string}[type(value)]  # fmt: skip
        add(key, value)
    if tokenizer:
        tokenizer(writer)
    values = {}
    for name, (value, kind_here) in tensors.items():
        stored = stored_as(value, kind_here)
        values[name] = gguf.quants.dequantize(stored, kind_here)
        writer.add_tensor(name, stored, raw_dtype=kind_here)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_tensor_type(tmp_path: Path, kind: Type, tied: bool) -> None:
    values = write(tmp_path / "m.gguf", kind, tied=tied)
    model = load_gguf(tmp_path / "m.gguf")
    assert model.shape.heads == HEADS and model.shape.head_size == D // HEADS
    assert model.shape.rope_theta == 5000.0 and model.shape.tied == tied
    assert (model.shape.bos, model.shape.eos) == (1, (2,))
    assert (model.head is model.embedding) == tied
    layer = model.layers[0]
    pairs = {
        "token_embd": model.embedding, "blk.0.attn_q": layer.q, "blk.0.attn_k": layer.k,
        "blk.0.attn_v": layer.v, "blk.0.attn_output": layer.o, "blk.0.ffn_gate": layer.gate,
        "blk.0.ffn_up": layer.up, "blk.0.ffn_down": layer.down,
    }  # fmt: skip
    for name, matrix in pairs.items():
        assert matrix.kind == kind.name.lower()
        # gguf computes in float32; only Q4_1's sum rounds there.
        found = matrix.dequantise()
        assert np.allclose(found, values[f"{name}.weight"], rtol=0, atol=1e-6), name
        if kind != Type.Q4_1:
            assert (found == values[f"{name}.weight"]).all(), name
    assert (layer.ffn_norm == values["blk.0.ffn_norm.weight"]).all()


@pytest.mark.parametrize("keep", [0, 3, 20, 100, 700, 2000, -1, -4000])
def test_truncated(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "m.gguf"
    write(path, Type.Q8_0)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"m\.gguf"):
        load_gguf(path)


def test_corrupt_header_never_escapes(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write(path, Type.Q4_1)
    whole = path.read_bytes()
    rng = np.random.default_rng(4)
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[int(rng.integers(0, 1500))] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            load_gguf(path)
        except ModelError as error:
            assert "m.gguf" in str(error)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load_gguf(tmp_path / "none.gguf")


def test_missing_tensor(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", change=lambda t: t.pop("blk.0.ffn_up.weight"))
    with pytest.raises(ModelError, match=r"m\.gguf: the tensor blk\.0\.ffn_up\.weight is missing"):
        load_gguf(tmp_path / "m.gguf")


def test_wrong_shape(tmp_path: Path) -> None:
    bad = (np.zeros((D, D + 32), np.float32), Type.F32)
    write(tmp_path / "m.gguf", change=lambda t: t.update({"blk.0.attn_q.weight": bad}))
    with pytest.raises(ModelError, match=r"attn_q\.weight is \[64, 96\], expected \[64, 64\]"):
        load_gguf(tmp_path / "m.gguf")


def test_unsupported_type(tmp_path: Path) -> None:
    bad = (np.zeros((D, D), np.float32), Type.Q5_0)
    write(tmp_path / "m.gguf", change=lambda t: t.update({"blk.0.attn_q.weight": bad}))
    with pytest.raises(ModelError, match=r"attn_q\.weight is Q5_0.*allowed are Q8_0, Q4_0"):
        load_gguf(tmp_path / "m.gguf")


def test_unsupported_tensor(tmp_path: Path) -> None:
    bias = (np.zeros(D, np.float32), Type.F32)
    write(tmp_path / "m.gguf", change=lambda t: t.update({"blk.0.attn_q.bias": bias}))
    with pytest.raises(ModelError, match=r"unsupported tensor blk\.0\.attn_q\.bias"):
        load_gguf(tmp_path / "m.gguf")


def test_not_finite(tmp_path: Path) -> None:
    bad = (np.full((D // 2, D), np.nan, np.float32), Type.F32)
    write(tmp_path / "m.gguf", change=lambda t: t.update({"blk.0.attn_v.weight": bad}))
    with pytest.raises(ModelError, match=r"attn_v\.weight: .*not a number"):
        load_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"llama.rope.scaling.type": "linear"}, "RoPE scaling"),
        ({"llama.expert_count": 8}, "llama.expert_count is set"),
        ({"llama.attention.key_length": 10}, "must have the same length|whole head|expected"),
        ({"llama.rope.dimension_count": 8}, "whole head"),
        ({"split.count": 2}, "split"),
    ],
)
def test_unsupported_features(tmp_path: Path, extra: dict[str, Any], message: str) -> None:
    write(tmp_path / "m.gguf", extra=extra)
    with pytest.raises(ModelError, match=message):
        load_gguf(tmp_path / "m.gguf")


def test_unsupported_architecture(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", architecture="falcon")
    with pytest.raises(ModelError, match="'falcon' is not supported; allowed are llama"):
        load_gguf(tmp_path / "m.gguf")


def byte_tokenizer(model: str, pre: str = "smollm") -> Callable[[gguf.GGUFWriter], None]:
    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model(model)
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(["<unk>", "<s>", "</s>", "a", "b", "ab", "1", "Ġ", "Ã", "©"])
        writer.add_token_types([2, 3, 3, 1, 1, 1, 1, 1, 1, 1])
        writer.add_token_merges(["a b"])

    return add


def test_tokenizer(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", tokenizer=byte_tokenizer("gpt2"))
    assert gguf_tokenizer(tmp_path / "m.gguf").merges == ["a b"]
    text = gguf_text(tmp_path / "m.gguf")
    assert text.bos is None and text.eos == (2,)
    assert text.encode("ab a11</s>") == [5, 7, 3, 6, 6, 2]
    assert text.decode([5, 7, 8, 9, 2]) == "ab é"


@pytest.mark.parametrize(("model", "pre"), [("rwkv", "smollm"), ("gpt2", "deepseek")])
def test_unsupported_tokenizer(tmp_path: Path, model: str, pre: str) -> None:
    write(tmp_path / "m.gguf", tokenizer=byte_tokenizer(model, pre))
    with pytest.raises(ModelError, match="is not supported; allowed are"):
        gguf_text(tmp_path / "m.gguf")


def test_no_tokenizer(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf")
    with pytest.raises(ModelError, match=r"tokenizer\.ggml\.tokens is missing"):
        gguf_text(tmp_path / "m.gguf")


def test_qwen2(tmp_path: Path) -> None:
    """Rows of q and k, quantised ones too, and their biases go from halves to neighbours."""
    rng = np.random.default_rng(9)
    biases = {
        f"blk.0.attn_{name}.bias": rng.normal(size=SIZES[f"attn_{name}"][0]).astype(np.float32)
        for name in ("q", "k", "v")
    }
    values = write(
        tmp_path / "m.gguf",
        Type.Q4_1,
        architecture="qwen2",
        change=lambda t: t.update({name: (bias, Type.F32) for name, bias in biases.items()}),
    )
    model = load_gguf(tmp_path / "m.gguf")
    assert model.shape.qkv_bias
    (layer,) = model.layers
    head = D // HEADS
    order = [row + part for row in range(0, D, head) for i in range(head // 2)
             for part in (i, i + head // 2)]  # fmt: skip
    for name in ("q", "k", "v"):
        rows = order[: SIZES[f"attn_{name}"][0]] if name != "v" else slice(None)
        found, bias = getattr(layer, name).dequantise(), layer.bias(name)
        assert (found == values[f"blk.0.attn_{name}.weight"][rows]).all()
        assert bias is not None and (bias == biases[f"blk.0.attn_{name}.bias"][rows]).all()


def test_qwen3(tmp_path: Path) -> None:
    head = D // HEADS
    gains = {f"blk.0.attn_{n}_norm.weight": np.arange(head, dtype=np.float32) for n in ("q", "k")}
    write(
        tmp_path / "m.gguf",
        architecture="qwen3",
        change=lambda t: t.update({name: (gain, Type.F32) for name, gain in gains.items()}),
    )
    model = load_gguf(tmp_path / "m.gguf")
    assert model.shape.qk_norm and not model.shape.qkv_bias
    for gain in (model.layers[0].q_norm, model.layers[0].k_norm):
        assert gain is not None
        assert (gain[0::2] == np.arange(head // 2)).all()
        assert (gain[1::2] == np.arange(head // 2, head)).all()
