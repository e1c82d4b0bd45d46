# amaranth: UnusedElaboratable=no
"""Activation: its error over every input, and the RTL against the golden function."""

from __future__ import annotations

import math
from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge

from tests.deep import DEEP, deep
from tests.hw.array.lane_bench import STALLS, Item, Lane, expect, spread
from tokenloom.hw.ffn.activation import Activation
from tokenloom.hw.numbers import formats
from tokenloom.sim.bench import parameters, run_block, seeded

LOW, HIGH = -(2**31), 2**31 - 1
LIMIT = formats.SILU_LIMIT
# What the field asks is 0.01 % of the range's end, which is 12 here; these are the figures.
ERRORS = {"silu": 2.1e-4, "gelu": 5.1e-4, "gelu_tanh": 5.1e-4}


def exact(activation: str, x: np.ndarray) -> np.ndarray:
    if activation == "silu":
        return x / (1 + np.exp(-x))
    if activation == "gelu":
        return x / 2 * (1 + np.array([math.erf(v / math.sqrt(2)) for v in x]))
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("activation", formats.ACTIVATIONS)
def test_error_of_every_input(activation: str) -> None:
    """Every input below the limit, both signs; beyond it the result is max(g, 0) and decays."""
    worst = 0.0
    for start in range(-LIMIT, LIMIT + 1, 1 << 17):
        gate = np.arange(start, min(start + (1 << 17), LIMIT + 1))
        error = np.abs(formats.activate(gate, activation) / 65536 - exact(activation, gate / 65536))
        worst = max(worst, float(error.max()))
    assert worst < ERRORS[activation]
    assert worst <= 12 * 1e-4
    # From the limit on the exact function is max(x, 0) within 12 exp(-12), falling with |x|.
    assert float(np.abs(exact(activation, np.array([-12.0])))[0]) < 7.4e-5
    edges = np.array([LIMIT, LIMIT + 1, HIGH - 1, HIGH, *np.geomspace(LIMIT, HIGH, 1000)])
    edges = edges.astype(np.int64)
    assert (formats.activate(edges, activation) == edges).all()
    assert not formats.activate(-edges, activation).any()
    assert formats.activate([LOW, 0], activation).tolist() == [0, 0]


@pytest.mark.parametrize("activation", formats.ACTIVATIONS)
def test_operands_fit_the_pipeline(activation: str) -> None:
    """h has 23 bits signed: the slope at every offset of every segment."""
    _, c1, c2 = np.array(formats.activation_coefficients(activation)).T
    slope = np.abs(c1) + (np.abs(c2) * 65535 >> formats.SILU_SLOPE_SHIFT) + 1
    assert slope.max() < 1 << 22


def edges() -> list[int]:
    ends = [k << 15 for k in range(9)] + [k << 16 for k in range(5, 14)]
    found = [s * (end + d) for end in ends for d in (-1, 0, 1) for s in (1, -1)]
    return [*found, LOW, LOW + 1, HIGH]


@cocotb.test()
async def values(dut: Any) -> None:
    rng = seeded()
    given = parameters()
    bench = Lane(
        dut,
        {"in_valid": 1, "in_value": -32},
        {"out_valid": 1, "out_value": -32},
        rng=rng,
    )
    await bench.reset()
    for stall in STALLS:
        cases = edges() + [rng.randrange(-LIMIT, LIMIT) for _ in range(500)]
        wanted = formats.activate(cases, given["activation"]).tolist()
        items: list[Item] = [{"in_valid": 1, "in_value": case} for case in cases]
        cycles = spread(items, rng, 0.3)
        places = [cycle for cycle, item in enumerate(cycles) if item is not None]
        expect(
            await bench.run(cycles, stall=stall),
            [
                (place + given["stages"], {"out_valid": 1, "out_value": value})
                for place, value in zip(places, wanted, strict=True)
            ],
        )
    # Every input below the limit (or some of them), a value per cycle.
    step = given["step"]
    gates = np.arange(-LIMIT - 3, LIMIT + 4, step)
    wanted = formats.activate(gates, given["activation"]).tolist()
    late = given["stages"]
    dut.en.value, dut.in_valid.value = 1, 1
    for place in range(len(gates) + late):
        dut.in_value.value = int(gates[min(place, len(gates) - 1)]) & 0xFFFFFFFF
        if place >= late:
            assert dut.out_value.value.to_signed() == wanted[place - late], gates[place - late]
        await FallingEdge(dut.clk)


CASES = [("silu", 2), deep("silu", 3), deep("silu", 1), ("gelu", 4), deep("gelu_tanh", 5)]


@pytest.mark.parametrize("activation, stages", CASES)
def test_activation(activation: str, stages: int) -> None:
    given = {"activation": activation, "stages": stages}
    assert Activation(**given).latency == stages
    run_block(Activation(**given), __name__, parameters={**given, "step": 1 if DEEP else 97})


def test_parameters() -> None:
    with pytest.raises(ValueError, match="'relu'.*silu, gelu, gelu_tanh"):
        Activation(activation="relu")
    with pytest.raises(ValueError, match="stages = 6"):
        Activation(stages=6)
