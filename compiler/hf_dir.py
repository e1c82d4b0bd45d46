"""Reads a folder in Hugging Face layout: config.json and safetensors, F32, F16 or BF16."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenloom.compiler.checkpoint import (
    Checkpoint,
    LayerWeights,
    Matrix,
    MatrixKind,
    ModelShape,
    interleaved,
)
from tokenloom.compiler.errors import ModelError

__all__ = ["load_hf", "read_json"]

_DTYPES: dict[str, tuple[str, MatrixKind]] = {
    "F32": ("<f4", "f32"),
    "F16": ("<f2", "f16"),
    "BF16": ("<u2", "bf16"),
}
"""safetensors type: numpy type of its bytes, and the matrix kind."""

_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""Architecture, as config.json names it, and its model type."""

_MAX_HEADER = 100_000_000
"""Bytes; safetensors itself allows no more."""

_IGNORED = ("rotary_emb.inv_freq",)
"""Endings of tensors that old exports store although they follow from the config."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict

    Raises
    ------
    ModelError
        If the file is missing or is no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


class _Weights:
    """The tensors of one or several safetensors files, mapped and not copied."""

    def __init__(self, folder: Path) -> None:
        self._entries: dict[str, tuple[Path, int, dict[str, Any]]] = {}
        index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
        if single.is_file():
            self.path = single
            self._read_header(single)
        elif index.is_file():
            self.path = index
            listed = read_json(index).get("weight_map")
            if not isinstance(listed, dict) or not all(
                isinstance(name, str) and Path(name).name == name for name in listed.values()
            ):
                raise ModelError(f"{index}: weight_map must name files in the same folder")
            for name in sorted(set(listed.values())):
                self._read_header(folder / name)
            missing = sorted(set(listed) - set(self._entries))
            if missing:
                raise ModelError(f"{index}: the tensor {missing[0]} is in none of the files")
        else:
            raise ModelError(
                f"{folder}: needs model.safetensors, or model.safetensors.index.json and its parts"
            )

    def _read_header(self, path: Path) -> None:
        try:
            size = path.stat().st_size
            with path.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                if size < 8 or not 2 <= length <= min(size - 8, _MAX_HEADER):
                    raise ModelError(f"{path}: not a safetensors file, or truncated")
                header = json.loads(stream.read(length))
        except OSError as error:
            raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise ModelError(f"{path}: its safetensors header is corrupt ({error})") from error
        if not isinstance(header, dict):
            raise ModelError(f"{path}: its safetensors header is corrupt")
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            try:
                begin, end = (int(offset) for offset in entry["data_offsets"])
                entry["shape"] = tuple(int(n) for n in entry["shape"])
                sound = 0 <= begin <= end and isinstance(entry["dtype"], str)
            except (KeyError, TypeError, ValueError) as error:
                raise ModelError(f"{path}: the header's entry {name} is corrupt") from error
            if not sound:
                raise ModelError(f"{path}: the header's entry {name} is corrupt")
            if 8 + length + end > size:
                raise ModelError(f"{path}: truncated: {name} ends after the end of the file")
            self._entries[name] = (path, 8 + length, entry)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    @property
    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._entries)

    def dense(self, name: str, shape: tuple[int, ...]) -> tuple[NDArray[np.float32], MatrixKind]:
        """Return a tensor's values and the kind in which they are stored."""
        if name not in self._entries:
            raise ModelError(f"{self.path}: the tensor {name} is missing")
        path, base, entry = self._entries[name]
        if entry["dtype"] not in _DTYPES:
            raise ModelError(
                f"{path}: {name} is {entry['dtype']}; allowed are " + ", ".join(_DTYPES)
            )
        if entry["shape"] != shape:
            raise ModelError(f"{path}: {name} is {list(entry['shape'])}, expected {list(shape)}")
        dtype, kind = _DTYPES[entry["dtype"]]
        begin, end = entry["data_offsets"]
        if end - begin != np.dtype(dtype).itemsize * int(np.prod(shape)):
            raise ModelError(f"{path}: the header's entry {name} is corrupt")
        raw = np.memmap(path, dtype=dtype, mode="r", offset=base + begin, shape=shape)
        stored = np.asarray(raw)
        if kind == "bf16":
            return (stored.astype(np.uint32) << 16).view(np.float32), kind
        return stored.astype(np.float32, copy=False), kind


def load_hf(path: str | Path) -> Checkpoint:
    """Read a model of the Llama family in Hugging Face layout.

    Q and K rows are permuted from the half-split order of these files (i rotates with
    i + head_size/2) to the interleaved one (2i rotates with 2i+1).

    Parameters
    ----------
    path : str or Path
        A folder with ``config.json`` and ``model.safetensors`` or
        ``model.safetensors.index.json``; tensors are F32, F16 or BF16.

    Returns
    -------
    Checkpoint

    Raises
    ------
    ModelError
        If a file is missing, truncated or corrupt, the architecture or a feature is not
        supported, or a tensor is missing or has the wrong type or shape.
    """
    folder = Path(path)
    config = read_json(folder / "config.json")
    _refuse_unsupported(folder / "config.json", config)
    weights = _Weights(folder)
    embedding_name, head_name = "model.embed_tokens.weight", "lm_head.weight"
    # Some exports store a tied matrix once, under either name.
    tied = (
        bool(config.get("tie_word_embeddings", False))
        or head_name not in weights
        or embedding_name not in weights
    )
    shape = _shape(folder, config, tied)
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    used = {embedding_name, head_name}

    def matrix(name: str, rows: int, cols: int, *, rotated: bool = False) -> Matrix:
        used.add(name)
        values, kind = weights.dense(name, (rows, cols))
        if rotated:
            values = np.ascontiguousarray(values[interleaved(rows, shape.head_size)])
        try:
            return Matrix(kind=kind, cols=cols, dense=values)
        except ModelError as error:
            raise ModelError(f"{weights.path}: {name}: {error}") from error

    def vector(name: str) -> NDArray[np.float32]:
        used.add(name)
        return weights.dense(name, (shape.width,))[0]

    def bias(name: str, rows: int, *, rotated: bool = False) -> NDArray[np.float32] | None:
        if not shape.qkv_bias:
            return None
        used.add(name)
        values = weights.dense(name, (rows,))[0]
        return values[interleaved(rows, shape.head_size)] if rotated else values

    def head_norm(name: str) -> NDArray[np.float32] | None:
        if not shape.qk_norm:
            return None
        used.add(name)
        size = shape.head_size
        return weights.dense(name, (size,))[0][interleaved(size, size)]

    def layer(prefix: str) -> LayerWeights:
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        return LayerWeights(
            attn_norm=vector(prefix + "input_layernorm.weight"),
            q=matrix(attention + "q_proj.weight", queries, shape.width, rotated=True),
            k=matrix(attention + "k_proj.weight", keys, shape.width, rotated=True),
            v=matrix(attention + "v_proj.weight", keys, shape.width),
            o=matrix(attention + "o_proj.weight", shape.width, queries),
            ffn_norm=vector(prefix + "post_attention_layernorm.weight"),
            gate=matrix(mlp + "gate_proj.weight", shape.ffn, shape.width),
            up=matrix(mlp + "up_proj.weight", shape.ffn, shape.width),
            down=matrix(mlp + "down_proj.weight", shape.width, shape.ffn),
            q_bias=bias(attention + "q_proj.bias", queries, rotated=True),
            k_bias=bias(attention + "k_proj.bias", keys, rotated=True),
            v_bias=bias(attention + "v_proj.bias", keys),
            q_norm=head_norm(attention + "q_norm.weight"),
            k_norm=head_norm(attention + "k_norm.weight"),
        )

    stored = embedding_name if embedding_name in weights or not tied else head_name
    embedding = matrix(stored, shape.vocab, shape.width)
    checkpoint = Checkpoint(
        shape=shape,
        embedding=embedding,
        layers=tuple(layer(f"model.layers.{index}.") for index in range(shape.layers)),
        final_norm=vector("model.norm.weight"),
        head=embedding if tied else matrix(head_name, shape.vocab, shape.width),
        source=str(folder),
    )
    left = sorted(name for name in weights.names - used if not name.endswith(_IGNORED))
    if left:
        raise ModelError(
            f"{weights.path}: unsupported tensor {left[0]} ({len(left)} such); allowed are the "
            f"weights of {_architecture(folder / 'config.json', config)}: no other biases, experts "
            "or norms"
        )
    return checkpoint


def _architecture(path: Path, config: dict[str, Any]) -> str:
    """Return the model type, or refuse it."""
    names = config.get("architectures") or [config.get("model_type")]
    if isinstance(names, list) and len(names) == 1:
        for name, kind in _ARCHITECTURES.items():
            if names[0] in (name, kind):
                return kind
    raise ModelError(
        f"{path}: architecture {names} is not supported; allowed are " + ", ".join(_ARCHITECTURES)
    )


def _refuse_unsupported(path: Path, config: dict[str, Any]) -> None:
    """Refuse what would change the arithmetic."""
    _architecture(path, config)
    for key, allowed in (
        ("attention_bias", False),
        ("mlp_bias", False),
        ("hidden_act", "silu"),
        ("quantization_config", None),
    ):
        if config.get(key, allowed) != allowed:
            raise ModelError(f"{path}: {key} is {config[key]!r}; allowed is {allowed!r}")
    for key in ("rope_scaling", "rope_parameters"):
        scaling = config.get(key)
        if scaling is None:
            continue
        kind = scaling.get("rope_type", scaling.get("type")) if isinstance(scaling, dict) else "?"
        if kind not in (None, "default"):
            raise ModelError(
                f"{path}: {key} is of type {kind!r}, which is not supported; allowed is plain RoPE"
            )


def _shape(folder: Path, config: dict[str, Any], tied: bool) -> ModelShape:
    path = folder / "config.json"

    def number(key: str, default: Any = None) -> Any:
        value = config.get(key)
        value = default if value is None else value
        if value is None:
            raise ModelError(f"{path}: {key} is missing")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelError(f"{path}: {key} is {value!r}, expected a number")
        return value

    width, heads = number("hidden_size"), number("num_attention_heads")
    if not heads > 0:
        raise ModelError(f"{path}: num_attention_heads is {heads}")
    parameters = config.get("rope_parameters") or {}
    bos, eos = _special(folder, config)
    try:
        return ModelShape(
            name=folder.resolve().name,
            width=width,
            ffn=number("intermediate_size"),
            layers=number("num_hidden_layers"),
            heads=heads,
            kv_heads=number("num_key_value_heads", heads),
            head_size=number("head_dim", width // heads),
            vocab=number("vocab_size"),
            positions=number("max_position_embeddings"),
            rope_theta=float(number("rope_theta", parameters.get("rope_theta", 10000.0))),
            norm_eps=float(number("rms_norm_eps", 1e-6)),
            tied=tied,
            bos=bos,
            eos=eos,
            qkv_bias=_architecture(path, config) == "qwen2",
            qk_norm=_architecture(path, config) == "qwen3",
            **_window(path, config),
        )
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _window(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return the window, and which layers do without."""
    kind, window = _architecture(path, config), config.get("sliding_window")
    if kind == "llama" or window is None:
        return {}
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise ModelError(f"{path}: sliding_window is {window!r}; allowed is 1 or more, or null")
    if kind != "mistral" and not config.get("use_sliding_window", False):
        return {}
    layers = config.get("num_hidden_layers", 0)
    types = config.get("layer_types")
    if types is None:
        # Qwen's first `max_window_layers` see everything.
        full = config.get("max_window_layers", 0) if kind != "mistral" else 0
        types = ["full_attention" if i < full else "sliding_attention" for i in range(layers)]
    allowed = ("full_attention", "sliding_attention")
    if not isinstance(types, list) or len(types) != layers or set(types) - set(allowed):
        raise ModelError(f"{path}: layer_types is {types!r}; allowed is one of {allowed} per layer")
    full_layers = tuple(i for i, name in enumerate(types) if name == "full_attention")
    return {"window": window, "full_layers": full_layers}


def _special(folder: Path, config: dict[str, Any]) -> tuple[int | None, tuple[int, ...]]:
    """Return the start token and all end tokens that config and generation config name."""
    configs = [config]
    if (folder / "generation_config.json").is_file():
        configs.append(read_json(folder / "generation_config.json"))
    eos: list[int] = []
    for each in configs:
        ends = each.get("eos_token_id")
        eos += ends if isinstance(ends, list) else [] if ends is None else [ends]
    bos = config.get("bos_token_id")
    for token in (*eos, *(() if bos is None else (bos,))):
        if isinstance(token, bool) or not isinstance(token, int):
            raise ModelError(f"{folder}: {token!r} is no token id; bos and eos must be integers")
    return bos, tuple(dict.fromkeys(eos))
