"""A model's registers: its dimensions and addresses, written once before it runs."""

from __future__ import annotations

from amaranth.hdl import signed
from amaranth.lib import data

__all__ = ["BIAS", "MODEL", "Select", "bias_word"]

MODEL = data.StructLayout(
    {
        "head_size": 9,
        "group": 6,  # heads per kv head
        "key_blocks": 4,  # blocks of 32 dims per head
        "eps": 48,
        "v_floor": 5,
        "kv_base": 32,  # addresses and strides in port words
        "page_stride": 24,
        "layer_stride": 24,
        "head_stride": 16,
        "k_offset": 16,
        "v_offset": 16,
        "v_dim_words": 8,
        "embedding_base": 32,
        "embedding_stride": 16,
        "embedding_blocks": 12,
        "embedding_four_bit": 1,
        "width": 17,
        "layer_blocks": 10,  # K and V blocks that a row writes per layer
    }
)


class Select:
    """Targets of a configuration write; 0..4 are the units' queues (`isa.Unit`)."""

    GAINS = 5
    FREQUENCIES = 6
    TAPE = 7
    REGISTERS = 8
    CODEBOOK = 9
    BIASES = 10
    """A request's, between requests: entry `cfg_addr` of `LogitRules`' table, in `BIAS`."""


_BIAS_VALUE_BITS = 32
BIAS = data.StructLayout({"value": signed(_BIAS_VALUE_BITS), "id": 32})


def bias_word(token: int, bias: int) -> int:
    """An entry of the table of biases as a configuration write takes it."""
    return token << _BIAS_VALUE_BITS | bias & (1 << _BIAS_VALUE_BITS) - 1
