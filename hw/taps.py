"""What the chip built with `taps` shows of every operation's output, for the simulator only.

Every belt cycle has one record: fields of whole 32-bit words, so that a reader takes them without
shifting. First the quantiser's block, then each row's fields, then each attention lane's.
"""

from __future__ import annotations

from collections.abc import Mapping

from amaranth.hdl import Cat, Const, Value

from tokenloom.hw.config import HardwareConfig
from tokenloom.hw.numbers.formats import BLOCK

__all__ = [
    "BLOCK_TAP",
    "CODE_BITS",
    "ROW_TAP",
    "attention_tap",
    "pack_tap",
    "tap_places",
    "tap_words",
]

CODE_BITS = 16
"""Bits of an activation's code in a record, extended by its sign."""

BLOCK_TAP = {
    "block_valid": 1,
    "block_unit": 1,
    "block_row": 1,
    "block_target": 1,
    "block_bank": 1,
    "block_addr": 1,
    "block_last": 1,
    "block_layer": 1,
    "block_head": 1,
    "block_block": 1,
    "block_shift": 1,
    "block_codes": CODE_BITS * BLOCK // 32,
}
"""Field -> words: a block that leaves the quantiser, and its tag."""

ROW_TAP = {
    "residual_valid": 1,
    "residual_index": 1,
    "residual_value": 1,
    "logit_valid": 1,
    "logit": 1,
    "prob_valid": 1,
    "prob_addr": 1,
    "prob_shift": 1,
    "prob_high": 8 * BLOCK // 32,
    "prob_low": 8 * BLOCK // 32,
}
"""Field -> words: a row's updated residual value, its logit, and its block of probabilities."""


def attention_tap(drain: int) -> dict[str, int]:
    """Field -> words: an attention lane's scores as read, denominator and output."""
    return {
        "score_valid": 1,
        "score_slot": 1,
        "score_word": 1,
        "scores": drain,
        "den_valid": 1,
        "den_slot": 1,
        "den": 2,
        "context_valid": 1,
        "context_slot": 1,
        "context_dim": 1,
        "context_values": drain,
    }


def tap_places(hardware: HardwareConfig) -> dict[tuple[str, int], slice]:
    """(field, row) -> its words in a record; the row of the quantiser's fields is 0."""
    rows = hardware.array.rows
    groups = [(BLOCK_TAP, 0)]
    groups += [(ROW_TAP, row) for row in range(rows)]
    groups += [(attention_tap(hardware.array.drain), row) for row in range(rows)]
    places, at = {}, 0
    for fields, row in groups:
        for name, words in fields.items():
            places[name, row] = slice(at, at + words)
            at += words
    return places


def tap_words(hardware: HardwareConfig) -> int:
    """Words of a record."""
    return max(place.stop for place in tap_places(hardware).values())


def pack_tap(fields: Mapping[str, int], values: Mapping[str, Value]) -> Value:
    """The fields' values, each extended by zeros to its words."""
    parts: list[Value] = []
    for name, words in fields.items():
        value = values[name]
        parts += [value, Const(0, 32 * words - len(value))]
    return Cat(*parts)
