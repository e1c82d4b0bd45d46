"""Tiny random checkpoints in memory, and prompts for them: for tests and benchmarks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tokenloom.compiler.block_formats import CODEBOOKS, from_table
from tokenloom.compiler.checkpoint import BLOCK, Checkpoint, LayerWeights, Matrix, ModelShape
from tokenloom.compiler.quantise import QuantModel

__all__ = ["KINDS", "SMALL", "SMALLEST", "prompt_for", "random_model"]

KINDS = ("q8_0", "q4_0", "q4_1", "f32", "nf4", "mxfp4")

# One head, one layer: a pass of a few hundred cycles.
SMALLEST = dict(width=16, ffn=16, heads=1, kv_heads=1, head_size=8, vocab=16)
# Every kind of operation, double buffers in use, nothing a multiple of 32.
SMALL = dict(width=40, ffn=50, heads=6, kv_heads=3, head_size=10, vocab=33, layers=2, tied=False)


def prompt_for(model: QuantModel, count: int, seed: int = 5) -> list[int]:
    """So many random tokens of a quantised model's vocabulary."""
    return [
        int(token) for token in np.random.default_rng(seed).integers(0, model.shape.vocab, count)
    ]


# Lowest and highest code, and the code's standard deviation when all are equally likely.
_CODES = {"q8_0": (-127, 127, 73.6), "q4_0": (-8, 7, 4.61), "q4_1": (0, 15, 4.61)}


def _matrix(rng: np.random.Generator, kind: Any, rows: int, cols: int, size: float) -> Matrix:
    """Values of standard deviation `size`, give or take a factor of two per block."""
    blocks = -(-cols // BLOCK)
    spread = np.exp2(rng.uniform(-1, 1, (rows, blocks)))
    if kind == "f32":
        values = rng.normal(0, size, (rows, blocks, BLOCK)) * spread[..., None]
        dense = values.reshape(rows, -1)[:, :cols].astype(np.float32)
        return Matrix(kind="f32", cols=cols, dense=np.ascontiguousarray(dense))
    if kind in CODEBOOKS:
        return _table_matrix(rng, kind, rows, cols, size * spread)
    low, high, deviation = _CODES[kind]
    codes = rng.integers(low, high + 1, (rows, blocks, BLOCK))
    scale = size * spread / deviation
    if kind == "q4_0":  # llama.cpp writes negative scales, too
        scale *= rng.choice([-1, 1], scale.shape)
    minimum = None
    if kind == "q4_1":
        minimum = (-7.5 * scale * rng.uniform(0.8, 1.2, scale.shape)).astype(np.float16)
    # The padding of the last block: zeros, where the kind can say so.
    codes = codes.reshape(rows, -1)
    codes[:, cols:] = 0
    return Matrix(
        kind=kind,
        cols=cols,
        codes=codes.reshape(rows, blocks, BLOCK).astype(np.int8),
        scale=scale.astype(np.float16),
        minimum=minimum,
    )


def _table_matrix(rng: np.random.Generator, kind: Any, rows: int, cols: int, size: Any) -> Matrix:
    """A matrix of a kind with a codebook, every place equally likely."""
    blocks = -(-cols // BLOCK)
    codes = from_table(kind, rng.integers(0, 16, (rows, blocks, BLOCK), dtype=np.uint8))
    codes = codes.reshape(rows, -1)
    codes[:, cols:] = min(CODEBOOKS[kind], key=abs)
    scale = size / np.std(CODEBOOKS[kind])
    if kind == "mxfp4":
        scale = np.exp2(np.round(np.log2(scale)))
    return Matrix(
        kind=kind, cols=cols, codes=codes.reshape(rows, blocks, BLOCK),
        scale=scale.astype(np.float16),
    )  # fmt: skip


def random_model(
    *,
    width: int = 64,
    ffn: int = 96,
    heads: int = 4,
    kv_heads: int = 2,
    head_size: int = 16,
    vocab: int = 64,
    layers: int = 1,
    kind: str = "q8_0",
    kinds: dict[str, str] | None = None,
    tied: bool = True,
    positions: int = 256,
    eos: tuple[int, ...] = (),
    bias: float = 0.0,
    qk_norm: bool = False,
    window: int = 0,
    full_layers: tuple[int, ...] = (),
    seed: int = 1,
) -> Checkpoint:
    """A random checkpoint whose magnitudes are those of a trained one.

    Parameters
    ----------
    kind : str
        "q8_0", "q4_0", "q4_1", one with a codebook, or "f32", of every matrix.
    kinds : dict, optional
        Matrices ("q", "down", "embedding", ...) of another kind.
    bias : float
        Size of the biases of q, k and v; 0 for none.
    qk_norm : bool
        With a norm over every head of q and k.
    """
    rng = np.random.default_rng(seed)
    kinds = kinds or {}
    shape = ModelShape(
        name=f"random-{width}-{ffn}-{heads}-{kv_heads}-{head_size}-{vocab}-{layers}-{kind}",
        width=width, ffn=ffn, layers=layers, heads=heads, kv_heads=kv_heads, head_size=head_size,
        vocab=vocab, positions=positions, rope_theta=10000.0, norm_eps=1e-5, tied=tied, bos=None,
        eos=eos, qkv_bias=bias != 0.0, qk_norm=qk_norm,
        window=window, full_layers=full_layers,
    )  # fmt: skip

    def matrix(name: str, rows: int, cols: int, gain: float = 1.0) -> Matrix:
        return _matrix(rng, kinds.get(name, kind), rows, cols, gain / math.sqrt(cols))

    def norm() -> np.ndarray:
        return rng.uniform(0.5, 1.5, width).astype(np.float32)

    queries, keys = heads * head_size, kv_heads * head_size

    def biases() -> dict[str, np.ndarray]:
        if not bias:
            return {}
        sizes = {"q_bias": queries, "k_bias": keys, "v_bias": keys}
        return {
            name: (rng.normal(0, bias, size) * np.exp2(rng.uniform(-6, 1, size))).astype(np.float32)
            for name, size in sizes.items()
        }

    def head_norms() -> dict[str, np.ndarray]:
        if not qk_norm:
            return {}
        return {
            name: rng.uniform(0.5, 1.5, head_size).astype(np.float32)
            for name in ("q_norm", "k_norm")
        }

    stack = tuple(
        LayerWeights(
            attn_norm=norm(),
            q=matrix("q", queries, width, 2.0),
            k=matrix("k", keys, width, 2.0),
            v=matrix("v", keys, width),
            o=matrix("o", width, queries),
            ffn_norm=norm(),
            gate=matrix("gate", ffn, width),
            up=matrix("up", ffn, width),
            down=matrix("down", width, ffn),
            **biases(),
            **head_norms(),
        )
        for _ in range(layers)
    )
    embedding = _matrix(rng, kinds.get("embedding", kind), vocab, width, 1.0)
    head = embedding if tied else matrix("head", vocab, width, 2.0)
    return Checkpoint(
        shape=shape, embedding=embedding, layers=stack, final_norm=norm(), head=head,
        source="random",
    )  # fmt: skip
