"""Memories whose depth follows from a shape, down to a single word."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import ShapeLike
from amaranth.lib.memory import Memory

__all__ = ["addressed_memory"]


def addressed_memory(
    *, shape: ShapeLike, depth: int, attrs: dict[str, Any] | None = None
) -> Memory:
    """A memory of zeros of at least `depth` words that has an address in any case.

    A single word would have ports without an address, which Amaranth cannot express; such a
    memory gets a second word that nothing uses.
    """
    return Memory(shape=shape, depth=max(2, depth), init=[], attrs=attrs or {})
