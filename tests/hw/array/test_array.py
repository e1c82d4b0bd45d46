# amaranth: UnusedElaboratable=no
"""The array with its control: every sum against the golden model, every cycle as stated.

The bench plays the channels (beats), the operand buffers (two cycles from address to operand) and
the queue (instructions back to back or with gaps).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import cocotb
import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib.wiring import In, Out

from tests.deep import deep
from tests.hw.belt_bench import STALLS, Belt
from tests.hw.words import pack, to_signed
from tokenloom.compiler.quantise import QTensor
from tokenloom.hw.array.array import Array
from tokenloom.hw.array.array_control import ArrayControl
from tokenloom.hw.array.dot_element import DotElement
from tokenloom.hw.array.dot_pair import DotPair
from tokenloom.hw.numbers import formats
from tokenloom.hw.sequencer import isa
from tokenloom.hw.sequencer.isa import ARRAY_OP, Kind
from tokenloom.hw.verilog.block import Block, instance
from tokenloom.sim.bench import parameters, run_block, seeded
from tokenloom.sim.golden import ExactMatrix, exact_product

BLOCK = formats.BLOCK
OPERANDS = 64  # blocks of every row's operand buffer
COUNTS = ("rows_used", "group_rows", "slot_groups", "key_tiles", "value_blocks", "key_blocks")
TAKEN = ("take", "take_keys", "take_tile", "take_beat", "take_parity")
SHOWN = ("out_valid", "out_index", "out_slot", "out_last", "out_op")
BEAT = ("pow2", "codes", "scale", "minimum")
OPERAND = ("x_codes", "x_shift", "x_sum")
ASKED = ("x_addr", "x_values", "x_digit", "x_mask")


class ControlledArray(Block):
    """`ArrayControl` and `Array`, wired as the core does it."""

    def __init__(
        self, *, columns: int, lanes: int, drain: int, rows: int, slots: int, token_blocks: int,
        edge: int, packed: bool = False, groups: int = 1, stages: int = 0,
    ) -> None:  # fmt: skip
        self.array = Array(
            columns=columns, lanes=lanes, rows=rows, drain=drain, slots=slots, packed=packed,
            groups=groups, stages=stages,
        )  # fmt: skip
        self.control = ArrayControl(
            columns=columns, drain=drain, rows=rows, slots=slots, token_blocks=token_blocks,
            edge=edge, beat_blocks=lanes // BLOCK, latency=self.array.element_latency,
            crossing=self.array.crossing,
        )  # fmt: skip
        size = lambda name: len(getattr(self.control, name))  # noqa: E731
        wide = lambda name: len(getattr(self.array, name))  # noqa: E731
        super().__init__(
            {name: In(size(name)) for name in ("issue", "op", *COUNTS)}
            | {name: Out(size(name)) for name in ("ready", "busy", "will_take", *TAKEN)}
            | {name: Out(size(name)) for name in (*ASKED, *SHOWN)}
            | {name: In(wide(name)) for name in (*BEAT, *OPERAND)}
            | {name: Out(wide(name)) for name in ("wide", "acc")},
            params=(
                columns, lanes, drain, rows, slots, token_blocks, edge, packed, groups, stages,
            ),
        )  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        control, array = self.control, self.array
        m.submodules.control = instance(control, en=self.en)
        m.submodules.array = instance(array, en=self.en)
        for name in ("issue", "op", *COUNTS):
            m.d.comb += getattr(control, name).eq(getattr(self, name))
        for name in ("ready", "busy", "will_take", *TAKEN, *ASKED, *SHOWN):
            m.d.comb += getattr(self, name).eq(getattr(control, name))
        for name in (*BEAT, *OPERAND):
            m.d.comb += getattr(array, name).eq(getattr(self, name))
        for name in ("take", "stage", "first", "bank", "slot", "read_bank", "read_slot", "load",
                     "step", "select"):  # fmt: skip
            m.d.comb += getattr(array, name).eq(getattr(control, name))
        m.d.comb += [self.wide.eq(array.wide), self.acc.eq(array.acc)]
        return m


@dataclass
class Shape:
    """The array, and what a pass makes of it."""

    columns: int
    lanes: int
    drain: int
    rows: int
    slots: int
    token_blocks: int
    edge: int
    packed: bool = False
    groups: int = 1
    stages: int = 0
    rows_used: int = 1
    group: int = 1
    length: int = 1
    key_blocks: int = 1

    @property
    def beat_blocks(self) -> int:
        return self.lanes // BLOCK

    @property
    def key_beats(self) -> int:
        return -(-self.key_blocks // self.beat_blocks)

    @property
    def value_blocks(self) -> int:
        return -(-self.length // BLOCK)

    @property
    def drain_latency(self) -> int:
        element = DotPair if self.packed else DotElement
        return ArrayControl.drain_latency(element.LATENCY, (self.groups - 1) * self.stages)

    @property
    def group_rows(self) -> int:
        return self.group * self.rows_used

    @property
    def slot_groups(self) -> int:
        return -(-self.group_rows // self.rows)

    def counts(self) -> dict[str, int]:
        return {
            "rows_used": self.rows_used,
            "group_rows": self.group_rows,
            "slot_groups": self.slot_groups,
            "key_tiles": -(-self.length // self.columns),
            "value_blocks": self.value_blocks,
            "key_blocks": self.key_blocks,
        }


class Operands:
    """The rows' operand buffers: blocks of codes and shifts, and probabilities by place."""

    def __init__(self, rng: np.random.Generator, shape: Shape) -> None:
        count = (shape.rows, OPERANDS)
        self.codes = rng.integers(-256, 256, (*count, BLOCK))
        self.codes[rng.random(count) < 0.1] = -256
        self.codes[rng.random(count) < 0.1] = 255
        # Small enough together with the weights' shifts: the compiler proves 64 bits.
        self.shift = rng.integers(0, 12, count)
        blocks = shape.beat_blocks << shape_beat_bits(shape)
        places = (shape.rows, 2, 1 << shape_slot_bits(shape), blocks)
        weights = rng.integers(0, 1 << 42, (*places, BLOCK)) >> rng.integers(0, 40, (*places, 1))
        self.probs, self.prob_shift = formats.prob_quantise(weights)

    def port(
        self, row: int, addr: int, values: int, digit: int, mask: int, shape: Shape
    ) -> dict[str, int]:
        """What the buffer shows two cycles after the question: a beat's blocks."""
        found = {"x_codes": 0, "x_shift": 0, "x_sum": 0}
        for b in range(shape.beat_blocks):
            codes, shift, total = self._block(row, addr, values, digit, b, shape)
            if not mask >> b & 1:
                codes = 0 * codes
            found["x_codes"] |= pack9(codes) << 9 * BLOCK * b
            found["x_shift"] |= shift << 6 * b
            found["x_sum"] |= (total & ((1 << formats.SUM_BITS) - 1)) << formats.SUM_BITS * b
        return found

    def _block(
        self, row: int, addr: int, values: int, digit: int, b: int, shape: Shape
    ) -> tuple[Any, int, int]:
        if not values:
            block = (addr * shape.beat_blocks + b) % OPERANDS
            codes = self.codes[row, block]
            return codes, int(self.shift[row, block]), int(codes.sum())
        beat_bits, slot_bits = shape_beat_bits(shape), shape_slot_bits(shape)
        beat = addr & ((1 << beat_bits) - 1)
        slot = addr >> beat_bits & ((1 << slot_bits) - 1)
        place = row, addr >> (beat_bits + slot_bits) & 1, slot, beat * shape.beat_blocks + b
        high, low = formats.prob_split(self.probs[place])
        # No minimum meets probabilities, so their sum is of no account.
        return (low if digit else high), int(self.prob_shift[place]) + 8 * (1 - digit), 0


def shape_slot_bits(shape: Shape) -> int:
    return max(1, (shape.slots - 1).bit_length())


def shape_beat_bits(shape: Shape) -> int:
    return max(1, (-(-shape.token_blocks // shape.beat_blocks) - 1).bit_length())


def pack9(codes: Any) -> int:
    word = 0
    for i, code in enumerate(codes):
        word |= (int(code) & 511) << 9 * i
    return word


class Operation:
    """An instruction, the beats it takes, and the sums it has to deliver.

    `sums` [R, slot groups, outputs]; a beat is (pow2, codes [C, K/32, 32], scale and minimum
    [C, K/32]).
    """

    def __init__(self, kind: Kind, shape: Shape, rng: random.Random, operands: Operands) -> None:
        self.kind, self.shape = kind, shape
        npr = np.random.default_rng(rng.getrandbits(32))
        self.beats: list[dict[str, int]] = []
        self.fields: dict[str, int] = {
            "kind": kind, "dest": rng.randrange(6), "shift": rng.randrange(64),
            "kv_head": rng.randrange(64), "parity": rng.randrange(2),
        }  # fmt: skip
        {
            Kind.MATMUL: self._matmul,
            Kind.KEYS: self._keys,
            Kind.VALUES: self._values,
        }[kind](rng, npr, operands)
        self.word = isa.pack(ARRAY_OP, self.fields)

    def _beat(self, pow2: int, codes: Any, scale: Any, minimum: Any) -> None:
        self.beats.append(
            {
                "pow2": pow2,
                "codes": pack(codes.reshape(-1), 8),
                "scale": pack(scale.reshape(-1), 16),
                "minimum": pack(minimum.reshape(-1), 16),
            }
        )

    def _beats(self, pow2: int, codes: Any, scale: Any, minimum: Any) -> None:
        """[outputs, blocks] in the order in which they are taken."""
        c, per_beat = self.shape.columns, self.shape.beat_blocks
        for tile in range(self.tiles):
            n = slice(c * tile, c * tile + c)
            for beat in range(self.per_tile):
                b = slice(beat * per_beat, (beat + 1) * per_beat)
                self._beat(pow2, codes[n, b], scale[n, b], minimum[n, b])

    def _matmul(self, rng: random.Random, npr: np.random.Generator, operands: Operands) -> None:
        c, per_beat = self.shape.columns, self.shape.beat_blocks
        self.tiles, self.per_tile = rng.randrange(1, 4), rng.choice((1, 2, 3, c - 1, c, c + 3))
        self.per_tile = max(1, self.per_tile)
        count = c * self.tiles - rng.randrange(c)
        size = self.per_tile * per_beat
        base = per_beat * rng.randrange((OPERANDS - size) // per_beat + 1)
        self.fields |= {"tiles": self.tiles, "beats": self.per_tile, "count": count, "x_base": base}
        padded = c * self.tiles
        codes = npr.integers(-128, 128, (padded, size, BLOCK)).astype(np.int8)
        codes[npr.random((padded, size)) < 0.1] = -128
        # Rebased fp16: a sign, an exponent of up to 16, any mantissa.
        scale, minimum = (
            npr.integers(0, 2, (padded, size)) << 15
            | npr.integers(0, 17, (padded, size)) << 10
            | npr.integers(0, 1024, (padded, size))
            for _ in range(2)
        )
        if rng.random() < 0.5:
            minimum[:] = 0
        # Blocks that only fill the last beat are zeros on the tape, whatever the operand is.
        used = size - rng.randrange(per_beat)
        for part in (codes, scale, minimum):
            part[:, used:] = 0
        tensor = QTensor(
            name="random", bits=8, cols=size * BLOCK, codes=codes, scale=scale.astype(np.uint16),
            minimum=minimum.astype(np.uint16), e0=0,
        )  # fmt: skip
        x = slice(base, base + size)
        # One accumulator per row and output, whatever slot it has.
        sums = ExactMatrix(tensor).accumulate(operands.codes[:, x], operands.shift[:, x])
        self.sums = sums[:, None, :count]
        self.slots, self.digits = 1, 1
        self._beats(0, codes, scale, minimum)

    def _keys(self, rng: random.Random, npr: np.random.Generator, operands: Operands) -> None:
        shape, c = self.shape, self.shape.columns
        self.tiles, self.per_tile = -(-shape.length // c), shape.key_beats
        self.slots, self.digits = shape.slot_groups, 1
        size = self.per_tile * shape.beat_blocks
        base = shape.beat_blocks * rng.randrange(
            (OPERANDS - self.slots * size) // shape.beat_blocks + 1
        )
        # Fields that keys do not use hold noise.
        self.fields |= {
            "beats": self.per_tile, "x_base": base, "tiles": rng.randrange(1 << 16),
            "count": rng.randrange(1 << 20),
        }  # fmt: skip
        tokens = c * self.tiles
        codes = npr.integers(-128, 128, (tokens, size, BLOCK))
        shift = npr.integers(0, 25, (tokens, size))
        # Of the last beat only a head's own blocks count.
        key = (codes << shift[..., None])[:, : shape.key_blocks].reshape(tokens, -1)
        place = base + np.arange(self.slots * size)
        query = operands.codes[:, place] << operands.shift[:, place][..., None]
        query = query.reshape(shape.rows, self.slots, size, BLOCK)[:, :, : shape.key_blocks]
        sums = exact_product(query.reshape(shape.rows, self.slots, -1), key.T)
        # Of a last tile that reaches past the score buffer, only what the buffer holds is shown.
        self.sums = sums[..., : BLOCK * shape.token_blocks]
        noise = npr.integers(0, 1 << 11, (tokens, size)) << 5
        self._beats(1, codes, noise | shift, 0 * shift)

    def _values(self, rng: random.Random, npr: np.random.Generator, operands: Operands) -> None:
        shape, c = self.shape, self.shape.columns
        self.per_tile = -(-shape.length // shape.lanes)
        size = self.per_tile * shape.beat_blocks
        count = rng.choice((BLOCK, shape.drain * rng.randrange(1, BLOCK // shape.drain + 1)))
        self.tiles = -(-count // c)
        self.slots, self.digits = shape.slot_groups, 2
        self.fields |= {"tiles": self.tiles, "count": count, "beats": rng.randrange(1 << 10)}
        self.fields["x_base"] = rng.randrange(1 << 11)
        dims = c * self.tiles
        codes = npr.integers(-128, 128, (dims, size, BLOCK))
        parity = self.fields["parity"]
        part = np.s_[:, parity, : self.slots, : shape.value_blocks]
        left = operands.probs[part] << operands.prob_shift[part][..., None]
        left = left.reshape(shape.rows, self.slots, -1)
        right = codes[:, : shape.value_blocks].reshape(dims, -1)
        self.sums = exact_product(left, right.T)[..., :count]
        zero = np.zeros((dims, size), dtype=np.int64)
        self._beats(1, codes, zero, zero)

    @property
    def drain(self) -> int:
        """Cycles that one slot group's drain lasts."""
        c = self.shape.columns
        return c if self.kind is Kind.MATMUL else c // self.shape.drain

    @property
    def span(self) -> int:
        """Issue cycles of a tile."""
        return self.slots * max(self.per_tile * self.digits, self.drain)

    @property
    def end(self) -> int:
        """A tile's last beat, for slot 0, counted from the tile's first issue cycle."""
        return (self.per_tile * self.digits - 1) * self.slots

    def takes(self, start: int) -> dict[int, dict[str, int]]:
        """Belt cycle -> what `TAKEN` says, the first issue cycle being `start`."""
        found = {}
        for number in range(len(self.beats)):
            tile, beat = divmod(number, self.per_tile)
            keys = int(self.kind is Kind.KEYS)
            at = start + self.shape.edge + tile * self.span + beat * self.digits * self.slots
            found[at] = {"take": 1, "take_keys": keys, "take_tile": tile}
            found[at] |= {"take_beat": beat & 15, "take_parity": self.fields["parity"]}
        return found

    def values(self, start: int) -> dict[tuple[int, int], dict[str, Any]]:
        """(belt cycle, row) -> the values that leave there."""
        shape, found = self.shape, {}
        width = 1 if self.kind is Kind.MATMUL else shape.drain
        outputs = self.sums.shape[2]
        for r in range(shape.rows):
            if self.kind is Kind.MATMUL and r >= shape.rows_used:
                continue
            for n in range(0, outputs, width):
                tile, column = divmod(n, shape.columns)
                for slot in range(self.slots):
                    at = start + tile * self.span + self.end + shape.drain_latency
                    at += shape.edge + r
                    at += slot * self.drain + column // width
                    used = self.kind is Kind.MATMUL or slot * shape.rows + r < shape.group_rows
                    found[at, r] = {
                        "out_index": n,
                        "out_slot": slot,
                        "out_op": self.word,
                        "sums": self.sums[r, slot, n : n + width] if used else None,
                    }
        return found

    def last(self, start: int, row: int) -> int:
        """The cycle of `out_last`: the last value, or where the last column's would be."""
        tile = start + (self.tiles - 1) * self.span + self.end + self.shape.drain_latency
        phase = self.slots * self.drain - 1
        if self.kind is Kind.MATMUL:
            phase = (self.fields["count"] - 1) % self.shape.columns
        return tile + self.shape.edge + row + phase


def row_fields(found: dict[str, int], names: tuple[str, ...], row: int, rows: int, dut: Any) -> Any:
    """The row's part of packed outputs."""
    result = {}
    for name in names:
        bits = len(getattr(dut, name)) // rows
        result[name] = found[name] >> bits * row & ((1 << bits) - 1)
    return result


def some_pass(rng: random.Random, given: dict[str, int]) -> Shape:
    shape = Shape(**given)
    shape.rows_used = rng.randrange(1, shape.rows + 1)
    shape.group = rng.randrange(1, shape.slots + 1)
    most = shape.token_blocks * BLOCK
    shape.length = rng.choice((1, shape.columns, BLOCK, BLOCK + 1, most, rng.randrange(1, most)))
    shape.key_blocks = rng.randrange(1, 5)
    return shape


class Player:
    """Plays the operations of a pass and checks every output in every belt cycle."""

    def __init__(self, belt: Belt, shape: Shape, operands: Operands, rng: random.Random) -> None:
        self.belt, self.shape, self.operands, self.rng = belt, shape, operands, rng
        self.values = self.waited = 0

    async def run(self, operations: list[Operation], gaps: float) -> None:
        belt, shape, rng = self.belt, self.shape, self.rng
        waiting = list(operations)
        beats = [beat for op in operations for beat in op.beats]
        takes: dict[int, dict[str, int]] = {}
        outputs: dict[tuple[int, int], dict[str, Any]] = {}
        lasts: set[tuple[int, int]] = set()
        # The queue's view: the earliest cycle of the next issue.
        free, until = belt.now + 1, belt.now + 1
        drained = 0
        asked: list[list[dict[str, int]]] = []
        tail = shape.edge + shape.rows + shape.drain_latency + 22
        while waiting or belt.now < until + tail:
            found = await belt.next()
            now = belt.now
            item: dict[str, int] = {}
            assert found["ready"] == (now >= free), f"ready in cycle {now}, expected from {free}"
            if waiting and now >= free and rng.random() >= gaps:
                op = waiting.pop(0)
                item |= {"issue": 1, "op": op.word}
                # No tile is done before the last one's drain is over.
                late = max(0, drained - (now + 1 + op.end))
                self.waited += late
                start = now + 1 + late
                drained = start + (op.tiles - 1) * op.span + op.end + op.slots * op.drain
                takes |= op.takes(start)
                fresh = op.values(start)
                assert not fresh.keys() & outputs.keys()
                outputs |= fresh
                lasts |= {(op.last(start, r), r) for r in range(shape.rows)}
                free = now + late + op.tiles * op.span
                until = max(t for t, _ in lasts)

            # Beats: announced, taken, and noise when nothing is taken.
            expected = takes.pop(now, None)
            for k in range(shape.edge):
                ahead = now + shape.edge - k in takes
                assert found["will_take"] >> k & 1 == ahead, (now, k)
            if expected is None:
                assert not found["take"] and not found["take_keys"], f"take in cycle {now}"
            else:
                assert {name: found[name] for name in TAKEN} == expected, now
                item |= beats.pop(0)

            # Operands, two cycles after the question.
            asked.append([row_fields(found, ASKED, r, shape.rows, belt.dut)
                          for r in range(shape.rows)])  # fmt: skip
            if len(asked) > 2:
                ports = [
                    self.operands.port(
                        r, question["x_addr"], question["x_values"], question["x_digit"],
                        question["x_mask"], shape,
                    )
                    for r, question in enumerate(asked.pop(0))
                ]  # fmt: skip
                for name in OPERAND:
                    bits = len(getattr(belt.dut, name)) // shape.rows
                    item[name] = sum(
                        (port[name] & ((1 << bits) - 1)) << bits * r for r, port in enumerate(ports)
                    )

            for r in range(shape.rows):
                self._check(found, now, r, outputs.pop((now, r), None), (now, r) in lasts)
            belt.drive(**item)
        assert not outputs and not takes and not beats

    def _check(self, found: Any, now: int, r: int, expected: Any, last: bool) -> None:
        shape, dut = self.shape, self.belt.dut
        shown = row_fields(found, SHOWN, r, shape.rows, dut)
        assert shown["out_last"] == last, f"out_last is {shown['out_last']} of row {r} in {now}"
        if expected is None:
            assert not shown["out_valid"], f"row {r} has a value in cycle {now}"
            return
        assert shown["out_valid"], f"row {r} has no value in cycle {now}"
        sums = expected.pop("sums")
        assert {name: shown[name] for name in expected} == expected
        if sums is None:
            return
        name = "acc" if len(sums) == 1 and shape.drain != 1 else "wide"
        values = row_fields(found, ("acc", "wide"), r, shape.rows, dut)[name]
        for i, value in enumerate(sums):
            assert to_signed(values >> 64 * i & ((1 << 64) - 1), 64) == int(value), (now, r, i)
        self.values += len(sums)


@cocotb.test()
async def operations(dut: Any) -> None:
    rng = seeded()
    given = parameters()
    passes = given.pop("passes")
    names = ("issue", "op", *COUNTS, *BEAT, *OPERAND)
    inputs = {name: len(getattr(dut, name)) for name in names}
    outputs = ("ready", "busy", "will_take", *TAKEN, *ASKED, *SHOWN, "wide", "acc")
    belt = Belt(
        dut, inputs, {name: len(getattr(dut, name)) for name in outputs},
        rng=rng, strobes=("issue",), stable=COUNTS,
    )  # fmt: skip
    await belt.reset()
    checked = waited = 0
    for number in range(passes):
        shape = some_pass(rng, given)
        operands = Operands(np.random.default_rng(rng.getrandbits(32)), shape)
        belt.stall = STALLS[number % len(STALLS)]
        kinds = [rng.choice(list(Kind)) for _ in range(6)]
        if number % 3 == 0:
            kinds = rng.sample([Kind.MATMUL, Kind.KEYS, Kind.VALUES] * 2, 6)
        if number % 3 == 1:
            kinds = [Kind.MATMUL] * 6  # long tiles, then short ones that have to wait
        made = [Operation(kind, shape, rng, operands) for kind in kinds]
        await belt.next()
        belt.drive(**shape.counts())
        player = Player(belt, shape, operands, rng)
        await player.run(made, gaps=rng.choice((0.0, 0.0, 0.5)))
        checked += player.values
        waited += player.waited
    assert checked > 50 * passes
    assert waited > 0


SHAPES = [
    dict(columns=2, drain=2, rows=2, slots=2, token_blocks=3, edge=1),
    dict(columns=4, drain=2, rows=2, slots=3, token_blocks=2, edge=2),
    # Two blocks per beat, two products per multiplier, three groups of columns.
    dict(columns=6, drain=2, rows=2, slots=2, token_blocks=5, edge=1, lanes=64, packed=True,
         groups=3, stages=1),
    deep(dict(columns=8, drain=2, rows=4, slots=4, token_blocks=4, edge=1)),
    deep(dict(columns=4, drain=4, rows=2, slots=3, token_blocks=9, edge=1, lanes=128, groups=2,
              stages=2)),
    deep(dict(columns=4, drain=1, rows=1, slots=1, token_blocks=5, edge=1)),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s['columns']}-{s['drain']}-{s['rows']}")
def test_array(shape: dict[str, int]) -> None:
    values = {"lanes": BLOCK} | shape
    run_block(ControlledArray(**values), __name__, parameters=values | {"passes": 20})
