"""The Llama forward pass in float64, on the weights as stored: what the chip is compared with."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenloom.compiler.checkpoint import Checkpoint, LayerWeights, Matrix

__all__ = ["Reference"]

_CACHED_WEIGHTS = 200_000_000
"""Models with up to so many weights keep them dequantised, at 8 bytes each."""

_KEYS = tuple[NDArray[np.float64], NDArray[np.float64]]


class Reference:
    """A model in float64, without any rounding of activations.

    Parameters
    ----------
    checkpoint : Checkpoint
        The model; Q and K rows in interleaved RoPE order.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        shape = checkpoint.shape
        layer = 2 * (shape.heads + shape.kv_heads) * shape.head_size + 3 * shape.ffn
        self._keep = (layer * shape.layers + shape.vocab) * shape.width <= _CACHED_WEIGHTS
        self._values: dict[int, NDArray[np.float64]] = {}

    @property
    def checkpoint(self) -> Checkpoint:
        """The model."""
        return self._checkpoint

    def logits(self, tokens: ArrayLike) -> NDArray[np.float64]:
        """Return the logits at every position of one sequence.

        Parameters
        ----------
        tokens : int array [T]
            Token ids; T may not exceed the model's positions.

        Returns
        -------
        float64 array [T, vocab]

        Raises
        ------
        ValueError
            If the sequence is empty or too long, or a token is outside the vocabulary.
        """
        return self._head(self._forward(self._check(tokens), None, {}))

    def probe(self, tokens: ArrayLike) -> dict[str, float]:
        """Return how large the residual stream becomes.

        Parameters
        ----------
        tokens : int array [T]

        Returns
        -------
        dict
            The largest magnitude seen: ``"embedding"``, ``"layer.<i>.attn"`` and
            ``"layer.<i>.ffn"`` after each addition, and ``"residual"`` overall.

        Raises
        ------
        ValueError
            As for `logits`.
        """
        seen: dict[str, float] = {}
        self._forward(self._check(tokens), None, seen)
        return {**seen, "residual": max(seen.values())}

    def greedy(self, prompt: Sequence[int], n: int) -> list[int]:
        """Continue a prompt with the likeliest token each time.

        Parameters
        ----------
        prompt : sequence of int
        n : int
            Tokens to generate; end tokens do not stop it.

        Returns
        -------
        list of int
            The new tokens only.

        Raises
        ------
        ValueError
            If prompt and new tokens exceed the model's positions.
        """
        past: list[_KEYS] = []
        tokens = self._check(prompt)
        if len(tokens) + n > self._checkpoint.shape.positions:
            raise ValueError(
                f"{len(tokens)} + {n} tokens exceed {self._checkpoint.shape.positions} positions"
            )
        new: list[int] = []
        for _ in range(n):
            hidden = self._forward(tokens, past, {})
            new.append(int(self._head(hidden[-1:])[0].argmax()))
            tokens = np.array(new[-1:])
        return new

    def _check(self, tokens: ArrayLike) -> NDArray[np.int64]:
        shape = self._checkpoint.shape
        ids = np.asarray(tokens)
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"tokens must be a vector of integers, not {ids.dtype} {ids.shape}")
        if not 1 <= len(ids) <= shape.positions:
            raise ValueError(f"{len(ids)} tokens; allowed are 1 to {shape.positions}")
        if ids.min() < 0 or ids.max() >= shape.vocab:
            raise ValueError(f"a token is outside the vocabulary of {shape.vocab}")
        return ids.astype(np.int64)

    def _weights(self, matrix: Matrix) -> NDArray[np.float64]:
        """Return a matrix's values, from the cache if the model is small enough to have one."""
        if not self._keep:
            return matrix.dequantise()
        if id(matrix) not in self._values:
            self._values[id(matrix)] = matrix.dequantise()
        return self._values[id(matrix)]

    def _forward(
        self, tokens: NDArray[np.int64], past: list[_KEYS] | None, seen: dict[str, float]
    ) -> NDArray[np.float64]:
        """Return the residual stream [T, width] before the final norm.

        ``past`` holds each layer's K and V of earlier tokens and is extended.
        """
        model = self._checkpoint
        first = past[0][0].shape[0] if past else 0
        angles = self._angles(np.arange(first, first + len(tokens)))
        x = model.embedding.dequantise(tokens)
        seen["embedding"] = float(np.abs(x).max())
        for index, layer in enumerate(model.layers):
            q, k, v = self._project(layer, x, angles)
            if past is not None:
                if index < len(past):
                    k = np.concatenate([past[index][0], k])
                    v = np.concatenate([past[index][1], v])
                    past[index] = (k, v)
                else:
                    past.append((k, v))
            window = model.shape.layer_window(index)
            x = x + self._attend(q, k, v, window) @ self._weights(layer.o).T
            seen[f"layer.{index}.attn"] = float(np.abs(x).max())
            h = self._norm(x, layer.ffn_norm)
            gate = h @ self._weights(layer.gate).T
            gate *= _sigmoid(gate)
            x = x + (gate * (h @ self._weights(layer.up).T)) @ self._weights(layer.down).T
            seen[f"layer.{index}.ffn"] = float(np.abs(x).max())
        return x

    def _head(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        model = self._checkpoint
        return self._norm(x, model.final_norm) @ self._weights(model.head).T

    def _norm(self, x: NDArray[np.float64], weight: NDArray[np.float32]) -> NDArray[np.float64]:
        mean = np.mean(x * x, axis=-1, keepdims=True)
        normed: NDArray[np.float64] = x / np.sqrt(mean + self._checkpoint.shape.norm_eps)
        return normed * weight.astype(np.float64)

    def _angles(self, positions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return RoPE's angles [T, head_size / 2] in radians."""
        shape = self._checkpoint.shape
        exponents = np.arange(0, shape.head_size, 2) / shape.head_size
        angles: NDArray[np.float64] = positions[:, None] * shape.rope_theta**-exponents
        return angles

    def _project(
        self, layer: LayerWeights, x: NDArray[np.float64], angles: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return rotated q [T, heads, head_size], rotated k and v [T, kv_heads, head_size]."""
        h = self._norm(x, layer.attn_norm)
        q, k, v = (
            (h @ self._weights(matrix).T + (0 if bias is None else bias)).reshape(
                len(x), -1, self._checkpoint.shape.head_size
            )
            for matrix, bias in (
                (layer.q, layer.q_bias),
                (layer.k, layer.k_bias),
                (layer.v, layer.v_bias),
            )
        )
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = self._norm(q, layer.q_norm), self._norm(k, layer.k_norm)
        return _rotate(q, angles), _rotate(k, angles), v

    def _attend(
        self,
        q: NDArray[np.float64],
        k: NDArray[np.float64],
        v: NDArray[np.float64],
        window: int = 0,
    ) -> NDArray[np.float64]:
        """Return causal attention [T, heads * head_size]; the T queries are the last of the keys.

        With a window, a query sees so many keys, its own among them.

        q is [T, heads, head_size], k and v are [keys, kv_heads, head_size].
        """
        shape = self._checkpoint.shape
        rows, keys, group = len(q), len(k), shape.heads // shape.kv_heads
        q = q.reshape(rows, shape.kv_heads, group, shape.head_size).transpose(1, 2, 0, 3)
        scores = q @ k.transpose(1, 2, 0)[:, None] / np.sqrt(shape.head_size)
        future = np.arange(keys) > np.arange(keys - rows, keys)[:, None]
        scores[..., future] = -np.inf
        if window:
            past = np.arange(keys) <= np.arange(keys - rows, keys)[:, None] - window
            scores[..., past] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed: NDArray[np.float64] = weights @ v.transpose(1, 0, 2)[:, None]
        # mixed is [kv_heads, group, T, head_size]
        return mixed.transpose(2, 0, 1, 3).reshape(rows, -1)


def _rotate(x: NDArray[np.float64], angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotate the pairs (2i, 2i+1) of x [T, heads, head_size]."""
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    even, odd = x[..., 0::2], x[..., 1::2]
    out = np.empty_like(x)
    out[..., 0::2] = even * cos - odd * sin
    out[..., 1::2] = even * sin + odd * cos
    return out


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-x)) without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))
