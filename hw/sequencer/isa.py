"""Instruction layouts: what the compiler writes and the units' queues play.

One layout per unit, each beginning with the same header. The compiler packs with `pack`, the RTL
views the same bits through `amaranth.lib.data`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from amaranth.hdl import Mux, Value
from amaranth.lib import data

__all__ = [
    "ARRAY_OP",
    "CHUNK",
    "CHUNKS_MAX",
    "CHUNK_LAYOUTS",
    "CONTEXT_OP",
    "DONE_BITS",
    "EMBED_OP",
    "HEADER",
    "LAYOUTS",
    "NORM_OP",
    "OPERAND_BITS",
    "SOFTMAX_CHUNK_OP",
    "SOFTMAX_OP",
    "TAPE_OP",
    "Dest",
    "Kind",
    "Unit",
    "When",
    "chunk_runs",
    "chunk_tokens",
    "pack",
]

DONE_BITS = 14  # operations of one unit per pass: Llama-3-70B has some 13,000
OPERAND_BITS = 11  # blocks of an operand buffer: Llama-3-70B has some 1,700


class Unit(enum.IntEnum):
    """The units that play a queue."""

    EMBED = 0
    NORM = 1
    ARRAY = 2
    SOFTMAX = 3
    CONTEXT = 4


class Kind(enum.IntEnum):
    """What the array does with its beats."""

    MATMUL = 0
    KEYS = 1
    VALUES = 2


class Dest(enum.IntEnum):
    """Where a matmul's sums go."""

    RESIDUAL = 0
    KEY = 1
    VALUE = 2
    QUERY = 3
    GATE_UP = 4
    LOGITS = 5


HEADER = data.StructLayout(
    {
        "wait": data.ArrayLayout(DONE_BITS, len(Unit)),  # start when done[u] >= wait[u]
        "sample_only": 1,  # the queue stops here in a pass that samples nothing
        "stop": 1,  # end of the program
    }
)

CHUNKS_MAX = 64

CHUNK = data.StructLayout(
    {
        "number": (CHUNKS_MAX - 1).bit_length(),  # tokens number * score_tokens and following
        "when": 2,  # When
    }
)


class When(enum.IntEnum):
    """In which passes an operation on a chunk is played, if the context reaches that chunk."""

    ANY = 0
    EARLIER = 1  # not if it is the context's last chunk
    LAST = 2  # only if it is


def chunk_runs(number: Any, when: Any, last: Any) -> Any:
    """Whether an operation on a chunk is played where `last` is the context's last chunk.

    Of integers or of signals.
    """
    return ((last > number) & (when != When.LAST)) | ((last == number) & (when != When.EARLIER))


def chunk_tokens(tokens: Value, number: Value, size: int) -> Value:
    """Tokens of a context that lie in a chunk which it reaches; `size`, a power of two, at most."""
    left = tokens - (number << size.bit_length() - 1)
    return Mux(left > size, size, left)


EMBED_OP = data.StructLayout({"header": HEADER, "shift": 6, "count": 16})

NORM_OP = data.StructLayout(
    {"header": HEADER, "gain_base": 16, "floor": 5, "words": 12, "x_base": OPERAND_BITS}
)

ARRAY_OP = data.StructLayout(
    {
        "header": HEADER,
        "kind": 2,
        "dest": 3,
        "tiles": 16,  # matmul and values; keys: from the pass's length
        "beats": 10,  # matmul and keys; values: from the pass's length
        "count": 20,  # outputs of a matmul, dims of a values operation
        "x_base": OPERAND_BITS,
        # Where blocks of the result go in the operand buffer; keys and values: `CHUNK`.
        "y_base": OPERAND_BITS,
        "shift": 6,
        "aux_shift": 6,  # SwiGLU
        "floor": 5,
        "kappa": 16,
        "layer": 8,
        "kv_head": 6,
        "block": 3,  # values: block of 32 dims
        "parity": 1,  # scores and probabilities are double buffered
        "windowed": 1,  # keys and values: only tokens of the window
    }
)

_SOFTMAX = {"header": HEADER, "block": 3, "scores": 1, "parity": 1, "windowed": 1}
SOFTMAX_OP = data.StructLayout(_SOFTMAX)

# Where the score buffer is shorter than the context.
SOFTMAX_CHUNK_OP = data.StructLayout({**_SOFTMAX, "chunk": CHUNK.size})

CONTEXT_OP = data.StructLayout(
    {
        "header": HEADER,
        "first": OPERAND_BITS,
        "blocks": OPERAND_BITS,
        "tail": 6,  # values in the last block; behind them it is padded with zeros
        "floor": 5,
        "x_base": OPERAND_BITS,
    }
)

TAPE_OP = data.StructLayout(
    {
        "kind": 2,  # TapeKind
        "addr": 32,  # word address; keys and values: offset of layer and head inside a page
        "blocks": 24,  # weights; keys and values: `CHUNK`
        "tiles": 8,  # values: dims of this operation in one channel
        "layer": 8,
        "windowed": 1,
        "sample_only": 1,
        "stop": 1,
    }
)

LAYOUTS = {
    Unit.EMBED: EMBED_OP,
    Unit.NORM: NORM_OP,
    Unit.ARRAY: ARRAY_OP,
    Unit.SOFTMAX: SOFTMAX_OP,
    Unit.CONTEXT: CONTEXT_OP,
}

# A program's words are packed with these; a queue without chunks drops the bits that it lacks.
CHUNK_LAYOUTS = {**LAYOUTS, Unit.SOFTMAX: SOFTMAX_CHUNK_OP}


def pack(layout: data.StructLayout, values: Mapping[str, object]) -> int:
    """The bits of an instruction; fields that are not named are zero.

    Raises
    ------
    ValueError
        When a field does not exist or a value does not fit, naming both.
    """
    word = 0
    known = dict(layout)
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"no field {name!r}; allowed: {', '.join(known)}")
        field = known[name]
        if isinstance(field.shape, data.StructLayout):
            if not isinstance(value, Mapping):
                raise ValueError(f"field {name!r} wants a mapping, got {value!r}")
            bits = pack(field.shape, value)
        elif isinstance(field.shape, data.ArrayLayout):
            bits = 0
            width = field.shape.elem_shape
            items: list[int] = list(value)  # type: ignore[call-overload]
            for i, item in enumerate(items):
                if not 0 <= item < 1 << width:
                    raise ValueError(
                        f"field {name!r}[{i}] is {item}; allowed: 0..{(1 << width) - 1}"
                    )
                bits |= item << (width * i)
        else:
            bits = int(value)  # type: ignore[call-overload]
            if not 0 <= bits < 1 << field.width:
                raise ValueError(f"field {name!r} is {bits}; allowed: 0..{(1 << field.width) - 1}")
        word |= bits << field.offset
    return word
