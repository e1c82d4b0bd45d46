"""The float model over a few tokens: how large the residual stream becomes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tokenloom.compiler.checkpoint import Checkpoint, LayerWeights

if TYPE_CHECKING:
    from tokenloom.compiler.quantise import QLayer

__all__ = ["HEADROOM", "TOKENS", "Probe"]

Float = npt.NDArray[np.float64]

TOKENS = 64
HEADROOM = 2  # bits that the residual gets beyond the probe's peak


class Probe:
    """The float model over a fixed sequence, to find how large its residual becomes."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        shape = checkpoint.shape
        self.shape = shape
        self._layer = 0
        count = min(TOKENS, shape.positions)
        ids = [(7 * i + 1) % shape.vocab for i in range(count)]
        if shape.bos is not None:
            ids = [shape.bos, *ids][:count]
        table = checkpoint.embedding.quantised()
        self._stream = table.dequantise(np.asarray(ids))
        self.peak = float(np.abs(self._stream).max())
        half = shape.head_size // 2
        angles = np.outer(
            np.arange(count), shape.rope_theta ** (-2.0 * np.arange(half) / shape.head_size)
        )
        self._turn = np.exp(1j * angles)[:, None, :]

    def layer(self, weights: LayerWeights, tensors: QLayer) -> None:
        """Run one layer."""
        shape, count = self.shape, len(self._stream)
        x = self._normalised(weights.attn_norm)
        q, k, v = (
            (x @ getattr(tensors, name).values().T + (0 if bias is None else bias)).reshape(
                count, -1, shape.head_size
            )
            for name in ("q", "k", "v")
            for bias in (weights.bias(name),)
        )
        if weights.q_norm is not None and weights.k_norm is not None:
            q, k = self._rms(q) * weights.q_norm, self._rms(k) * weights.k_norm
        q, k = (self._rotated(part) for part in (q, k))
        group = shape.heads // shape.kv_heads
        k, v = (np.repeat(part, group, axis=1) for part in (k, v))
        scores = np.einsum("thd,shd->hts", q, k) / math.sqrt(shape.head_size)
        seen = np.tri(count, dtype=bool)
        window = shape.layer_window(self._layer)
        if window:
            seen = seen & ~np.tri(count, k=-window, dtype=bool)
        self._layer += 1
        scores = np.where(seen, scores, -np.inf)
        p = np.exp(scores - scores.max(axis=2, keepdims=True))
        p /= p.sum(axis=2, keepdims=True)
        mixed = np.einsum("hts,shd->thd", p, v).reshape(count, -1)
        self._add(mixed @ tensors.o.values().T)
        pairs = self._normalised(weights.ffn_norm) @ tensors.gate_up.values().T
        gate, up = pairs[:, 0::2], pairs[:, 1::2]
        hidden = gate * up * (0.5 + 0.5 * np.tanh(gate / 2))
        self._add(hidden @ tensors.down.values().T)

    def _normalised(self, gain: npt.NDArray[np.float32]) -> Float:
        return self._rms(self._stream) * gain

    def _rms(self, part: Float) -> Float:
        mean = np.square(part).mean(axis=-1, keepdims=True)
        result: Float = part / np.sqrt(mean + self.shape.norm_eps)
        return result

    def _rotated(self, part: Float) -> Float:
        turned = (part[..., 0::2] + 1j * part[..., 1::2]) * self._turn
        return np.stack([turned.real, turned.imag], axis=-1).reshape(part.shape)

    def _add(self, update: Float) -> None:
        self._stream = self._stream + update
        self.peak = max(self.peak, float(np.abs(self._stream).max()))
