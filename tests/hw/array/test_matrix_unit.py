"""The array as a block of its own: matmuls of every kind of element against exact sums."""

from __future__ import annotations

import random
from typing import Any

import cocotb
import numpy as np
import pytest

from tests.deep import deep
from tests.hw.array.test_array import pack9
from tests.hw.belt_bench import STALLS, Belt
from tests.hw.words import pack, to_signed
from tokenloom.compiler.quantise import QTensor
from tokenloom.hw.array.matrix_unit import MatrixUnit
from tokenloom.hw.array.serial_element import SerialElement
from tokenloom.hw.numbers.formats import BLOCK, SUM_BITS
from tokenloom.hw.sequencer import isa
from tokenloom.hw.sequencer.isa import ARRAY_OP, Kind
from tokenloom.sim.bench import parameters, run_block, seeded
from tokenloom.sim.golden import ExactMatrix

STABLE = ("rows_used", "group_rows", "slot_groups", "key_tiles", "value_blocks", "key_blocks")
BEAT = ("pow2", "codes", "scale", "minimum")


class Product:
    """A matmul: its operands per row, its beats in order, and the sums."""

    def __init__(self, rng: random.Random, given: dict[str, Any]) -> None:
        npr = np.random.default_rng(rng.getrandbits(32))
        self.columns, rows = given["columns"], given["rows"]
        per_beat = max(1, given["lanes"] // BLOCK)
        most = -(-given["operand_blocks"] // per_beat)  # beats for which a row has operands
        beats = [beats for beats in (1, 2, self.columns + 1) if beats <= most]
        self.tiles, self.beats = rng.randrange(1, 3), rng.choice(beats)
        size = self.beats * per_beat
        self.base = per_beat * rng.randrange(most - self.beats + 1)
        self.x = npr.integers(-256, 256, (rows, size, BLOCK))
        self.x[npr.random((rows, size)) < 0.2] = -256
        self.shift = npr.integers(0, 12, (rows, size))
        count = self.columns * self.tiles
        codes = npr.integers(-128, 128, (count, size, BLOCK)).astype(np.int8)
        codes[npr.random((count, size)) < 0.2] = -128
        scale, low = (
            npr.integers(0, 2, (count, size)) << 15
            | npr.integers(0, 17, (count, size)) << 10
            | npr.integers(0, 1024, (count, size))
            for _ in range(2)
        )
        tensor = QTensor(
            name="random", bits=8, cols=size * BLOCK, codes=codes, scale=scale.astype(np.uint16),
            minimum=low.astype(np.uint16), e0=0,
        )  # fmt: skip
        self.sums = ExactMatrix(tensor).accumulate(self.x, self.shift)
        self.taken = []
        for tile in range(self.tiles):
            n = slice(tile * self.columns, (tile + 1) * self.columns)
            for beat in range(self.beats):
                b = slice(beat * per_beat, (beat + 1) * per_beat)
                self.taken.append(
                    {
                        "pow2": 0,
                        "codes": pack(codes[n, b].reshape(-1), 8),
                        "scale": pack(scale[n, b].reshape(-1), 16),
                        "minimum": pack(low[n, b].reshape(-1), 16),
                    }
                )
        fields = {"kind": Kind.MATMUL, "tiles": self.tiles, "beats": self.beats, "count": count}
        self.word = isa.pack(ARRAY_OP, {**fields, "x_base": self.base})


@cocotb.test()
async def products(dut: Any) -> None:
    rng = seeded()
    given = parameters()
    rows, columns = given["rows"], given["columns"]
    steps = max(1, BLOCK // given["lanes"])
    names = ("issue", "op", *STABLE, *BEAT, "we", "row", "addr", "x_codes", "x_shift", "x_sum",
             "p_we", "p_addr", "p_hi", "p_lo", "p_sx")  # fmt: skip
    outputs = ("ready", "step", "take", "out_valid", "out_index", "out_last", "acc")
    # All inputs keep their values for a step.
    belt = Belt(
        dut, {name: len(getattr(dut, name)) for name in names},
        {name: len(getattr(dut, name)) for name in outputs},
        rng=rng, strobes=(), stable=names,
    )  # fmt: skip
    await belt.reset()
    belt.drive(rows_used=rows, group_rows=rows, slot_groups=1, issue=0, we=0, p_we=0)

    async def step() -> dict[str, int]:
        """The outputs in the next step's last cycle."""
        while True:
            found = await belt.next()
            if found["step"]:
                return found
            assert not (found["take"] or found["out_valid"] or found["ready"])

    for number in range(given["products"]):
        belt.stall = STALLS[number % 3]
        one = Product(rng, given)
        for r in range(rows):
            for b in range(one.x.shape[1]):
                await step()
                belt.drive(
                    we=1, row=r, addr=one.base + b, x_codes=pack9(one.x[r, b]),
                    x_shift=int(one.shift[r, b]),
                    x_sum=int(one.x[r, b].sum()) & ((1 << SUM_BITS) - 1),
                )  # fmt: skip
        await step()
        belt.drive(we=0)
        found = await step()
        assert found["ready"]
        belt.drive(issue=1, op=one.word)
        await step()
        belt.drive(issue=0)
        start = belt.now
        beats, values, last = list(one.taken), 0, False
        at = []
        while not last:
            found = await step()
            if found["take"]:
                belt.drive(**beats.pop(0))
                # The beat is taken in this very step.
            for r in range(rows):
                if found["out_valid"] >> r & 1:
                    n = found["out_index"] >> 20 * r & ((1 << 20) - 1)
                    acc = to_signed(found["acc"] >> 64 * r & ((1 << 64) - 1), 64)
                    assert acc == one.sums[r, n], (number, r, n)
                    values += 1
                    if r == 0:
                        at.append((belt.now - start) // steps)
            last = bool(found["out_last"] >> (rows - 1) & 1)
        assert values == rows * columns * one.tiles and not beats
        assert at[0] == one.beats - 1 + given["latency"], (at[0], one.beats)


CASES = {
    "serial": dict(columns=4, lanes=1, rows=4, drain=2),
    "serial-8": dict(columns=2, lanes=8, rows=1, drain=1, groups=2, stages=1),
    "packed": dict(columns=4, lanes=64, rows=2, drain=2, packed=True, groups=2, stages=2),
    "classic": dict(columns=32, lanes=1, rows=32, drain=8, products=4),
}


@pytest.mark.parametrize(
    "name", [*(n for n in CASES if n in ("serial", "serial-8")), deep("packed"), deep("classic")]
)
def test_matrix_unit(name: str) -> None:
    values = {"operand_blocks": 64, **CASES[name]}
    products = values.pop("products", 12)
    block = MatrixUnit(**values)
    more = {"products": products, "latency": block.latency}
    run_block(block, __name__, parameters={**values, **more})


def test_lanes() -> None:
    with pytest.raises(ValueError, match="lanes is 3"):
        SerialElement(lanes=3, slots=1)
    with pytest.raises(ValueError, match="lanes is 96; allowed: powers of two"):
        MatrixUnit(columns=2, lanes=96, rows=1, drain=1)
    assert MatrixUnit(columns=32, lanes=1, rows=32, drain=8)._steps == 32


def test_columns() -> None:
    with pytest.raises(ValueError, match="columns is 1; allowed: 2 or more"):
        MatrixUnit(columns=1, lanes=32, rows=1, drain=1)
