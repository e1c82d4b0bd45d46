"""A Llama-family checkpoint in memory, with its weights exactly as the file stores them."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tokenloom.compiler.block_formats import BLOCK, CODEBOOKS, places, quantised_blocks
from tokenloom.compiler.errors import ModelError

__all__ = [
    "BLOCK",
    "Checkpoint",
    "LayerWeights",
    "Matrix",
    "MatrixKind",
    "ModelShape",
    "interleaved",
]

MatrixKind = Literal["q8_0", "q4_0", "q4_1", "nf4", "mxfp4", "iq4_nl", "f16", "f32", "bf16"]

_CODE_RANGE = {
    "q8_0": (-128, 127),
    "q4_0": (-8, 7),
    "q4_1": (0, 15),
    **{kind: (min(table), max(table)) for kind, table in CODEBOOKS.items()},
}
"""Smallest and largest code of each quantised kind; the kinds not listed are dense."""

_RANGES = {
    "width": (1, 1 << 16),
    "ffn": (1, 1 << 20),
    "layers": (1, 1 << 10),
    "heads": (1, 1 << 10),
    "kv_heads": (1, 1 << 10),
    "head_size": (2, 1 << 10),
    "vocab": (2, 1 << 22),
    "positions": (1, 1 << 24),
}
"""Allowed values of each dimension, both ends included."""


def interleaved(rows: int, head_size: int) -> NDArray[np.int64]:
    """Return the order that brings rows i and i + head_size/2 of every head to 2i and 2i+1.

    Hugging Face's files, and GGUF's of the qwen architectures, rotate the former pairs; the chip
    rotates neighbours.
    """
    half = np.arange(rows).reshape(-1, 2, head_size // 2)
    return np.ascontiguousarray(half.transpose(0, 2, 1)).reshape(-1)


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Dimensions and constants of a Llama-family model.

    Parameters
    ----------
    name : str
        What the model calls itself; for messages only.
    width : int
        Values in the residual stream (D).
    ffn : int
        Values inside the feed-forward network (F).
    layers : int
        Transformer layers.
    heads : int
        Query heads; a multiple of ``kv_heads``.
    kv_heads : int
        Key and value heads.
    head_size : int
        Values in one head; even, because RoPE rotates pairs.
    vocab : int
        Rows of the embedding and of the head.
    positions : int
        Longest context the model was made for, in tokens.
    rope_theta : float
        Base of the RoPE frequencies.
    norm_eps : float
        Added to the mean square inside RMSNorm.
    tied : bool
        The head is the embedding.
    bos : int or None
        Token that the model's files name as the start of a text.
    eos : tuple of int
        Tokens that end a text; may be empty.
    qkv_bias : bool
        Query, key and value projections add a bias.
    qk_norm : bool
        Every head of q and k goes through an RMSNorm, before RoPE.
    window : int
        Tokens that a windowed layer attends to, the own one among them; 0 without a window.
    full_layers : tuple of int
        Layers that attend to the whole context in spite of it.

    Raises
    ------
    ModelError
        If a value lies outside what is allowed.
    """

    name: str
    width: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocab: int
    positions: int
    rope_theta: float
    norm_eps: float
    tied: bool
    bos: int | None
    eos: tuple[int, ...]
    qkv_bias: bool = False
    qk_norm: bool = False
    window: int = 0
    full_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for field, (low, high) in _RANGES.items():
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ModelError(f"{self.name}: {field} must be an integer, not {value!r}")
            if not low <= value <= high:
                raise ModelError(f"{self.name}: {field} is {value}; allowed are {low} to {high}")
        if self.heads % self.kv_heads:
            raise ModelError(
                f"{self.name}: heads ({self.heads}) must be a multiple of kv_heads "
                f"({self.kv_heads})"
            )
        if self.head_size % 2:
            raise ModelError(f"{self.name}: head_size is {self.head_size}; it must be even")
        if not (math.isfinite(self.rope_theta) and self.rope_theta >= 1.0):
            raise ModelError(
                f"{self.name}: rope_theta is {self.rope_theta}; it must be finite and at least 1"
            )
        if not 0.0 < self.norm_eps < 1.0:
            raise ModelError(
                f"{self.name}: norm_eps is {self.norm_eps}; it must lie between 0 and 1"
            )
        if not 0 <= self.window < 1 << 20:
            raise ModelError(
                f"{self.name}: window is {self.window}; allowed are 0 (none) to {(1 << 20) - 1}"
            )
        for token in (*(() if self.bos is None else (self.bos,)), *self.eos):
            if not 0 <= token < self.vocab:
                raise ModelError(
                    f"{self.name}: special token {token} lies outside the vocabulary of "
                    f"{self.vocab}"
                )

    def layer_window(self, layer: int) -> int:
        """Tokens that a layer attends to; 0 for all."""
        return 0 if layer in self.full_layers else self.window


@dataclass(frozen=True, kw_only=True, eq=False)
class Matrix:
    """A weight matrix of N rows and ``cols`` columns, quantised or dense.

    The reduction runs along the columns. A quantised value is ``scale * code``, plus ``minimum``
    for Q4_1; Q4_0's offset of 8 is already taken off its codes.

    Parameters
    ----------
    kind : str
        ``"q8_0"``, ``"q4_0"``, ``"q4_1"`` or a table's, ``"nf4"``, ``"mxfp4"``, ``"iq4_nl"``
        (quantised), ``"f16"``, ``"f32"`` or ``"bf16"`` (dense).
    cols : int
        Columns of the matrix, without the padding of the last block.
    codes : int8 array [N, blocks, 32] or None
        Integer codes; Q8_0: -128 to 127, Q4_0: -8 to 7, Q4_1: 0 to 15; of a kind with a table
        what the table says (`block_formats.CODEBOOKS`).
    scale : float16 array [N, blocks] or None
        One scale per block.
    minimum : float16 array [N, blocks] or None
        One minimum per block, for Q4_1 only.
    dense : float32 array [N, cols] or None
        The values of a dense kind.

    Raises
    ------
    ModelError
        If the parts do not fit together or a value is not finite.
    """

    kind: MatrixKind
    cols: int
    codes: NDArray[np.int8] | None = None
    scale: NDArray[np.float16] | None = None
    minimum: NDArray[np.float16] | None = None
    dense: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(MatrixKind):
            raise ModelError(f"matrix kind {self.kind!r}; allowed are {get_args(MatrixKind)}")
        if self.cols < 1:
            raise ModelError(f"a matrix needs at least one column, not {self.cols}")
        if self.is_quantised:
            self._check_blocks()
        else:
            self._check_dense()

    def _check_blocks(self) -> None:
        codes, scale, minimum = self.codes, self.scale, self.minimum
        if codes is None or scale is None or self.dense is not None:
            raise ModelError(f"a {self.kind} matrix has codes and scale, and no dense values")
        if (minimum is not None) != (self.kind == "q4_1"):
            raise ModelError("q4_1 needs a minimum per block, and no other kind has one")
        if codes.dtype != np.int8 or codes.ndim != 3 or codes.shape[1:] != (self.blocks, BLOCK):
            raise ModelError(
                f"{self.kind} codes must be int8 [N, {self.blocks}, {BLOCK}], not "
                f"{codes.dtype} {list(codes.shape)}"
            )
        for what, part in (("scale", scale), ("minimum", minimum)):
            if part is None:
                continue
            if part.dtype != np.float16 or part.shape != codes.shape[:2]:
                raise ModelError(
                    f"{self.kind} {what} must be float16 {list(codes.shape[:2])}, not "
                    f"{part.dtype} {list(part.shape)}"
                )
            if not np.isfinite(part).all():
                raise ModelError(f"a {self.kind} {what} is infinite or not a number")
        if self.kind != "q8_0":  # every int8 is a Q8_0 code
            low, high = _CODE_RANGE[self.kind]
            if codes.size and (codes.min() < low or codes.max() > high):
                raise ModelError(f"a {self.kind} code lies outside {low} to {high}")
        if self.kind in CODEBOOKS:
            try:
                places(codes, CODEBOOKS[self.kind])
            except ValueError as error:
                raise ModelError(f"a {self.kind} {error}") from error

    def _check_dense(self) -> None:
        dense = self.dense
        if dense is None or any(
            part is not None for part in (self.codes, self.scale, self.minimum)
        ):
            raise ModelError(f"a {self.kind} matrix has dense values only")
        if dense.dtype != np.float32 or dense.ndim != 2 or dense.shape[1] != self.cols:
            raise ModelError(
                f"{self.kind} values must be float32 [N, {self.cols}], not "
                f"{dense.dtype} {list(dense.shape)}"
            )
        if not np.isfinite(dense).all():
            raise ModelError(f"a {self.kind} value is infinite or not a number")

    @property
    def is_quantised(self) -> bool:
        """Whether the values are codes and scales."""
        return self.kind in _CODE_RANGE

    @property
    def rows(self) -> int:
        """Rows of the matrix (N)."""
        part: NDArray[Any] | None = self.codes if self.is_quantised else self.dense
        assert part is not None
        return int(part.shape[0])

    @property
    def blocks(self) -> int:
        """Blocks in one row, the last perhaps padded."""
        return -(-self.cols // BLOCK)

    def dequantise(self, rows: NDArray[np.integer] | None = None) -> NDArray[np.float64]:
        """Return the values exactly as stored.

        Parameters
        ----------
        rows : integer array [n] or None
            Which rows; all of them by default.

        Returns
        -------
        float64 array [N or n, cols]
        """
        pick: Any = slice(None) if rows is None else rows
        if self.dense is not None:
            values: NDArray[np.float64] = self.dense[pick].astype(np.float64)
            return values
        assert self.codes is not None and self.scale is not None
        values = self.codes[pick].astype(np.float64)
        values *= self.scale[pick].astype(np.float64)[..., None]
        if self.minimum is not None:
            values += self.minimum[pick].astype(np.float64)[..., None]
        values = values.reshape(len(values), self.blocks * BLOCK)
        return values[:, : self.cols]

    def taken(self, rows: NDArray[np.integer]) -> "Matrix":
        """Return these rows, in this order, exactly as stored."""
        if self.dense is not None:
            return Matrix(kind=self.kind, cols=self.cols, dense=self.dense[rows])
        assert self.codes is not None and self.scale is not None
        return Matrix(
            kind=self.kind,
            cols=self.cols,
            codes=self.codes[rows],
            scale=self.scale[rows],
            minimum=None if self.minimum is None else self.minimum[rows],
        )

    def quantised(self, kind: MatrixKind = "q8_0") -> "Matrix":
        """Return the matrix in blocks: itself if it is quantised, otherwise as `kind`.

        A row's last block is padded with zeros; `block_formats.quantised_blocks` says how each kind
        chooses scales and codes.

        Returns
        -------
        Matrix
            Of a quantised kind.

        Raises
        ------
        ModelError
            If a value is too large for an fp16 scale.
        """
        if self.dense is None:
            return self
        padded = np.zeros((self.rows, self.blocks * BLOCK), dtype=np.float32)
        padded[:, : self.cols] = self.dense
        codes, scale, minimum = quantised_blocks(
            kind, padded.reshape(self.rows, self.blocks, BLOCK)
        )
        return Matrix(kind=kind, cols=self.cols, codes=codes, scale=scale, minimum=minimum)


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerWeights:
    """The weights of one layer.

    Parameters
    ----------
    attn_norm, ffn_norm : float32 array [width]
        RMSNorm weights.
    q : Matrix [heads * head_size, width]
        Query projection, rows in interleaved RoPE order: rows 2i and 2i+1 of a head rotate
        together.
    k : Matrix [kv_heads * head_size, width]
        Key projection, rows in interleaved RoPE order.
    v : Matrix [kv_heads * head_size, width]
        Value projection.
    o : Matrix [width, heads * head_size]
        Output projection.
    gate, up : Matrix [ffn, width]
        Input projections of SwiGLU.
    down : Matrix [width, ffn]
        Output projection of SwiGLU.
    q_bias, k_bias, v_bias : float32 array [rows of q, k, v] or None
        Added to the projections, before RoPE and in its order; exactly with `qkv_bias`.
    q_norm, k_norm : float32 array [head_size] or None
        RMSNorm weights of every head of q and k, in RoPE's order; exactly with `qk_norm`.
    """

    attn_norm: NDArray[np.float32]
    q: Matrix
    k: Matrix
    v: Matrix
    o: Matrix
    ffn_norm: NDArray[np.float32]
    gate: Matrix
    up: Matrix
    down: Matrix
    q_bias: NDArray[np.float32] | None = None
    k_bias: NDArray[np.float32] | None = None
    v_bias: NDArray[np.float32] | None = None
    q_norm: NDArray[np.float32] | None = None
    k_norm: NDArray[np.float32] | None = None

    def bias(self, name: str) -> NDArray[np.float32] | None:
        """The bias of the projection `name`, if it has one."""
        found: NDArray[np.float32] | None = getattr(self, f"{name}_bias", None)
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A whole model.

    Parameters
    ----------
    shape : ModelShape
        Its dimensions.
    embedding : Matrix [vocab, width]
        One row per token.
    layers : tuple of LayerWeights
        From first to last.
    final_norm : float32 array [width]
        RMSNorm weight before the head.
    head : Matrix [vocab, width]
        Vocabulary projection; the same object as ``embedding`` if tied.
    source : str
        The file it came from, for messages.

    Raises
    ------
    ModelError
        If a weight's shape contradicts ``shape``; the message names source and weight.
    """

    shape: ModelShape
    embedding: Matrix
    layers: tuple[LayerWeights, ...]
    final_norm: NDArray[np.float32]
    head: Matrix
    source: str

    def __post_init__(self) -> None:
        s = self.shape
        queries, keys = s.heads * s.head_size, s.kv_heads * s.head_size
        expected = {
            "q": (queries, s.width),
            "k": (keys, s.width),
            "v": (keys, s.width),
            "o": (s.width, queries),
            "gate": (s.ffn, s.width),
            "up": (s.ffn, s.width),
            "down": (s.width, s.ffn),
        }
        if len(self.layers) != s.layers:
            raise ModelError(f"{self.source}: {len(self.layers)} layers, expected {s.layers}")
        self._check_matrix("embedding", self.embedding, (s.vocab, s.width))
        self._check_matrix("head", self.head, (s.vocab, s.width))
        if s.tied != (self.head is self.embedding):
            raise ModelError(f"{self.source}: head and embedding are one object exactly when tied")
        self._check_vector("final_norm", self.final_norm)
        for index, layer in enumerate(self.layers):
            for name, size in expected.items():
                self._check_matrix(f"layer {index} {name}", getattr(layer, name), size)
            self._check_vector(f"layer {index} attn_norm", layer.attn_norm)
            self._check_vector(f"layer {index} ffn_norm", layer.ffn_norm)
            for name, gain in (("q", layer.q_norm), ("k", layer.k_norm)):
                if (gain is not None) != s.qk_norm:
                    raise ModelError(
                        f"{self.source}: layer {index} {name} has "
                        f"{'no' if gain is None else 'a'} norm, expected is "
                        f"{'one' if s.qk_norm else 'none'}"
                    )
                if gain is not None:
                    self._check_vector(f"layer {index} {name}_norm", gain, s.head_size)
            for name in ("q", "k", "v"):
                bias = layer.bias(name)
                if (bias is not None) != s.qkv_bias:
                    raise ModelError(
                        f"{self.source}: layer {index} {name} has "
                        f"{'no' if bias is None else 'a'} bias, expected is "
                        f"{'one' if s.qkv_bias else 'none'}"
                    )
                if bias is not None:
                    self._check_vector(f"layer {index} {name}_bias", bias, expected[name][0])

    def _check_matrix(self, name: str, matrix: Matrix, size: tuple[int, int]) -> None:
        if (matrix.rows, matrix.cols) != size:
            raise ModelError(
                f"{self.source}: {name} is {matrix.rows} x {matrix.cols}, expected "
                f"{size[0]} x {size[1]}"
            )

    def _check_vector(
        self, name: str, vector: NDArray[np.float32], size: int | None = None
    ) -> None:
        size = self.shape.width if size is None else size
        if vector.shape != (size,) or vector.dtype != np.float32:
            raise ModelError(
                f"{self.source}: {name} is {vector.dtype} {list(vector.shape)}, expected "
                f"float32 [{size}]"
            )
        if not np.isfinite(vector).all():
            raise ModelError(f"{self.source}: {name} holds an infinity or a NaN")
