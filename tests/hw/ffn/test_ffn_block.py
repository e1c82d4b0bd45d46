# amaranth: UnusedElaboratable=no
"""FfnBlock against the golden functions: every residual value, every stated cycle."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge

from tests.deep import deep
from tests.hw.clocked import begin
from tests.hw.elastic_bench import Sender, tick
from tests.hw.words import pack, unpack
from tokenloom.compiler.quantise import QTensor
from tokenloom.hw.ffn.ffn_block import FfnBlock
from tokenloom.hw.numbers import formats
from tokenloom.sim.bench import parameters, run_block, seeded
from tokenloom.sim.golden import ExactMatrix

BLOCK = formats.BLOCK
STILL = ("used_width", "used_ffn", "rows_used", "hidden_shift", "product_shift", "down_shift",
         "floor")  # fmt: skip


def matrix(npr: np.random.Generator, rows: int, cols: int) -> QTensor:
    """Random codes (with the lowest one often), scales over nine octaves, minima or none."""
    blocks = -(-cols // BLOCK)
    codes = npr.integers(-128, 128, (rows, blocks, BLOCK)).astype(np.int8)
    codes[npr.random((rows, blocks)) < 0.05] = -128
    codes.reshape(rows, -1)[:, cols:] = 0
    scale, minimum = (
        npr.integers(0, 2, (rows, blocks)) << 15
        | npr.integers(0, 10, (rows, blocks)) << 10
        | npr.integers(0, 1024, (rows, blocks))
        for _ in range(2)
    )
    if npr.random() < 0.5:
        minimum[:] = 0
    return QTensor(
        name="random", bits=8, cols=cols, codes=codes, scale=scale.astype(np.uint16),
        minimum=minimum.astype(np.uint16), e0=0,
    )  # fmt: skip


def beats(tensor: QTensor, columns: int, npr: np.random.Generator) -> list[dict[str, int]]:
    """The tape of a matrix; what lies beyond its rows is noise."""
    rows, blocks = tensor.codes.shape[:2]
    tiles = -(-rows // columns)
    codes = npr.integers(-128, 128, (tiles * columns, blocks, BLOCK))
    scale, minimum = npr.integers(0, 1 << 13, (2, tiles * columns, blocks))
    codes[:rows], scale[:rows], minimum[:rows] = tensor.codes, tensor.scale, tensor.minimum
    return [
        {
            "w_codes": pack(codes[n : n + columns, b].reshape(-1), 8),
            "w_scale": pack(scale[n : n + columns, b], 16),
            "w_minimum": pack(minimum[n : n + columns, b], 16),
        }
        for n in range(0, tiles * columns, columns)
        for b in range(blocks)
    ]


def fitting_shift(accs: np.ndarray, bits: int) -> int:
    """Brings the largest accumulator to so many bits."""
    return max(0, int(np.abs(accs).max()).bit_length() - bits)


def blocks_of(values: np.ndarray) -> np.ndarray:
    """[rows, n] zero-padded to [rows, nb, 32]."""
    count = -(-values.shape[1] // BLOCK)
    whole = np.zeros((len(values), count * BLOCK), dtype=np.int64)
    whole[:, : values.shape[1]] = values
    return whole.reshape(len(values), count, BLOCK)


async def write(dut: Any, port: str, **values: int) -> None:
    getattr(dut, f"{port}_valid").value = 1
    for name, value in values.items():
        getattr(dut, f"{port}_{name}").value = value
    assert getattr(dut, f"{port}_ready").value == 1
    await FallingEdge(dut.clk)
    getattr(dut, f"{port}_valid").value = 0


@cocotb.test()
async def runs(dut: Any) -> None:
    rng = seeded()
    npr = np.random.default_rng(rng.getrandbits(32))
    given = dict(parameters())
    wanted = given.pop("values")
    unit = FfnBlock(**given)
    rows, columns, lanes = given["rows"], given["columns"], given["norm_lanes"]
    gated, activation = given["gated"], given["activation"]
    await begin(dut, ["x_valid", "r_valid", "start_valid", "w_valid", "read_en", *STILL])
    sender = Sender(dut, "w", ["w_codes", "w_scale", "w_minimum"], rng)
    now = compared = clamped_runs = number = 0
    saturated = 0
    # Where a run has few values it may take more runs until one is clamped.
    while compared < wanted or number < 6 or (not (clamped_runs and saturated) and number < 60):
        used = number % rows + 1
        whole = number % 3 == 0
        d = given["width"] if whole else int(npr.integers(1, given["width"] + 1))
        f = given["ffn"] if whole else int(npr.integers(1, given["ffn"] + 1))
        if number % 3 == 1 and given["ffn"] > BLOCK:
            f = BLOCK * int(npr.integers(1, (given["ffn"] - 1) // BLOCK + 1)) + 1
        first = matrix(npr, f * (2 if gated else 1), d)
        second = matrix(npr, d, f)
        floor = rng.choice((0, 0, 3))

        # The operand: what the quantiser in front of it gives.
        x = npr.integers(-(2**31), 2**31, (used, d)) >> npr.integers(0, 24, (used, 1))
        codes, shift, sums = formats.mx_quantise(blocks_of(x), 0)
        shift = np.minimum(shift, 14)
        acc = ExactMatrix(first).accumulate(codes, shift)
        # Gates over all of the function's range; in every third run some values clamp.
        hidden_shift = max(0, fitting_shift(acc, 21) - 12 * (number % 3 == 2))
        drained, clamped = formats.drain(acc, hidden_shift)
        gate, up = (drained[:, 0::2], drained[:, 1::2]) if gated else (drained, 1 << 16)
        product_shift = rng.choice((8, 16, 20))
        hidden, more = formats.swiglu(gate, up, product_shift, activation)
        clamped += more
        h_codes, h_shift, _ = formats.mx_quantise(blocks_of(hidden), floor)
        acc = ExactMatrix(second).accumulate(h_codes, h_shift)
        down_shift = min(63, fitting_shift(acc, 31 if number % 2 else 20))
        update, more = formats.drain(acc, down_shift)
        clamped += more
        stream = npr.integers(-(2**31), 2**31, (used, d)) >> npr.integers(0, 20, (used, 1))
        result, more = formats.residual(stream, update)
        clamped += more
        clamped_runs += clamped > 0

        for name, value in zip(
            STILL, (d, f, used, hidden_shift, product_shift, down_shift, floor), strict=True
        ):
            getattr(dut, name).value = value
        for r in range(used):
            for b in range(codes.shape[1]):
                await write(
                    dut, "x", row=r, block=b, codes=pack9(codes[r, b]), sx=int(shift[r, b]),
                    sum=int(sums[r, b]) & 0x3FFF,
                )  # fmt: skip
            for index in range(d):
                value = int(stream[r, index]) & 0xFFFFFFFF
                await write(dut, "r", row=r, index=index, value=value)
        gap = (0.0, 0.3, 0.8)[number % 3] if number else 0.0
        while dut.start_ready.value == 0:
            now = await tick(dut, now)
            dut.w_valid.value = 0
        sender.load(beats(first, columns, npr) + beats(second, columns, npr), gap)
        assert len(sender.items) == unit.beats(width=d, ffn=f)
        began = now
        dut.start_valid.value = 1
        strobes = 0
        while True:
            assert dut.start_ready.value == (now == began)
            now = await tick(dut, now, sender)
            dut.start_valid.value = 0
            # The falling edge shows the cycle that the next tick plays, but for what is driven.
            dut.w_valid.value = 0
            strobes += int(dut.saturated.value)
            if dut.done.value == 1:
                break
            assert now - began < 100 * unit.duration(width=d, ffn=f, rows_used=used), "it hangs"
        if gap == 0.0:
            assert sender.taken[0] == began + FfnBlock.FIRST_TAKE
            assert now - began == unit.duration(width=d, ffn=f, rows_used=used)
        assert sender.empty
        saturated += strobes > 0
        for _ in range(2):
            await FallingEdge(dut.clk)
            now += 1
        dut.read_en.value = 1
        for r in range(used):
            for word in range(-(-d // lanes)):
                dut.read_row.value, dut.read_addr.value = r, word
                await FallingEdge(dut.clk)
                part = result[r, word * lanes : (word + 1) * lanes].tolist()
                have = unpack(int(dut.read_data.value), 32, len(part))
                assert have == part, f"run {number}, row {r}, word {word}"
        dut.read_en.value = 0
        compared += used * (d + f)
        number += 1
    assert clamped_runs and saturated


def pack9(codes: Any) -> int:
    word = 0
    for i, code in enumerate(codes):
        word |= (int(code) & 511) << 9 * i
    return word


CASES = [
    (70, 100, 4, 2, 8, "silu", 3, True, 0),
    (64, 64, 8, 1, 16, "gelu", 2, False, 0),
    # Last hidden blocks of one and two values, which meet the other rows' whole ones.
    (40, 66, 4, 4, 8, "gelu", 2, False, 0),
    # Tiles whose columns are mostly empty: the array drains longer than its values take.
    (32, 33, 32, 2, 8, "silu", 2, True, 0),
    deep(100, 172, 64, 2, 8, "silu", 3, True, 0),
    deep(96, 160, 4, 4, 32, "silu", 2, True, 10**6),
    deep(33, 70, 2, 1, 1, "gelu_tanh", 5, True, 0),
]


@pytest.mark.parametrize(
    "width, ffn, columns, rows, norm_lanes, activation, stages, gated, values", CASES
)
def test_ffn_block(
    width: int, ffn: int, columns: int, rows: int, norm_lanes: int, activation: str, stages: int,
    gated: bool, values: int,
) -> None:  # fmt: skip
    given: dict[str, Any] = {
        "width": width, "ffn": ffn, "columns": columns, "rows": rows, "norm_lanes": norm_lanes,
        "activation": activation, "stages": stages, "gated": gated,
    }  # fmt: skip
    run_block(FfnBlock(**given), __name__, parameters={**given, "values": values})


@pytest.mark.parametrize(
    ("change", "message"),
    [({"columns": 3}, "columns = 3"), ({"columns": 1}, "columns = 1"), ({"rows": 5}, "rows = 5"),
     ({"width": 0}, "width = 0"), ({"ffn": 70000}, "ffn = 70000"), ({"stages": 9}, "stages = 9"),
     ({"activation": "relu"}, "relu")],
)  # fmt: skip
def test_refusals(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FfnBlock(**{"width": 64, "ffn": 64, "columns": 4, **change})
