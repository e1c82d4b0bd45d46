"""Codes of K and V as bytes in memory: golden functions.

Codes of 8 bits are a byte each. Of 4 bits, two neighbouring dims share a byte, the even one in its
low half, in K and in V alike: so each byte in memory belongs to one token, and a write needs no
byte strobe finer than a byte, no read of what is there, and no wait for another token.

K lies token by token, so a word of int4 codes holds twice as many blocks. V lies transposed: the
bytes of 32 tokens hold a block of an even dim in their low halves and one of the odd dim beside it
in their high halves.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tokenloom.hw.numbers.formats import KV4_BITS, KV_BITS

__all__ = ["pack_codes", "unpack_codes", "unpack_v"]


def _check(bits: int) -> None:
    if bits not in (KV_BITS, KV4_BITS):
        raise ValueError(f"bits has to be {KV_BITS} or {KV4_BITS}, not {bits!r}")


def pack_codes(codes: npt.ArrayLike, bits: int) -> npt.NDArray[np.uint8]:
    """A token's codes as bytes.

    Parameters
    ----------
    codes : int array [..., n], within -2^(bits-1)..2^(bits-1)-1; n even
    bits : int
        KV_BITS or KV4_BITS.

    Returns
    -------
    uint8 array [..., n bits / 8]
    """
    _check(bits)
    c = np.asarray(codes, dtype=np.int64)
    limit = 1 << (bits - 1)
    if c.size and not -limit <= c.min() <= c.max() < limit:
        raise ValueError(f"codes have to be within {-limit}..{limit - 1}")
    if bits == KV4_BITS:
        c = (c[..., 0::2] & 15) | (c[..., 1::2] & 15) << 4
    return (c & 255).astype(np.uint8)


def unpack_codes(stored: npt.ArrayLike, bits: int) -> npt.NDArray[np.int8]:
    """The codes of `pack_codes`: int8 array [..., 8 n / bits] of uint8 [..., n]."""
    _check(bits)
    b = np.asarray(stored, dtype=np.uint8)
    if bits == KV_BITS:
        return b.view(np.int8)
    halves = np.stack([b << 4, b & 240], axis=-1).view(np.int8) >> 4
    return halves.reshape(*b.shape[:-1], 2 * b.shape[-1])


def unpack_v(stored: npt.ArrayLike) -> npt.NDArray[np.int8]:
    """int4 codes of an even and an odd dim: int8 array [..., 2, n] of n tokens' bytes [..., n]."""
    b = np.asarray(stored, dtype=np.uint8)
    return np.stack([b << 4, b & 240], axis=-2).view(np.int8) >> 4
