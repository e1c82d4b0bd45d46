"""What the benchmark counts of blocks too large for Amaranth's own simulator, as cocotb tests.

`run_block` names the case and a file for the result, which is JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from tokenloom.compiler.quantise import QTensor
from tokenloom.hw.array.dot_element import X_SHIFT_BITS
from tokenloom.hw.numbers.formats import ACTIVATION_BITS, BLOCK, KV_BITS, SUM_BITS
from tokenloom.hw.sequencer.isa import ARRAY_OP, Kind, pack
from tokenloom.sim.bench import parameters, seeded
from tokenloom.sim.golden import ExactMatrix

__all__ = ["array"]

_INDEX_BITS, _SUM_BITS = 20, 64


def _join(values: Any, bits: int) -> int:
    return sum((int(value) & (1 << bits) - 1) << bits * i for i, value in enumerate(values))


@cocotb.test()
async def array(dut: Any) -> None:
    """Steps from the first beat of a matmul to its last, and whether its sums are right."""
    given = parameters()
    columns, rows, tiles, beats = (given[name] for name in ("columns", "rows", "tiles", "beats"))
    random = np.random.default_rng(seeded().getrandbits(32))
    x = random.integers(-256, 256, (rows, beats, BLOCK))
    shift = random.integers(0, 12, (rows, beats))
    count = columns * tiles
    codes = random.integers(-128, 128, (count, beats, BLOCK)).astype(np.int8)
    scale = random.integers(0, 1 << 14, (count, beats)).astype(np.uint16)  # positive, finite
    weights = QTensor(
        name="random", bits=KV_BITS, cols=beats * BLOCK, codes=codes, scale=scale,
        minimum=np.zeros_like(scale), e0=0,
    )  # fmt: skip
    expected = ExactMatrix(weights).accumulate(x, shift)

    cocotb.start_soon(Clock(dut.clk, 2, "ns").start())
    for name in ("issue", "we", "p_we", "minimum", "pow2", "key_tiles", "value_blocks",
                 "key_blocks"):  # fmt: skip
        getattr(dut, name).value = 0
    dut.en.value, dut.rst.value = 1, 1
    dut.rows_used.value = dut.group_rows.value = rows
    dut.slot_groups.value = 1
    for _ in range(4):
        await FallingEdge(dut.clk)
    dut.rst.value = 0
    cycle = 0

    async def step() -> None:
        """To the next step's last cycle: its outputs are there, what is set now counts in it."""
        nonlocal cycle
        while True:
            await FallingEdge(dut.clk)
            cycle += 1
            if dut.step.value == 1:
                return

    await step()
    dut.we.value = 1
    for row in range(rows):
        for beat in range(beats):
            dut.row.value, dut.addr.value = row, beat
            dut.x_codes.value = _join(x[row, beat], ACTIVATION_BITS)
            dut.x_shift.value = int(shift[row, beat]) & (1 << X_SHIFT_BITS) - 1
            dut.x_sum.value = int(x[row, beat].sum()) & (1 << SUM_BITS) - 1
            await step()
    dut.we.value = 0
    fields = {"kind": Kind.MATMUL, "tiles": tiles, "beats": beats, "count": count}
    dut.op.value, dut.issue.value = pack(ARRAY_OP, fields), 1
    await step()
    dut.issue.value = 0
    taken: list[int] = []
    right = 0
    while right < count * rows:
        await step()
        if dut.take.value == 1:
            tile, beat = divmod(len(taken), beats)
            n = slice(tile * columns, (tile + 1) * columns)
            dut.codes.value = _join(codes[n, beat].reshape(-1), KV_BITS)
            dut.scale.value = _join(scale[n, beat], 16)
            taken.append(cycle)
        valid = int(dut.out_valid.value)
        if valid:
            index, sums = int(dut.out_index.value), int(dut.acc.value)
            for row in range(rows):
                if valid >> row & 1:
                    place = index >> _INDEX_BITS * row & (1 << _INDEX_BITS) - 1
                    want = int(expected[row, place]) & (1 << _SUM_BITS) - 1
                    found = sums >> _SUM_BITS * row & (1 << _SUM_BITS) - 1
                    assert found == want, (row, place)
                    right += 1
    per_step = taken[1] - taken[0]
    result = {"cycles": taken[-1] - taken[0] + per_step, "per_step": per_step, "sums": right}
    Path(given["out"]).write_text(json.dumps(result))
