"""Folders in Hugging Face layout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tokenloom.compiler.errors import ModelError
from tokenloom.compiler.hf_dir import load_hf

D, F, HEADS, KV, HEAD, VOCAB, LAYERS = 24, 20, 4, 2, 6, 40, 2
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": D, "intermediate_size": F,
    "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV,
    "vocab_size": VOCAB, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def tensors(head_size: int = HEAD) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    sizes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCAB, D),
        "lm_head.weight": (VOCAB, D),
        "model.norm.weight": (D,),
    }
    for index in range(LAYERS):
        prefix = f"model.layers.{index}."
        for name, size in {
            "input_layernorm": (D,), "post_attention_layernorm": (D,),
            "self_attn.q_proj": (HEADS * head_size, D), "self_attn.k_proj": (KV * head_size, D),
            "self_attn.v_proj": (KV * head_size, D), "self_attn.o_proj": (D, HEADS * head_size),
            "mlp.gate_proj": (F, D), "mlp.up_proj": (F, D), "mlp.down_proj": (D, F),
        }.items():  # fmt: skip
            sizes[f"{prefix}{name}.weight"] = size
    return {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}


def add_biases(values: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(6)
    for index in range(LAYERS):
        for name, heads in (("q", HEADS), ("k", KV), ("v", KV)):
            key = f"model.layers.{index}.self_attn.{name}_proj.bias"
            values[key] = rng.normal(size=heads * HEAD).astype(np.float32)


def write(folder: Path, values: dict[str, np.ndarray], **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    save_file(values, folder / "model.safetensors")
    return folder


def test_values_and_permutation(tmp_path: Path) -> None:
    values = tensors()
    model = load_hf(write(tmp_path, values))
    layer = model.layers[1]
    assert not model.shape.tied and model.head is not model.embedding
    assert (model.head.dequantise() == values["lm_head.weight"]).all()
    assert (layer.down.dequantise() == values["model.layers.1.mlp.down_proj.weight"]).all()
    for matrix, name, heads in ((layer.q, "q", HEADS), (layer.k, "k", KV)):
        stored = values[f"model.layers.1.self_attn.{name}_proj.weight"]
        found = matrix.dequantise()
        for head in range(heads):
            for pair in range(HEAD // 2):
                row = head * HEAD
                assert (found[row + 2 * pair] == stored[row + pair]).all()
                assert (found[row + 2 * pair + 1] == stored[row + pair + HEAD // 2]).all()


@pytest.mark.parametrize("missing", ["lm_head.weight", "model.embed_tokens.weight"])
def test_tied_by_a_missing_matrix(tmp_path: Path, missing: str) -> None:
    values = tensors()
    values.pop(missing)
    model = load_hf(write(tmp_path, values))
    kept = ({"lm_head.weight", "model.embed_tokens.weight"} - {missing}).pop()
    assert model.shape.tied and model.head is model.embedding
    assert (model.embedding.dequantise() == values[kept]).all()


def test_tied_by_config(tmp_path: Path) -> None:
    values = tensors()
    model = load_hf(write(tmp_path, values, tie_word_embeddings=True))
    assert model.head is model.embedding
    assert (model.embedding.dequantise() == values["model.embed_tokens.weight"]).all()


def test_head_dim_and_end_tokens(tmp_path: Path) -> None:
    write(tmp_path, tensors(10), head_dim=10)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2, 7]}))
    shape = load_hf(tmp_path).shape
    assert shape.head_size == 10 and shape.eos == (2, 1, 7)


def test_f16(tmp_path: Path) -> None:
    values = {name: value.astype(np.float16) for name, value in tensors().items()}
    model = load_hf(write(tmp_path, values))
    assert model.layers[0].up.kind == "f16"
    assert (model.layers[0].up.dequantise() == values["model.layers.0.mlp.up_proj.weight"]).all()


def test_bf16(tmp_path: Path) -> None:
    # numpy has no bf16: write the upper halves of float32 as U16 and rename the type.
    halves = {n: (v.view(np.uint32) >> 16).astype(np.uint16) for n, v in tensors().items()}
    write(tmp_path, halves)
    path = tmp_path / "model.safetensors"
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = raw[8 : 8 + length].replace(b'"U16"', b'"BF16"')
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + length :])
    model = load_hf(tmp_path)
    expected = (halves["model.layers.0.mlp.up_proj.weight"].astype(np.uint32) << 16).view("f4")
    assert model.layers[0].up.kind == "bf16"
    assert (model.layers[0].up.dequantise() == expected).all()


def test_sharded(tmp_path: Path) -> None:
    values = tensors()
    names = sorted(values)
    parts = {"a.safetensors": names[:7], "b.safetensors": names[7:]}
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for file, part in parts.items():
        save_file({name: values[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    listing = tmp_path / "model.safetensors.index.json"
    listing.write_text(json.dumps(index))
    model = load_hf(tmp_path)
    assert (model.embedding.dequantise() == values["model.embed_tokens.weight"]).all()

    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ModelError, match=r"b\.safetensors: cannot be read"):
        load_hf(tmp_path)
    listing.write_text(json.dumps({"weight_map": {"x": "../a.safetensors"}}))
    with pytest.raises(ModelError, match="same folder"):
        load_hf(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "allowed are LlamaForCausalLM"),
        ({"attention_bias": True}, "attention_bias is True; allowed is False"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; allowed is 'silu'"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling is of type 'llama3'"),
        ({"num_key_value_heads": 3}, "multiple of kv_heads"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "24"}, "expected a number"),
        ({"eos_token_id": "x"}, "no token id"),
        ({"vocab_size": 41}, r"expected \[41, 24\]"),
    ],
)
def test_refused_config(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_hf(write(tmp_path, tensors(), **config))


def test_missing_and_unsupported_tensors(tmp_path: Path) -> None:
    values = tensors()
    name = "model.layers.1.mlp.up_proj.weight"
    kept = values.pop(name)
    with pytest.raises(ModelError, match=f"the tensor {name} is missing"):
        load_hf(write(tmp_path, values))
    values[name] = kept.astype(np.int8)
    with pytest.raises(ModelError, match="is I8; allowed are F32, F16, BF16"):
        load_hf(write(tmp_path, values))
    values[name] = kept
    values["model.layers.0.self_attn.q_norm.weight"] = np.ones(HEAD, np.float32)
    with pytest.raises(ModelError, match="unsupported tensor .*q_norm"):
        load_hf(write(tmp_path, values))


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_truncated(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path, tensors()) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors: .*truncated"):
        load_hf(tmp_path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json: cannot be read"):
        load_hf(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not valid JSON"):
        load_hf(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ModelError, match=r"needs model\.safetensors"):
        load_hf(tmp_path)


def test_qwen2_has_biases_in_the_rows_order(tmp_path: Path) -> None:
    values = tensors()
    add_biases(values)
    folder = write(tmp_path, values, architectures=["Qwen2ForCausalLM"], sliding_window=64)
    model = load_hf(folder)
    assert model.shape.qkv_bias
    layer = model.layers[1]
    for name in ("q", "k"):
        stored = values[f"model.layers.1.self_attn.{name}_proj.bias"].reshape(-1, HEAD)
        found = layer.bias(name)
        assert found is not None
        for head, row in enumerate(found.reshape(-1, HEAD)):
            assert (row[0::2] == stored[head, : HEAD // 2]).all()
            assert (row[1::2] == stored[head, HEAD // 2 :]).all()
    found = layer.bias("v")
    assert found is not None
    assert (found == values["model.layers.1.self_attn.v_proj.bias"]).all()
    assert layer.bias("o") is None


def test_qwen2_without_a_bias_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the tensor .*self_attn.q_proj.bias is missing"):
        load_hf(write(tmp_path, tensors(), architectures=["Qwen2ForCausalLM"]))


def test_qwen3_has_norms_in_the_rows_order(tmp_path: Path) -> None:
    values = tensors()
    for index in range(LAYERS):
        for name in ("q", "k"):
            key = f"model.layers.{index}.self_attn.{name}_norm.weight"
            values[key] = np.arange(HEAD, dtype=np.float32) + (10 if name == "q" else 20)
    model = load_hf(write(tmp_path, values, architectures=["Qwen3ForCausalLM"], head_dim=HEAD))
    assert model.shape.qk_norm and not model.shape.qkv_bias
    layer = model.layers[0]
    assert layer.q_norm is not None and layer.q_norm.tolist() == [10, 13, 11, 14, 12, 15]
    assert layer.k_norm is not None and layer.k_norm.tolist() == [20, 23, 21, 24, 22, 25]
