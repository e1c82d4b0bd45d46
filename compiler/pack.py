"""Brings quantised blocks into the order and bytes that the tape and row readers take.

A channel's tape of one operation consists of groups of G = port_bits / 16 blocks: one word of G
scales, for 4-bit kinds one word of G minima, then the codes. The last group may have fewer blocks:
its scale words stay whole and its codes end with the word they need.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "pack_codes", "pack_row", "pack_weights", "row_bytes", "weights_bytes"]

Array = npt.NDArray[Any]


def _check(bits: int, port_bits: int, minimum: Array | None) -> None:
    if bits not in (4, 8):
        raise ValueError(f"bits has to be 4 or 8, not {bits!r}")
    if port_bits not in (256, 512):
        raise ValueError(f"port_bits has to be 256 or 512, not {port_bits!r}")
    if (minimum is not None) != (bits == 4):
        raise ValueError("minima belong to 4-bit codes, and only to them")


def _padded(data: Array, size: int) -> Array:
    """`data` (…, bytes) with zero bytes up to a multiple of `size`."""
    pad = -data.shape[-1] % size
    return np.pad(data, [(0, 0)] * (data.ndim - 1) + [(0, pad)])


def pack_codes(codes: Array, bits: int) -> Array:
    """Bytes of the codes along the last axis; 4-bit codes (places in a table) low nibble first.

    Raises
    ------
    ValueError
        When a code does not fit `bits` (unsigned 4, signed 8).
    """
    low, high = (0, 15) if bits == 4 else (-128, 127)
    if codes.size and (codes.min() < low or codes.max() > high):
        raise ValueError(f"{bits}-bit codes have to lie in {low}..{high}")
    if bits == 8:
        return codes.astype(np.int8).view(np.uint8)
    nibbles = codes.astype(np.uint8)
    return nibbles[..., 0::2] | nibbles[..., 1::2] << 4


def _halves(values: Array) -> Array:
    """Little-endian bytes of 16-bit values along the last axis."""
    return np.ascontiguousarray(values.astype("<u2")).view(np.uint8)


def _tape_words(blocks: int, bits: int, port_bits: int) -> int:
    heads = 2 if bits == 4 else 1
    return -(-blocks // (port_bits // 16)) * heads + -(-blocks * 32 * bits // port_bits)


def weights_bytes(
    *, outputs: int, blocks: int, bits: int, columns: int, blocks_per_beat: int, port_bits: int
) -> int:
    """Bytes per channel that `pack_weights` makes of `outputs` rows of `blocks` blocks."""
    padded = -(-blocks // blocks_per_beat) * blocks_per_beat
    return _tape_words(-(-outputs // columns) * padded, bits, port_bits) * port_bits // 8


def pack_weights(
    codes: Array,
    scale: Array,
    minimum: Array | None,
    bits: int,
    columns: int,
    blocks_per_beat: int,
    port_bits: int,
) -> list[Array]:
    """The tape of one operation, for every channel.

    Parameters
    ----------
    codes : array (outputs, inputs)
        Codes 0..15 (4 bit) or -128..127 (8 bit); `inputs` is a multiple of 32.
    scale, minimum : array (outputs, inputs / 32) of uint16
        Rebased fp16; `minimum` is None for 8 bits.
    bits : int
        4 or 8.
    columns : int
        Channels; channel c gets the outputs n = c mod `columns`, missing ones as zero blocks.
    blocks_per_beat : int
        Blocks of one output are padded with zero blocks to a multiple of it.
    port_bits : int
        Bits of a memory word.

    Returns
    -------
    list of uint8 arrays
        One of whole words for each channel, all of one length.

    Raises
    ------
    ValueError
        When shapes or codes do not fit.
    """
    _check(bits, port_bits, minimum)
    outputs, inputs = codes.shape
    blocks = inputs // 32
    if inputs % 32 or scale.shape != (outputs, blocks):
        raise ValueError(f"codes {codes.shape} do not go with scales {scale.shape}")
    if minimum is not None and minimum.shape != scale.shape:
        raise ValueError(f"minima {minimum.shape} do not go with scales {scale.shape}")
    tiles = -(-outputs // columns)
    depth = -(-blocks // blocks_per_beat) * blocks_per_beat

    def by_channel(values: Array, per_block: int) -> Array:
        """(outputs, blocks * per_block) -> (columns, tiles * depth, per_block), zero-padded."""
        full = np.zeros((tiles * columns, depth * per_block), values.dtype)
        full[:outputs, : blocks * per_block] = values
        shaped = full.reshape(tiles, columns, depth, per_block).swapaxes(0, 1)
        return shaped.reshape(columns, tiles * depth, per_block)

    data = by_channel(pack_codes(codes, bits), 4 * bits)
    scales = by_channel(scale, 1)[..., 0]
    minima = None if minimum is None else by_channel(minimum, 1)[..., 0]

    word, group = port_bits // 8, port_bits // 16
    total = tiles * depth
    groups = -(-total // group)

    def in_groups(values: Array) -> Array:
        flat = values.reshape(columns, -1)
        size = flat.shape[1] // total * group
        return _padded(flat, size).reshape(columns, groups, size)

    parts = [in_groups(_halves(scales))]
    if minima is not None:
        parts.append(in_groups(_halves(minima)))
    parts.append(in_groups(data))
    tape = np.concatenate(parts, axis=2).reshape(columns, -1)
    length = _tape_words(total, bits, port_bits) * word
    return [np.ascontiguousarray(channel[:length]) for channel in tape]


def row_bytes(*, blocks: int, bits: int, port_bits: int) -> int:
    """Bytes that `pack_row` makes of one row of `blocks` blocks."""
    heads = (2 if bits == 4 else 1) * -(-blocks * 16 // port_bits)
    return (heads + -(-blocks * 32 * bits // port_bits)) * port_bits // 8


def pack_row(codes: Array, scale: Array, minimum: Array | None, bits: int, port_bits: int) -> Array:
    """Bytes of embedding rows: scale words, minima words (4 bit), code words, each whole words.

    Parameters
    ----------
    codes : array (…, inputs)
        One row or many, `inputs` a multiple of 32.
    scale, minimum : array (…, inputs / 32) of uint16
        Rebased fp16; `minimum` is None for 8 bits.
    bits, port_bits : int
        As in `pack_weights`.

    Raises
    ------
    ValueError
        When shapes or codes do not fit.
    """
    _check(bits, port_bits, minimum)
    if codes.shape[-1] != 32 * scale.shape[-1]:
        raise ValueError(f"codes {codes.shape} do not go with scales {scale.shape}")
    if minimum is not None and minimum.shape != scale.shape:
        raise ValueError(f"minima {minimum.shape} do not go with scales {scale.shape}")
    word = port_bits // 8
    parts = [_halves(scale)]
    if minimum is not None:
        parts.append(_halves(minimum))
    parts.append(pack_codes(codes, bits))
    return np.concatenate([_padded(part, word) for part in parts], axis=-1)
