"""What the memory channels hold: tapes, embedding rows and room for KV pages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenloom.compiler.errors import ModelError
from tokenloom.compiler.pack import pack_row, pack_weights
from tokenloom.compiler.quantise import QTensor, QuantModel
from tokenloom.hw.config import BLOCK, HardwareConfig
from tokenloom.hw.kv_layout import KvLayout
from tokenloom.hw.tape_format import TapeKind

__all__ = ["MemoryImage", "Segment", "lay_out"]


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One operation's weights on the tape: word address and blocks, the same in each channel."""

    kind: TapeKind
    address: int
    blocks: int


@dataclass(frozen=True, kw_only=True, eq=False)
class MemoryImage:
    """Contents and addresses, in port words unless said otherwise.

    Attributes
    ----------
    channels : tuple of uint8 arrays
        Each channel's bytes below `kv_base`.
    segments : dict
        (layer, operation) -> Segment; the head is (layers, "head").
    embedding_base, embedding_stride, embedding_blocks : int
        Row of token v: channel v mod C, `embedding_base + (v div C) · embedding_stride`.
    embedding_four_bit : bool
    kv : KvLayout
    kv_base : int
    words : int
        Words that each channel needs, KV pages included.
    """

    channels: tuple[npt.NDArray[np.uint8], ...]
    segments: dict[tuple[int, str], Segment]
    embedding_base: int
    embedding_stride: int
    embedding_blocks: int
    embedding_four_bit: bool
    kv: KvLayout
    kv_base: int
    words: int


def lay_out(model: QuantModel, hardware: HardwareConfig) -> MemoryImage:
    """Pack a model's weights in consumption order.

    Every operation's tape and every embedding row begins at a whole word; the first word after the
    weights that is a multiple of 64 (4 KiB) begins the KV pages.

    Raises
    ------
    ModelError
        When an operation mixes 8-bit codes with minima.
    """
    columns, port = hardware.array.columns, hardware.memory.port_bits
    word = port // 8
    per_beat = hardware.blocks_per_beat
    pieces: list[list[npt.NDArray[np.uint8]]] = [[] for _ in range(columns)]
    segments: dict[tuple[int, str], Segment] = {}
    at = 0

    def place(key: tuple[int, str], tensor: QTensor) -> None:
        nonlocal at
        if tensor.bits == 8 and tensor.minimum is not None:
            raise ModelError(
                f"{tensor.name}: minima with 8-bit codes, which come from matrices of different "
                "kinds in one operation; the tape takes minima with 4-bit codes only"
            )
        tapes = pack_weights(
            tensor.codes.reshape(tensor.rows, -1),
            tensor.scale,
            tensor.minimum,
            tensor.bits,
            columns,
            per_beat,
            port,
        )
        for channel, tape in zip(pieces, tapes, strict=True):
            channel.append(tape)
        padded = -(-tensor.blocks // per_beat) * per_beat
        segments[key] = Segment(
            kind=TapeKind.Q4 if tensor.bits == 4 else TapeKind.Q8,
            address=at,
            blocks=-(-tensor.rows // columns) * padded,
        )
        at += len(tapes[0]) // word

    for number, layer in enumerate(model.layers):
        for name in ("k", "v", "q", "o", "gate_up", "down"):
            place((number, name), getattr(layer, name))
    place((len(model.layers), "head"), model.head)

    table = model.embedding
    base = at
    rows = [
        pack_row(
            table.codes[v].reshape(-1),
            table.scale[v],
            None if table.minimum is None else table.minimum[v],
            table.bits,
            port,
        )
        for v in range(table.rows)
    ]
    stride = len(rows[0]) // word
    for c in range(columns):
        mine = rows[c::columns]
        mine += [np.zeros_like(rows[0])] * (-(-table.rows // columns) - len(mine))
        pieces[c].append(np.concatenate(mine))
    at += stride * -(-table.rows // columns)

    shape = model.shape
    kv = KvLayout(
        columns=columns,
        port_bits=port,
        page_tokens=hardware.memory.page_tokens,
        head_size=shape.head_size,
        kv_heads=shape.kv_heads,
        layers=shape.layers,
        blocks_per_beat=per_beat,
    )
    kv_base = -(-at // 64) * 64
    return MemoryImage(
        channels=tuple(np.concatenate(parts) for parts in pieces),
        segments=segments,
        embedding_base=base,
        embedding_stride=stride,
        embedding_blocks=-(-shape.width // BLOCK),
        embedding_four_bit=table.bits == 4,
        kv=kv,
        kv_base=kv_base,
        words=kv_base + hardware.memory.pages * kv.page_stride // word,
    )
