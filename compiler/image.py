"""What the memory channels hold: tapes, embedding rows and room for KV pages."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenloom.compiler.block_formats import places
from tokenloom.compiler.errors import ModelError
from tokenloom.compiler.pack import pack_row, pack_weights, row_bytes, weights_bytes
from tokenloom.compiler.quantise import QTensor, QuantModel
from tokenloom.hw.config import HardwareConfig
from tokenloom.hw.kv.kv_layout import KvLayout
from tokenloom.hw.memory.axi import WRITE_ADDRESS_BITS
from tokenloom.hw.memory.tape_format import TapeKind
from tokenloom.hw.numbers.formats import BLOCK

__all__ = ["MemoryImage", "Segment", "lay_out", "plan"]


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


def plan(model: QuantModel, hardware: HardwareConfig) -> MemoryImage:
    """Where everything lies, without the bytes: looks at the tensors' shapes and kinds only.

    Every operation's tape and every embedding row begins at a whole word; the first word after the
    weights that is a multiple of 64 (4 KiB) begins the KV pages.

    Returns
    -------
    MemoryImage
        With empty channels.

    Raises
    ------
    ModelError
        When an operation mixes 8-bit codes with minima.
    """
    columns, port = hardware.array.columns, hardware.memory.port_bits
    word = port // 8
    per_beat = hardware.blocks_per_beat
    segments: dict[tuple[int, str], Segment] = {}
    at = 0
    for key, tensor in _tapes(model):
        if tensor.bits == 8 and tensor.minimum is not None:
            raise ModelError(
                f"{tensor.name}: minima with 8-bit codes, which come from matrices of different "
                "kinds in one operation; the tape takes minima with 4-bit codes only"
            )
        padded = -(-tensor.tape_blocks // per_beat) * per_beat
        segments[key] = Segment(
            kind=TapeKind.Q4 if tensor.bits == 4 else TapeKind.Q8,
            address=at,
            blocks=-(-tensor.rows // columns) * padded,
        )
        size = weights_bytes(
            outputs=tensor.rows,
            blocks=tensor.tape_blocks,
            bits=tensor.bits,
            columns=columns,
            blocks_per_beat=per_beat,
            port_bits=port,
        )
        at += size // word

    table = model.embedding
    base = at
    stride = row_bytes(blocks=table.blocks, bits=table.bits, port_bits=port) // word
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
        channels=(),
        segments=segments,
        embedding_base=base,
        embedding_stride=stride,
        embedding_blocks=-(-shape.width // BLOCK),
        embedding_four_bit=table.bits == 4,
        kv=kv,
        kv_base=kv_base,
        words=kv_base + hardware.memory.pages * kv.page_stride // word,
    )


def lay_out(model: QuantModel, hardware: HardwareConfig) -> MemoryImage:
    """Pack a model's weights in consumption order, where `plan` puts them.

    Raises
    ------
    ModelError
        As `plan`, or when a channel is longer than the chip's writes reach.
    """
    image = plan(model, hardware)
    columns, port = hardware.array.columns, hardware.memory.port_bits
    size = image.words * port // 8
    if size > 1 << WRITE_ADDRESS_BITS:
        raise ModelError(
            f"{model.shape.name} with memory.pages = {hardware.memory.pages} needs {size} bytes in "
            f"each of {columns} channels; allowed are {1 << WRITE_ADDRESS_BITS}, because the chip "
            f"writes K and V to byte addresses of {WRITE_ADDRESS_BITS} bits"
        )
    pieces: list[list[npt.NDArray[np.uint8]]] = [[] for _ in range(columns)]
    for _, tensor in _tapes(model):
        codes, scale, minimum = tensor.tape()
        tapes = pack_weights(
            _tape_codes(codes, tensor.bits, model).reshape(tensor.rows, -1),
            scale,
            minimum,
            tensor.bits,
            columns,
            hardware.blocks_per_beat,
            port,
        )
        for channel, tape in zip(pieces, tapes, strict=True):
            channel.append(tape)

    table = model.embedding
    table_codes = _tape_codes(table.codes, table.bits, model)
    rows = [
        pack_row(
            table_codes[v].reshape(-1),
            table.scale[v],
            None if table.minimum is None else table.minimum[v],
            table.bits,
            port,
        )
        for v in range(table.rows)
    ]
    for c in range(columns):
        mine = rows[c::columns]
        mine += [np.zeros_like(rows[0])] * (-(-table.rows // columns) - len(mine))
        pieces[c].append(np.concatenate(mine))
    return dataclasses.replace(image, channels=tuple(np.concatenate(parts) for parts in pieces))


def _tape_codes(codes: npt.NDArray[np.int8], bits: int, model: QuantModel) -> npt.NDArray[np.int8]:
    """What a tape holds: the codes, or with 4 bits their places in the codebook."""
    return codes if bits == 8 else places(codes, model.codebook)


def _tapes(model: QuantModel) -> Iterator[tuple[tuple[int, str], QTensor]]:
    """Every operation's weights in the order in which a pass consumes them."""
    for number, layer in enumerate(model.layers):
        for name in ("k", "v", "q", "o", "gate_up", "down"):
            yield (number, name), getattr(layer, name)
    yield (len(model.layers), "head"), model.head
