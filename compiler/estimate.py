"""What a model would do on a board: capacity, rates and the limit that binds, from its shape alone.

Nothing here is measured on a board. Two kinds of rates are derived:

* *peak*: the memory at its nominal peak, nothing else in the way; every byte is one that the
  format needs. The bound for any machine on this board that reads each weight once per pass.
* *chip*: the generated chip. `predict()` plays the program of a model of this shape, so gaps
  between operations, short tiles and attention are in it; the memory delivers its ceiling, and each
  port at most a word per core cycle. The slowest of the three sets the time of a pass. Prefetch is
  taken as deep enough to spread the reads over the pass.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tokenloom.compiler.bias import QBias
from tokenloom.compiler.checkpoint import ModelShape
from tokenloom.compiler.errors import ConfigError, ModelError
from tokenloom.compiler.image import MemoryImage, plan
from tokenloom.compiler.program import compile_program
from tokenloom.compiler.quantise import Gain, QLayer, QTensor, QuantModel
from tokenloom.compiler.schedule import Schedule, predict
from tokenloom.compiler.shapes import PublicModel
from tokenloom.hw import config
from tokenloom.hw.config import HardwareConfig
from tokenloom.hw.numbers.formats import BLOCK

__all__ = [
    "FORMATS",
    "Estimate",
    "Format",
    "PassTime",
    "estimate",
    "kv_bytes_per_token",
    "pass_time",
    "pass_words",
    "weightless",
    "weights_per_token",
]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A weight format.

    Attributes
    ----------
    code_bits : int
        Bits of a code.
    bits : float
        Bits per weight in the file, its block's scale included.
    """

    code_bits: int
    bits: float


FORMATS = {
    "Q8_0": Format(code_bits=8, bits=8 + 16 / BLOCK),
    # The tape adds a minimum per block, another 16 / 32 bits: 5.0.
    "Q4_0": Format(code_bits=4, bits=4 + 16 / BLOCK),
}


@dataclass(frozen=True, kw_only=True)
class PassTime:
    """A pass's seconds, and what sets them.

    Attributes
    ----------
    belt, port, memory : float
        Seconds of the schedule; of the channel's words at one per core cycle; of its bytes at the
        memory's ceiling.
    array : float
        The part of `belt` in which the array takes a beat.
    """

    belt: float
    port: float
    memory: float
    array: float

    @property
    def seconds(self) -> float:
        """The slowest of the three: they overlap."""
        return max(self.belt, self.port, self.memory)

    @property
    def limit(self) -> str:
        """What binds: memory bandwidth, memory port, MACs, or the schedule.

        The belt is the array's when that takes beats in most of its cycles; otherwise it is what
        else the schedule has: latencies, drains, and beats that are held for several heads.
        """
        if self.memory >= max(self.belt, self.port):
            return "memory bandwidth"
        if self.port >= self.belt:
            return "memory port"
        return "MACs" if self.array >= self.belt / 2 else "schedule"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One model in one format on one board; every figure is derived. None: it does not exist.

    Attributes
    ----------
    board, model, format : str
    generated : bool
        Whether the generator can make this chip today; otherwise `reason` says what is in the way.
    reason : str
    board_missing : str
        What keeps any generated chip off the board; empty if nothing is known to.
    fits : bool
        Weights, embedding and at least one KV page lie in the board's memory.
    weight_bytes, capacity_bytes : int
        On the tape, with the embedding table, all columns; the memory that the columns can use.
    tape_bits : float
        Bits per weight that a pass really reads.
    longest_context : int
        Tokens of one sequence; 0 when it does not fit.
    context_limit : str
        What bounds it: capacity, the model's positions, or the chip's.
    context : int
        Context of the rates: the last token decoded, and a prompt of this length.
    decode_peak, prefill_peak : float or None
        Tokens per second with the memory at its peak.
    decode, prefill : float or None
        Tokens per second of the chip.
    decode_limit, prefill_limit : str or None
    share : float or None
        The format's bytes per second in decode over the memory's peak.
    array_busy : float or None
        Share of the decode schedule in which the array takes a beat.
    """

    board: str
    model: str
    format: str
    generated: bool
    reason: str
    board_missing: str
    fits: bool
    weight_bytes: int
    capacity_bytes: int
    tape_bits: float
    longest_context: int
    context_limit: str
    context: int
    decode_peak: float | None = None
    prefill_peak: float | None = None
    decode: float | None = None
    prefill: float | None = None
    decode_limit: str | None = None
    prefill_limit: str | None = None
    share: float | None = None
    array_busy: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain data, with the word that says what the figures are."""
        return {**asdict(self), "kind": "derived"}


def weights_per_token(shape: ModelShape, *, head: bool = True) -> int:
    """Weights that a pass reads: every layer's matrices, and the head if it samples."""
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    layer = shape.width * (2 * queries + 2 * keys + 3 * shape.ffn)
    return shape.layers * layer + head * shape.width * shape.vocab


def kv_bytes_per_token(shape: ModelShape) -> float:
    """Bytes of one token's K and V: int8 codes, and a shift per block of min(32, head) values."""
    blocks = -(-shape.head_size // BLOCK)
    return 2 * shape.layers * shape.kv_heads * (shape.head_size + blocks)


def weightless(shape: ModelShape, code_bits: int, positions: int) -> QuantModel:
    """A model of that shape with nothing in it: enough for the program and its schedule."""

    def tensor(name: str, rows: int, cols: int, *, biased: bool = False) -> QTensor:
        blocks = -(-cols // BLOCK)
        # One zero, seen as many: an 8B model's codes take a byte.
        scale = np.broadcast_to(np.uint16(0), (rows, blocks))
        return QTensor(
            name=name,
            bits=code_bits,
            cols=cols,
            codes=np.broadcast_to(np.int8(0), (rows, blocks, BLOCK)),
            scale=scale,
            minimum=scale if code_bits == 4 else None,
            e0=1,
            bias=QBias(
                codes=np.broadcast_to(np.int8(0), (rows, BLOCK)),
                scale=np.broadcast_to(np.uint16(0), rows),
            )
            if biased
            else None,
        )

    width, queries = shape.width, shape.heads * shape.head_size
    keys = shape.kv_heads * shape.head_size
    gain = Gain(codes=np.zeros(width, np.int16), fraction=0)
    head_gain = Gain(codes=np.zeros(0, np.int16), fraction=0) if shape.qk_norm else None
    layer = QLayer(
        q=tensor("q", queries, width, biased=shape.qkv_bias),
        k=tensor("k", keys, width, biased=shape.qkv_bias),
        v=tensor("v", keys, width, biased=shape.qkv_bias),
        o=tensor("o", width, queries),
        gate_up=tensor("gate_up", 2 * shape.ffn, width),
        down=tensor("down", width, shape.ffn),
        attn_gain=gain,
        ffn_gain=gain,
        fraction={},
        floor=dict.fromkeys(("k", "v", "q", "o", "gate_up", "down"), 0),
        q_gain=head_gain,
        k_gain=head_gain,
        shift=dict.fromkeys(("k", "v", "q", "score", "o", "gate_up", "down", "swiglu"), 0),
    )
    embedding = tensor("embedding", shape.vocab, width)
    return QuantModel(
        shape=shape,
        positions=positions,
        embedding=embedding,
        head=embedding,
        layers=(layer,) * shape.layers,
        final_gain=gain,
        f_res=0,
        f_logit=0,
        embedding_shift=0,
        head_shift=0,
        head_floor=0,
        q_floor=0,
        k_floor=0,
        v_floor=0,
        eps_int=1,
        freq=np.zeros(shape.head_size // 2, np.uint32),
        kappa=0,
        ek=0,
        proofs=(),
    )


def pass_words(hardware: HardwareConfig, image: MemoryImage, *, length: int, sample: bool) -> float:
    """Port words that a pass which ends at `length` tokens reads from each channel.

    The tapes lie one behind the other from word 0 on, the head's last, the embedding behind it; of
    the KV pages a pass reads the share that is filled.
    """
    head = max(image.segments)  # (layers, "head")
    tape = image.embedding_base if sample else image.segments[head].address
    page = image.kv.page_stride / (hardware.memory.port_bits // 8)
    return tape + page * length / image.kv.page_tokens


def pass_time(
    hardware: HardwareConfig, image: MemoryImage, schedule: Schedule, *, length: int, sample: bool
) -> PassTime:
    """Time of a pass that ends at `length` tokens, by each of its limits."""
    word = hardware.memory.port_bits // 8
    words = pass_words(hardware, image, length=length, sample=sample)
    clock = hardware.board.clock_mhz * 1e6
    return PassTime(
        belt=schedule.cycles / clock,
        port=words / clock,
        memory=words * word / (hardware.column_gbs * hardware.board.memory.ceiling * 1e9),
        array=schedule.beats / clock,
    )


def estimate(
    board: str,
    model: PublicModel,
    format_name: str,
    *,
    context: int,
    overrides: Sequence[str] = (),
) -> Estimate:
    """Estimate one model in one format on one board.

    Parameters
    ----------
    board : str
        Preset or TOML file; the chip is sized for the model, as `tokenloom generate` does.
    context : int
        Tokens for the rates; less where less fits.
    overrides : sequence of str
        ``key=value`` of the hardware.

    Raises
    ------
    ConfigError
        If board or overrides are wrong, whatever the model.
    ModelError
        If there is no such format.
    """
    if format_name not in FORMATS:
        raise ModelError(f"no format {format_name!r}; allowed are {', '.join(FORMATS)}")
    kind, shape = FORMATS[format_name], model.shape
    hardware = config.load(board, overrides)
    chip_positions = min(shape.positions, hardware.maxima.positions)
    empty = weightless(shape, kind.code_bits, chip_positions)
    image = plan(empty, hardware)
    word = hardware.memory.port_bits // 8

    weights = image.kv_base * word
    pages = max(0, (hardware.column_bytes - weights) // image.kv.page_stride)
    bounds = {
        "capacity": pages * image.kv.page_tokens,
        "model": shape.positions,
        "chip": hardware.maxima.positions,
    }
    # The model's own before the chip's copy of it.
    context_limit = min(bounds, key=lambda name: (bounds[name], name == "chip"))
    longest = bounds[context_limit]
    rows = hardware.array.rows
    context = min(context, longest)

    reasons = [f"needs {model.missing}"] if model.missing else []
    decode = prefill = None
    try:
        hardware = config.load(board, overrides, maxima_from=shape)
        hardware.check_model(shape, shape.name)
        program = compile_program(empty, image, hardware)
    except (ConfigError, ModelError, ValueError) as error:
        # Without the place in the preset's file, and without why.
        what = re.sub(r"^\S+\.toml\S*( sized for the model)?: ", "", str(error))
        reasons.append("no chip: " + what.split(", because")[0])
    else:
        if context >= rows:
            last = predict(program, hardware, empty, rows=1, pos=context - 1, sample=True)
            decode = pass_time(hardware, image, last, length=context, sample=True)
            middle = (context - rows) // 2
            chunk = predict(program, hardware, empty, rows=rows, pos=middle, sample=False)
            prefill = pass_time(hardware, image, chunk, length=middle + rows, sample=False)

    derived: dict[str, Any] = {}
    if context:
        peak = hardware.board.bandwidth_gbs * 1e9
        kv = kv_bytes_per_token(shape)
        used = weights_per_token(shape) * kind.bits / 8 + context * kv
        chunk_bytes = weights_per_token(shape, head=False) * kind.bits / 8 + context / 2 * kv
        derived = {"decode_peak": peak / used, "prefill_peak": rows * peak / chunk_bytes}
        if decode and prefill:
            derived |= {
                "decode": 1 / decode.seconds,
                "prefill": rows / prefill.seconds,
                "decode_limit": decode.limit,
                "prefill_limit": prefill.limit,
                "share": used / decode.seconds / peak,
                "array_busy": decode.array / decode.belt,
            }
    return Estimate(
        board=hardware.name,
        model=shape.name,
        format=format_name,
        generated=not reasons,
        reason="; ".join(reasons),
        board_missing=hardware.board.missing,
        fits=longest > 0,
        weight_bytes=weights * hardware.array.columns,
        capacity_bytes=hardware.column_bytes * hardware.array.columns,
        tape_bits=8
        * image.embedding_base
        * word
        * hardware.array.columns
        / weights_per_token(shape),
        longest_context=longest,
        context_limit=context_limit,
        context=context,
        **derived,
    )
