"""Where a sliding window begins: for the RTL, the schedule and whoever reads the chip's scores.

A token at position p attends to the `window` positions p - window + 1 .. p. What lies before the
first row's window in whole pages is not fetched, so tiles, scores and probabilities of a windowed
operation count from the first token of the window's first page.
"""

from __future__ import annotations

from amaranth.hdl import Const, Mux, Value

__all__ = ["first_token", "first_token_value"]


def first_token(*, pos: int, window: int, page_tokens: int) -> int:
    """First token that an operation fetches; `pos` is the pass's first, `window` 0 for none."""
    if window == 0:
        return 0
    return max(0, pos + 1 - window) // page_tokens * page_tokens


def first_token_value(*, pos: Value, window: Value, page_tokens: int) -> Value:
    """The same of signals; `page_tokens` is a power of two."""
    oldest = pos + 1 - window  # signed
    page_bits = page_tokens.bit_length() - 1
    inside = (window != 0) & (oldest >= 0)
    return Mux(inside, oldest[page_bits : len(pos)] << page_bits, Const(0, 1))[: len(pos)]
