"""Reads GGUF files of the Llama family, weights and tokenizer, without requantising."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, ReaderTensor
from numpy.typing import NDArray

from tokenloom.compiler.block_formats import e8m0_scale, from_table
from tokenloom.compiler.checkpoint import (
    BLOCK,
    Checkpoint,
    LayerWeights,
    Matrix,
    ModelShape,
    interleaved,
)
from tokenloom.compiler.errors import ModelError

__all__ = ["GgufTokenizer", "gguf_tokenizer", "load_gguf"]

_Q8_0 = np.dtype([("d", "<f2"), ("q", "i1", (BLOCK,))])
_Q4_0 = np.dtype([("d", "<f2"), ("q", "u1", (BLOCK // 2,))])
_MXFP4 = np.dtype([("e", "u1"), ("q", "u1", (BLOCK // 2,))])
_Q4_1 = np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", (BLOCK // 2,))])

_ALLOWED = ("Q8_0", "Q4_0", "Q4_1", "IQ4_NL", "MXFP4", "F16", "F32", "BF16")

_ARCHITECTURES = ("llama", "qwen2", "qwen3")

_HALF_SPLIT = ("qwen2", "qwen3")
"""Architectures whose Q and K rows are in Hugging Face's RoPE order."""

_REFUSED_IF_SET = (
    "expert_count",
    "attention.sliding_window_pattern",
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "logit_scale",
    "residual_scale",
    "embedding_scale",
    "attention.scale",
)
"""Metadata that changes the arithmetic in a way the chip does not have."""


class _File:
    """An open GGUF file whose look-ups raise errors that name the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise ModelError(f"{path}: no such file")
        try:
            self._reader = GGUFReader(path)
        except (
            ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, OSError,
        ) as error:  # fmt: skip
            raise ModelError(
                f"{path}: not a GGUF file, or truncated or corrupt ({error})"
            ) from error
        if self._reader.byte_order != "I":
            raise ModelError(f"{path}: its byte order is not this machine's; convert it first")
        self.tensors: dict[str, ReaderTensor] = {t.name: t for t in self._reader.tensors}

    def value(self, key: str, kind: type, default: Any = ...) -> Any:
        """Return metadata of the type `kind`; ``...`` as default means that it must be there."""
        field = self._reader.fields.get(key)
        if field is None:
            if default is ...:
                raise ModelError(f"{self.path}: the metadata {key} is missing")
            return default
        try:
            value = field.contents()
        except (ValueError, IndexError, TypeError) as error:
            raise ModelError(f"{self.path}: the metadata {key} is corrupt ({error})") from error
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ModelError(
                f"{self.path}: the metadata {key} is {str(value)[:40]!r}, expected {kind.__name__}"
            )
        return value


def load_gguf(path: str | Path) -> Checkpoint:
    """Read a model of the architecture "llama", "qwen2" or "qwen3".

    Quantised tensors stay as they are: Q8_0 codes and all dense F32 values are views of the mapped
    file, 4-bit codes are unpacked to one byte each. Q and K rows of "llama" files are in
    interleaved RoPE order already, those of the others get it here.

    Parameters
    ----------
    path : str or Path
        A ``.gguf`` file with tensors of the types Q8_0, Q4_0, Q4_1, IQ4_NL, MXFP4, F16, F32 or
        BF16.

    Returns
    -------
    Checkpoint

    Raises
    ------
    ModelError
        If the file is truncated or corrupt, its architecture, a feature or a tensor type is not
        supported, or a tensor is missing or has the wrong shape.
    """
    file = _File(Path(path))
    shape = _shape(file)
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    half_split = file.value("general.architecture", str) in _HALF_SPLIT
    used: set[str] = set()

    def matrix(name: str, rows: int, cols: int, *, rotated: bool = False) -> Matrix:
        used.add(name)
        found = _matrix(file, name, rows, cols)
        if rotated and half_split:
            return found.taken(interleaved(rows, shape.head_size))
        return found

    def bias(name: str, rows: int, *, rotated: bool = False) -> NDArray[np.float32] | None:
        if not shape.qkv_bias:
            return None
        used.add(name)
        values = _vector(file, name, rows)
        return values[interleaved(rows, shape.head_size)] if rotated and half_split else values

    def vector(name: str) -> NDArray[np.float32]:
        used.add(name)
        return _vector(file, name, shape.width)

    def head_norm(name: str) -> NDArray[np.float32] | None:
        if not shape.qk_norm:
            return None
        used.add(name)
        return _vector(file, name, shape.head_size)[interleaved(shape.head_size, shape.head_size)]

    def layer(prefix: str) -> LayerWeights:
        return LayerWeights(
            attn_norm=vector(prefix + "attn_norm.weight"),
            q=matrix(prefix + "attn_q.weight", queries, shape.width, rotated=True),
            k=matrix(prefix + "attn_k.weight", keys, shape.width, rotated=True),
            v=matrix(prefix + "attn_v.weight", keys, shape.width),
            o=matrix(prefix + "attn_output.weight", shape.width, queries),
            ffn_norm=vector(prefix + "ffn_norm.weight"),
            gate=matrix(prefix + "ffn_gate.weight", shape.ffn, shape.width),
            up=matrix(prefix + "ffn_up.weight", shape.ffn, shape.width),
            down=matrix(prefix + "ffn_down.weight", shape.width, shape.ffn),
            q_bias=bias(prefix + "attn_q.bias", queries, rotated=True),
            k_bias=bias(prefix + "attn_k.bias", keys, rotated=True),
            v_bias=bias(prefix + "attn_v.bias", keys),
            q_norm=head_norm(prefix + "attn_q_norm.weight"),
            k_norm=head_norm(prefix + "attn_k_norm.weight"),
        )

    embedding = matrix("token_embd.weight", shape.vocab, shape.width)
    checkpoint = Checkpoint(
        shape=shape,
        embedding=embedding,
        layers=tuple(layer(f"blk.{index}.") for index in range(shape.layers)),
        final_norm=vector("output_norm.weight"),
        head=embedding if shape.tied else matrix("output.weight", shape.vocab, shape.width),
        source=str(file.path),
    )
    # A tensor that is left over would change what the model computes: another bias, for example.
    left = sorted(set(file.tensors) - used)
    if left:
        raise ModelError(
            f"{file.path}: unsupported tensor {left[0]} ({len(left)} such); allowed are the "
            f"weights of a {file.value('general.architecture', str)} model: no other biases, "
            "experts or norms"
        )
    return checkpoint


def _shape(file: _File) -> ModelShape:
    """Read the dimensions, and refuse features that the chip does not have."""
    kind = file.value("general.architecture", str)
    if kind not in _ARCHITECTURES:
        raise ModelError(
            f"{file.path}: architecture {kind!r} is not supported; allowed are "
            + ", ".join(_ARCHITECTURES)
        )
    if file.value("split.count", int, 1) > 1:
        raise ModelError(f"{file.path}: a split GGUF file; merge its parts first")
    if (
        file.value(f"{kind}.rope.scaling.type", str, "none") != "none"
        or file.value(f"{kind}.rope.scale_linear", float, 1.0) != 1.0
        or "rope_freqs.weight" in file.tensors
    ):
        raise ModelError(f"{file.path}: RoPE scaling is not supported; allowed is plain RoPE")
    for key in (f"{kind}.{name}" for name in _REFUSED_IF_SET):
        if file.value(key, float, 0.0):
            raise ModelError(f"{file.path}: {key} is set, which is not supported")

    width = file.value(f"{kind}.embedding_length", int)
    heads = file.value(f"{kind}.attention.head_count", int)
    if heads < 1:
        raise ModelError(f"{file.path}: {kind}.attention.head_count is {heads}")
    head_size = file.value(f"{kind}.attention.key_length", int, width // heads)
    if file.value(f"{kind}.attention.value_length", int, head_size) != head_size:
        raise ModelError(f"{file.path}: keys and values must have the same length")
    if file.value(f"{kind}.rope.dimension_count", int, head_size) != head_size:
        raise ModelError(f"{file.path}: RoPE must rotate the whole head of {head_size} values")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelError(f"{file.path}: the tensor token_embd.weight is missing")
    bos, eos = _special(file)
    return ModelShape(
        name=file.value("general.name", str, file.path.stem),
        width=width,
        ffn=file.value(f"{kind}.feed_forward_length", int),
        layers=file.value(f"{kind}.block_count", int),
        heads=heads,
        kv_heads=file.value(f"{kind}.attention.head_count_kv", int, heads),
        head_size=head_size,
        vocab=int(embedding.shape[-1]),
        positions=file.value(f"{kind}.context_length", int),
        rope_theta=file.value(f"{kind}.rope.freq_base", float, 10000.0),
        norm_eps=file.value(f"{kind}.attention.layer_norm_rms_epsilon", float),
        tied="output.weight" not in file.tensors,
        bos=bos,
        eos=eos,
        qkv_bias=kind == "qwen2",
        qk_norm=kind == "qwen3",
        window=file.value(f"{kind}.attention.sliding_window", int, 0),
    )


def _special(file: _File) -> tuple[int | None, tuple[int, ...]]:
    """Return the start token and the tokens that end a text or a turn."""
    ends = (
        file.value(f"tokenizer.ggml.{key}_token_id", int, None) for key in ("eos", "eot", "eom")
    )
    eos = tuple(dict.fromkeys(token for token in ends if token is not None))
    return file.value("tokenizer.ggml.bos_token_id", int, None), eos


def _tensor(file: _File, name: str, shape: tuple[int, ...]) -> ReaderTensor:
    tensor = file.tensors.get(name)
    if tensor is None:
        raise ModelError(f"{file.path}: the tensor {name} is missing")
    found = tuple(int(n) for n in reversed(tensor.shape))  # GGUF lists the fastest axis first
    if found != shape:
        raise ModelError(f"{file.path}: {name} is {list(found)}, expected {list(shape)}")
    return tensor


def _dense(file: _File, tensor: ReaderTensor) -> NDArray[np.float32] | None:
    """Return the values of a dense tensor in float32, flat; None if it is not dense."""
    match tensor.tensor_type:
        case GGMLQuantizationType.F32 | GGMLQuantizationType.F16:
            return np.asarray(tensor.data).astype(np.float32, copy=False).reshape(-1)
        case GGMLQuantizationType.BF16:
            halves = np.asarray(tensor.data).reshape(-1).view("<u2")
            return (halves.astype(np.uint32) << 16).view(np.float32)
    return None


def _vector(file: _File, name: str, size: int) -> NDArray[np.float32]:
    tensor = _tensor(file, name, (size,))
    values = _dense(file, tensor)
    if values is None:
        raise ModelError(
            f"{file.path}: {name} is {tensor.tensor_type.name}; a vector may be F32, F16 or BF16"
        )
    return values


def _matrix(file: _File, name: str, rows: int, cols: int) -> Matrix:
    tensor = _tensor(file, name, (rows, cols))
    kind = tensor.tensor_type.name
    if kind not in _ALLOWED:
        raise ModelError(
            f"{file.path}: {name} is {kind}, which is not supported; allowed are "
            + ", ".join(_ALLOWED)
        )
    try:
        return _decode(file, tensor, rows, cols)
    except ModelError as error:
        raise ModelError(f"{file.path}: {name}: {error}") from error


def _decode(file: _File, tensor: ReaderTensor, rows: int, cols: int) -> Matrix:
    def blocks(layout: np.dtype[np.void]) -> NDArray[np.void]:
        return np.asarray(tensor.data).reshape(rows, -1).view(layout)

    match tensor.tensor_type:
        case GGMLQuantizationType.Q8_0:
            parts = blocks(_Q8_0)
            return Matrix(kind="q8_0", cols=cols, codes=parts["q"], scale=parts["d"])
        case GGMLQuantizationType.Q4_0:
            parts = blocks(_Q4_0)
            codes = _nibbles(parts["q"])
            codes -= 8
            return Matrix(kind="q4_0", cols=cols, codes=codes, scale=parts["d"])
        case GGMLQuantizationType.Q4_1:
            parts = blocks(_Q4_1)
            return Matrix(
                kind="q4_1",
                cols=cols,
                codes=_nibbles(parts["q"]),
                scale=parts["d"],
                minimum=parts["m"],
            )
        case GGMLQuantizationType.IQ4_NL:
            parts = blocks(_Q4_0)
            codes = from_table("iq4_nl", _nibbles(parts["q"]).view(np.uint8))
            return Matrix(kind="iq4_nl", cols=cols, codes=codes, scale=parts["d"])
        case GGMLQuantizationType.MXFP4:
            parts = blocks(_MXFP4)
            codes = from_table("mxfp4", _nibbles(parts["q"]).view(np.uint8))
            scale = e8m0_scale(parts["e"], np.any(codes, axis=2))
            return Matrix(kind="mxfp4", cols=cols, codes=codes, scale=scale)
    values = _dense(file, tensor)
    assert values is not None
    kinds: dict[str, Any] = {"F16": "f16", "F32": "f32", "BF16": "bf16"}
    return Matrix(kind=kinds[tensor.tensor_type.name], cols=cols, dense=values.reshape(rows, cols))


def _nibbles(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Unpack 16 bytes to 32 codes: the low halves are the block's first 16 values."""
    codes = np.empty((*packed.shape[:-1], BLOCK), dtype=np.int8)
    codes[..., : BLOCK // 2] = packed & 15
    codes[..., BLOCK // 2 :] = packed >> 4
    return codes


@dataclass(frozen=True, kw_only=True)
class GgufTokenizer:
    """The tokenizer's data in a GGUF file.

    Parameters
    ----------
    model : str
        ``"gpt2"`` (byte-level BPE) or ``"llama"`` (SentencePiece).
    pre : str
        Name of the rule that cuts text before BPE.
    tokens : list of str
        By token id.
    types : list of int
        By token id: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    merges : list of str
        Pairs with a space between, best first; empty for SentencePiece.
    scores : list of float
        By token id; empty for BPE.
    bos : int or None
        The start token.
    eos : tuple of int
        Tokens that end a text or a turn.
    add_bos : bool or None
        Whether texts start with ``bos``; None if the file does not say.
    add_space_prefix : bool
        Whether SentencePiece puts a space before the text.
    chat_template : str or None
        In the Jinja language.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    bos: int | None
    eos: tuple[int, ...]
    add_bos: bool | None
    add_space_prefix: bool
    chat_template: str | None


def gguf_tokenizer(path: str | Path) -> GgufTokenizer:
    """Read the tokenizer's data.

    Parameters
    ----------
    path : str or Path
        A ``.gguf`` file.

    Returns
    -------
    GgufTokenizer

    Raises
    ------
    ModelError
        If the file is truncated or corrupt or holds no tokenizer.
    """
    file = _File(Path(path))
    tokens = file.value("tokenizer.ggml.tokens", list)
    types = file.value("tokenizer.ggml.token_type", list, [1] * len(tokens))
    if len(types) != len(tokens):
        raise ModelError(f"{path}: {len(tokens)} tokens, but {len(types)} token types")
    bos, eos = _special(file)
    return GgufTokenizer(
        model=file.value("tokenizer.ggml.model", str),
        pre=file.value("tokenizer.ggml.pre", str, "default"),
        tokens=tokens,
        types=types,
        merges=file.value("tokenizer.ggml.merges", list, []),
        scores=file.value("tokenizer.ggml.scores", list, []),
        bos=bos,
        eos=eos,
        add_bos=file.value("tokenizer.ggml.add_bos_token", bool, None),
        add_space_prefix=file.value("tokenizer.ggml.add_space_prefix", bool, True),
        chat_template=file.value("tokenizer.chat_template", str, None),
    )
