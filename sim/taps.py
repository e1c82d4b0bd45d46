"""Finds the first operation whose output differs between the chip and the golden model.

The chip built with taps shows what every operation hands on; here that becomes one array per
operation and part, [rows, lanes], with the same meaning as the golden model's. Which operation an
output belongs to follows from its address where the chip says one, else from its place among the
outputs of its kind.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenloom.compiler.errors import TokenloomError
from tokenloom.compiler.program import Instruction, Program
from tokenloom.compiler.quantise import QuantModel
from tokenloom.hw.array.row_lane import Target
from tokenloom.hw.attention.window import first_token
from tokenloom.hw.config import HardwareConfig
from tokenloom.hw.numbers.formats import BLOCK
from tokenloom.hw.sequencer.isa import Dest, Kind, Unit
from tokenloom.hw.taps import tap_places
from tokenloom.sim.chip_device import ChipDevice, PassRecord
from tokenloom.sim.golden import Golden
from tokenloom.sim.request import GREEDY, Sampling

__all__ = [
    "MISSING",
    "OperationDifference",
    "PassTaps",
    "checksum",
    "first_difference",
    "pass_checksums",
]

Array = npt.NDArray[np.int64]
Parts = dict[str, Array]

MISSING = int(np.iinfo(np.int64).min)
"""Stands for a value that the chip never gave."""


@dataclass(frozen=True, kw_only=True)
class OperationDifference:
    """The first value of the first operation that differs.

    Attributes
    ----------
    number : int
        The pass, from 0.
    operation : int
        Place in the program's order, from 0.
    name : str
    unit : Unit
    part : str
        Of the output: "value", or "codes", "shift" of quantised blocks, "denominator".
    row, lane : int
        Row of the pass, and index in the row's output.
    device : int or None
        None if the chip gave no value.
    golden : int
    """

    number: int
    operation: int
    name: str
    unit: Unit
    part: str
    row: int
    lane: int
    device: int | None
    golden: int

    def __str__(self) -> str:
        device = "gave nothing" if self.device is None else f"has {self.device}"
        return (
            f"pass {self.number}, operation {self.operation} '{self.name}' (unit "
            f"{self.unit.name.lower()}), row {self.row}, {self.part} of lane {self.lane}: the "
            f"device {device}, the golden model {self.golden}"
        )


class _Recorder:
    """Keeps what the golden model traces in one pass."""

    def __init__(self) -> None:
        self.arrays: dict[tuple[str, int], Array] = {}

    def __call__(self, name: str, layer: int, array: npt.NDArray[np.int64]) -> None:
        self.arrays[name, layer] = array.astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class PassTaps:
    """The operations of one pass and their outputs on both sides.

    Attributes
    ----------
    program : Program
    model : QuantModel
    hardware : HardwareConfig
    rows, pos : int
    sample : bool
    """

    program: Program
    model: QuantModel
    hardware: HardwareConfig
    rows: int
    pos: int
    sample: bool

    def __post_init__(self) -> None:
        if self.hardware.chunks(self.pos + self.rows) > 1:
            raise TokenloomError(
                f"a context of {self.pos + self.rows} tokens comes in chunks of score_tokens = "
                f"{self.hardware.score_tokens}: operations are only looked at in shorter ones"
            )

    @property
    def operations(self) -> list[Instruction]:
        """In the program's order."""
        return [
            op
            for op in self.program.in_order()
            if op.runs(0) and (self.sample or not op.sample_only)
        ]

    @property
    def _group(self) -> int:
        return self.model.shape.heads // self.model.shape.kv_heads

    @property
    def _tokens(self) -> int:
        """Whole blocks of tokens."""
        return -(-(self.pos + self.rows) // BLOCK)

    def _first(self, op: Instruction) -> int:
        """First token of a sequence that an operation of attention sees."""
        if not op.fields["windowed"]:
            return 0
        return first_token(
            pos=self.pos,
            window=self.model.shape.window,
            page_tokens=self.hardware.memory.page_tokens,
        )

    def _queue(self, unit: Unit) -> list[Instruction]:
        return [op for op in self.operations if op.unit is unit]

    def _to(self, *dests: Dest) -> list[Instruction]:
        """Matmuls with these destinations, in order."""
        return [
            op
            for op in self._queue(Unit.ARRAY)
            if op.fields["kind"] == Kind.MATMUL and op.fields["dest"] in dests
        ]

    def _attention(self, kind: Kind) -> dict[tuple[int, int, int], Instruction]:
        """(layer, kv head, block of dims) -> operation."""
        return {
            (op.fields["layer"], op.fields["kv_head"], op.fields.get("block", 0)): op
            for op in self._queue(Unit.ARRAY)
            if op.fields["kind"] == kind
        }

    def _softmax(self) -> list[tuple[int, int, int, Instruction]]:
        """Layer, kv head and block of dims of every softmax, in order."""
        heads, blocks = self.model.shape.kv_heads, -(-self.model.shape.head_size // BLOCK)
        return [
            (i // (heads * blocks), i // blocks % heads, op.fields["block"], op)
            for i, op in enumerate(self._queue(Unit.SOFTMAX))
        ]

    def _contexts(self) -> list[tuple[int, Instruction]]:
        """Layer of every context operation, in order."""
        layer, result = -1, []
        for op in self._queue(Unit.CONTEXT):
            layer += op.fields["first"] == 0
            result.append((layer, op))
        return result

    # The golden model's side.

    def golden(self, traced: dict[tuple[str, int], Array]) -> dict[int, Parts]:
        """Operation's number -> its parts, from what `Golden` traced in this pass."""
        shape, rows = self.model.shape, self.rows
        result: dict[int, Parts] = {}

        def add(op: Instruction, layer: int, **parts: str) -> None:
            result[op.number] = {
                part: traced[name, layer].reshape(rows, -1) for part, name in parts.items()
            }

        def quantised(op: Instruction, layer: int, name: str) -> None:
            add(op, layer, codes=f"{name}.codes", shift=f"{name}.shift")

        (embedding,) = self._queue(Unit.EMBED)
        add(embedding, -1, value="embedding")
        for index, op in enumerate(self._queue(Unit.NORM)):
            layer, second = divmod(index, 2)
            if layer == shape.layers:
                quantised(op, -1, "final_norm")
            else:
                quantised(op, layer, "ffn_norm" if second else "attn_norm")
        for dest, name in (
            (Dest.KEY, "k"), (Dest.VALUE, "v"), (Dest.QUERY, "q"), (Dest.GATE_UP, "hidden"),
        ):  # fmt: skip
            for op in self._to(dest):
                quantised(op, op.fields["layer"], name)
        for index, op in enumerate(self._to(Dest.RESIDUAL)):
            add(op, op.fields["layer"], value="residual.ffn" if index % 2 else "residual.attn")
        for op in self._to(Dest.LOGITS):
            add(op, -1, value="logits")

        def by_row(array: Array) -> Array:
            """[group, R, ...] as [R, group * ...]."""
            return np.swapaxes(array, 0, 1).reshape(rows, -1)

        for (layer, head, _), op in self._attention(Kind.KEYS).items():
            result[op.number] = {"value": by_row(traced["score", layer][head])}
        for layer, head, block, op in self._softmax():
            parts = {
                "codes": by_row(traced[f"prob.codes.{block}", layer][head]),
                "shift": by_row(traced[f"prob.shift.{block}", layer][head]),
            }
            if block == 0:
                parts = {"denominator": by_row(traced["den", layer][head]), **parts}
            result[op.number] = parts
        for (layer, head, block), op in self._attention(Kind.VALUES).items():
            context = traced["context", layer].reshape(rows, shape.heads, shape.head_size)
            of_head = context[:, head * self._group : (head + 1) * self._group]
            part = of_head[..., block * BLOCK : (block + 1) * BLOCK]
            result[op.number] = {"value": part.reshape(rows, -1)}
        for layer, op in self._contexts():
            blocks = slice(op.fields["first"], op.fields["first"] + op.fields["blocks"])
            result[op.number] = {
                "codes": traced["context.codes", layer][:, blocks].reshape(rows, -1),
                "shift": traced["context.shift", layer][:, blocks].reshape(rows, -1),
            }
        return result

    # The chip's side.

    def device(self, records: npt.NDArray[np.uint32], like: dict[int, Parts]) -> dict[int, Parts]:
        """The same from the chip's records.

        Parameters
        ----------
        records : uint32 array [cycles, words]
            From `ChipDevice.taps`.
        like : dict
            From `golden`: the arrays' shapes.
        """
        result = {
            number: {part: np.full_like(array, MISSING) for part, array in parts.items()}
            for number, parts in like.items()
        }
        places = tap_places(self.hardware)

        def field(name: str, row: int, when: str) -> Array:
            """A field in the cycles in which `when` is set: [n], or [n, words] if it is wide."""
            chosen = records[records[:, places[when, row].start] != 0]
            words = chosen[:, places[name, row]].astype(np.int64)
            return words[:, 0] if words.shape[1] == 1 else words

        def put(op: Instruction, part: str, row: int, first: int, values: Array | int) -> None:
            """What lies outside the output is dropped: then something else is missing."""
            array = result[op.number][part]
            many = np.atleast_1d(np.asarray(values, dtype=np.int64))
            if 0 <= row < len(array) and 0 <= first and first + len(many) <= array.shape[1]:
                array[row, first : first + len(many)] = many

        for _, _, _, op in self._softmax():
            # Blocks before the window have no probabilities.
            for part, size in (("codes", BLOCK), ("shift", 1)):
                array = result[op.number][part].reshape(self.rows, self._group, -1)
                array[..., : self._first(op) // BLOCK * size] = 0
        self._blocks(field, put)
        for row in range(self.hardware.array.rows):
            self._row(row, field, put)
            self._lane(row, field, put)
        for op in self._attention(Kind.KEYS).values():
            # Scores that the mask hides are nobody's.
            scores = result[op.number]["value"].reshape(self.rows, self._group, -1)
            window = self.model.shape.window if op.fields["windowed"] else 0
            for row in range(self.rows):
                scores[row, :, self.pos + row + 1 :] = 0
                if window:
                    scores[row, :, : max(0, self.pos + row + 1 - window)] = 0
        return result

    def _blocks(self, field: Callable[[str, int, str], Array], put: Callable[..., None]) -> None:
        """Blocks from the quantiser."""
        rows, group = self.rows, self._group
        key_blocks = -(-self.model.shape.head_size // BLOCK)
        per_beat = self.hardware.blocks_per_beat
        head_blocks = -(-key_blocks // per_beat) * per_beat  # of a head in the operand buffer
        slots = max(1, self.hardware.max_group)
        names = ("unit", "row", "target", "bank", "addr", "last", "layer", "head", "block", "shift")
        columns = {name: field(f"block_{name}", 0, "block_valid") for name in names}
        codes = _signed_parts(field("block_codes", 0, "block_valid"), np.int16)
        norms, contexts = self._queue(Unit.NORM), [op for _, op in self._contexts()]
        operands = self._to(Dest.QUERY, Dest.GATE_UP)
        kv = {
            (target, op.fields["layer"]): op
            for target, dest in ((Target.KEY, Dest.KEY), (Target.VALUE, Dest.VALUE))
            for op in self._to(dest)
        }
        done: dict[tuple[int, int], int] = {}  # (unit, row) -> finished operations
        for i, code in enumerate(codes):
            tag = {name: int(column[i]) for name, column in columns.items()}
            row, block = tag["bank"], tag["addr"]
            if tag["target"] != Target.OPERAND:
                op = kv.get((tag["target"], tag["layer"]))
                block = tag["head"] * key_blocks + tag["block"]
            else:
                lane = tag["row"] if tag["unit"] == Unit.ARRAY else 0
                queue = {Unit.NORM: norms, Unit.CONTEXT: contexts}.get(Unit(tag["unit"]), operands)
                index = done.setdefault((tag["unit"], lane), 0)
                done[tag["unit"], lane] += tag["last"]
                op = queue[index] if index < len(queue) else None
                if op is not None and tag["unit"] != Unit.ARRAY:
                    block -= op.fields["x_base"] + op.fields.get("first", 0)
                elif op is not None:
                    block -= op.fields["y_base"]
                    if op.fields["dest"] == Dest.QUERY:
                        place, part = divmod(block, head_blocks)
                        kv_head, slot = divmod(place, slots)
                        head, row = divmod(slot * self.hardware.array.rows + row, rows)
                        block = (kv_head * group + head) * key_blocks + part
            if op is not None:
                put(op, "codes", row, block * BLOCK, code)
                put(op, "shift", row, block, tag["shift"])

    def _row(
        self, row: int, field: Callable[[str, int, str], Array], put: Callable[..., None]
    ) -> None:
        """A row's residual stream and logits."""
        residuals = [*self._queue(Unit.EMBED), *self._to(Dest.RESIDUAL)]
        index = field("residual_index", row, "residual_valid")
        value = _signed(field("residual_value", row, "residual_valid"))
        starts = np.flatnonzero(index == 0)
        for op, start, stop in zip(residuals, starts, [*starts[1:], len(index)], strict=False):
            put(op, "value", row, 0, value[start:stop])
        logits = _signed(field("logit", row, "logit_valid"))
        for op in self._to(Dest.LOGITS):
            put(op, "value", row, 0, logits)

    def _lane(
        self, lane: int, field: Callable[[str, int, str], Array], put: Callable[..., None]
    ) -> None:
        """An attention lane's scores, probabilities, denominators and output."""
        shape, group, drain = self.model.shape, self._group, self.hardware.array.drain
        length = self.pos + self.rows
        softmax = self._softmax()
        keys = self._attention(Kind.KEYS)

        def owner(slot: int) -> tuple[int, int] | None:
            """Row and head (in its group) of a slot of this lane."""
            head, row = divmod(slot * self.hardware.array.rows + lane, self.rows)
            return (row, head) if head < group else None

        slots = field("score_slot", lane, "score_valid")
        words = field("score_word", lane, "score_valid")
        scores = _signed(field("scores", lane, "score_valid").reshape(-1, drain))
        for op_index, i in _turns(slots * (1 << 20) + words):
            place = owner(int(slots[i]))
            if place is None or op_index >= len(softmax):
                continue
            layer, head, _, _ = softmax[op_index]
            first = int(words[i]) * drain + self._first(keys[layer, head, 0])
            values = scores[i, : max(0, length - first)]
            put(keys[layer, head, 0], "value", place[0], place[1] * length + first, values)

        address = field("prob_addr", lane, "prob_valid")
        block_bits = max(1, (self.hardware.attention_tokens // BLOCK - 1).bit_length())
        slot_bits = max(1, (max(1, self.hardware.max_group) - 1).bit_length())
        slots = address >> block_bits & ((1 << slot_bits) - 1)
        blocks = address & ((1 << block_bits) - 1)
        banks = address >> (block_bits + slot_bits)
        high = _signed_parts(field("prob_high", lane, "prob_valid"), np.int8)
        low = _signed_parts(field("prob_low", lane, "prob_valid"), np.int8)
        shifts = field("prob_shift", lane, "prob_valid")
        for op_index, i in _turns(slots * (1 << 20) + blocks):
            place = owner(int(slots[i]))
            if place is None or op_index >= len(softmax):
                continue
            op = softmax[op_index][3]
            if banks[i] != op.fields["parity"]:
                continue
            at = place[1] * self._tokens + int(blocks[i]) + self._first(op) // BLOCK
            put(op, "codes", place[0], at * BLOCK, (high[i] << 8) + low[i])
            put(op, "shift", place[0], at, shifts[i])

        first_blocks = [op for _, _, block, op in softmax if block == 0]
        slots = field("den_slot", lane, "den_valid")
        wide = field("den", lane, "den_valid")
        values = wide[:, 0] | wide[:, 1] << 32
        for op_index, i in _turns(slots):
            place = owner(int(slots[i]))
            if place is not None and op_index < len(first_blocks):
                put(first_blocks[op_index], "denominator", *place, values[i])

        attended = self._attention(Kind.VALUES).items()
        slots = field("context_slot", lane, "context_valid")
        dims = field("context_dim", lane, "context_valid")
        outputs = _signed(field("context_values", lane, "context_valid").reshape(-1, drain))
        columns = self.hardware.array.columns
        slot_groups = range(max(1, self.hardware.max_group))
        used = len([slot for slot in slot_groups if owner(slot) is not None])
        start = 0
        for (_, _, block), op in attended:
            size = min(BLOCK, shape.head_size - block * BLOCK)
            count = used * sum(
                -(-min(columns, size - first) // drain) for first in range(0, size, columns)
            )
            for i in range(start, min(start + count, len(dims))):
                head, within = divmod(int(dims[i]), shape.head_size)
                place = owner(int(slots[i]))
                if place is not None:
                    many = outputs[i, : max(0, shape.head_size - within)]
                    put(op, "value", place[0], head % group * size + within % BLOCK, many)
            start += count


def _turns(keys: Array) -> Iterator[tuple[int, int]]:
    """(turn, index) of every output; each turn, its keys go up."""
    turn, previous = -1, -1
    for index, key in enumerate(keys.tolist()):
        if turn < 0 or key <= previous:
            turn += 1
        previous = key
        yield turn, index


def _signed(words: Array) -> Array:
    return words.astype(np.uint32).view(np.int32).astype(np.int64)


def _signed_parts(words: Array, kind: type[np.signedinteger[Any]]) -> Array:
    """[n, words] as signed integers of `kind`, the lowest bits first."""
    packed = np.ascontiguousarray(words.astype("<u4"))
    return packed.view(kind).astype(np.int64)


def checksum(parts: Parts) -> int:
    """CRC-32 of an operation's output: its parts in order of their names, values as 64 bits."""
    crc = 0
    for name in sorted(parts):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(parts[name], "<i8").tobytes(), crc)
    return crc


def pass_checksums(
    chip: ChipDevice, model: QuantModel, prompt: Sequence[int], new: int, number: int
) -> list[tuple[Instruction, int, int]]:
    """Every operation of one pass with its checksum in the golden model and in the chip.

    Parameters
    ----------
    chip : ChipDevice
        Made with taps.
    model : QuantModel
        The golden model's.
    prompt : sequence of int
    new : int
        Tokens to sample.
    number : int
        The pass, from 0.
    """
    for index, (record, traced) in enumerate(_side_by_side(chip, model, prompt, new, GREEDY)):
        if index == number:
            taps, golden, device = _both(chip, model, record, traced)
            return [
                (op, checksum(golden[op.number]), checksum(device[op.number]))
                for op in taps.operations
            ]
    raise ValueError(f"the request has no pass {number}")


def first_difference(
    chip: ChipDevice,
    model: QuantModel,
    prompt: Sequence[int],
    new: int,
    update: Callable[[int], None] = lambda done: None,
    *,
    sampling: Sampling = GREEDY,
) -> OperationDifference | None:
    """Play a request on a chip with taps; compare every operation with the golden model.

    Parameters
    ----------
    chip : ChipDevice
        Made with taps.
    model : QuantModel
        The golden model's.
    prompt : sequence of int
    new : int
        Tokens to sample.
    update : callable
        Told how many passes are equal.
    sampling : Sampling
        The request's.

    Returns
    -------
    OperationDifference or None
        The first one, in the order of passes and of the program.
    """
    for number, (record, traced) in enumerate(_side_by_side(chip, model, prompt, new, sampling)):
        found = _compare(chip, model, record, number, traced)
        if found is not None:
            return found
        update(number + 1)
    return None


def _side_by_side(
    chip: ChipDevice, model: QuantModel, prompt: Sequence[int], new: int, sampling: Sampling
) -> Iterator[tuple[PassRecord, dict[tuple[str, int], Array]]]:
    """Every pass that the chip plays, and what the golden model computes in it."""
    recorder = _Recorder()
    session = Golden(model, recorder).session()
    ids = list(prompt)
    for record in chip.generate(prompt, new, sampling=sampling):
        session.prefill(ids[record.pos : record.pos + record.rows], every_logit=True)
        yield record, recorder.arrays
        if record.token is not None:
            ids.append(record.token)


def _both(
    chip: ChipDevice,
    model: QuantModel,
    record: PassRecord,
    traced: dict[tuple[str, int], Array],
) -> tuple[PassTaps, dict[int, Parts], dict[int, Parts]]:
    """The operations of a pass, the golden model's outputs and the chip's."""
    taps = PassTaps(
        program=chip.program,
        model=model,
        hardware=chip.hardware,
        rows=record.rows,
        pos=record.pos,
        sample=record.sample,
    )
    golden = taps.golden(traced)
    return taps, golden, taps.device(chip.taps(), golden)


def _compare(
    chip: ChipDevice,
    model: QuantModel,
    record: PassRecord,
    number: int,
    traced: dict[tuple[str, int], Array],
) -> OperationDifference | None:
    taps, golden, device = _both(chip, model, record, traced)
    for operation in taps.operations:
        for part, want in golden[operation.number].items():
            have = device[operation.number][part]
            wrong = np.argwhere(have != want)
            if len(wrong):
                row, lane = (int(index) for index in wrong[0])
                value = int(have[row, lane])
                return OperationDifference(
                    number=number,
                    operation=operation.number,
                    name=operation.name,
                    unit=operation.unit,
                    part=part,
                    row=row,
                    lane=lane,
                    device=None if value == MISSING else value,
                    golden=int(want[row, lane]),
                )
    return None
