"""How many bytes a model needs when all of it lies in a chip's own memory."""

from __future__ import annotations

from dataclasses import dataclass

from tokenloom.compiler.checkpoint import BLOCK, ModelShape
from tokenloom.hw.config import HardwareConfig
from tokenloom.hw.kv.kv_layout import KvLayout

__all__ = ["BLOCK_RAM", "Footprint", "footprint"]

BLOCK_RAM = {"ECP5-85K": 208 * 18 * 1024 // 8}
"""Bytes of block RAM by FPGA: 208 blocks of 18 kbit."""

_Q8_0_BYTES = BLOCK + 2
"""A block's codes and its fp16 scale: 8.5 bits per weight."""

_GAIN_BYTES = 2
"""A gain of RMSNorm is an int16."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes of a model, without padding to memory words.

    Attributes
    ----------
    tape : int
        All matrices that the array multiplies by, the head among them, in Q8_0.
    embedding : int
        Rows of the embedding in Q8_0. Also a tied model stores them beside the head, because the
        embedding is read by token and the head streams by channel.
    gains : int
        Gains of every RMSNorm.
    kv_per_token : int
        K and V of a token in all layers, with their exponents.
    """

    tape: int
    embedding: int
    gains: int
    kv_per_token: int

    @property
    def weights(self) -> int:
        """Bytes that do not depend on the context."""
        return self.tape + self.embedding + self.gains

    def total(self, tokens: int) -> int:
        """Bytes with the KV of `tokens` tokens."""
        return self.weights + tokens * self.kv_per_token

    def tokens_in(self, size: int) -> int:
        """Longest context in `size` bytes; 0 if not even the weights fit."""
        return max(0, size - self.weights) // self.kv_per_token


def footprint(shape: ModelShape, hardware: HardwareConfig) -> Footprint:
    """Bytes of a model at 8.5 bits per weight, its KV laid out for `hardware`.

    Parameters
    ----------
    shape : ModelShape
    hardware : HardwareConfig
        Decides how KV pages are padded.

    Returns
    -------
    Footprint
    """

    def matrix(rows: int, cols: int) -> int:
        return rows * -(-cols // BLOCK) * _Q8_0_BYTES

    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    layer = (
        matrix(queries, shape.width)
        + 2 * matrix(keys, shape.width)
        + matrix(shape.width, queries)
        + 2 * matrix(shape.ffn, shape.width)
        + matrix(shape.width, shape.ffn)
    )
    if shape.qkv_bias:  # a block per row
        layer += matrix(queries + 2 * keys, 1)
    table = matrix(shape.vocab, shape.width)
    array, memory = hardware.array, hardware.memory
    kv = KvLayout(
        columns=array.columns,
        port_bits=memory.port_bits,
        page_tokens=memory.page_tokens,
        head_size=shape.head_size,
        kv_heads=shape.kv_heads,
        layers=shape.layers,
        blocks_per_beat=hardware.blocks_per_beat,
    )
    return Footprint(
        tape=shape.layers * layer + table,
        embedding=table,
        gains=(2 * shape.layers + 1) * shape.width * _GAIN_BYTES,
        kv_per_token=-(-kv.page_stride * array.columns // memory.page_tokens),
    )
