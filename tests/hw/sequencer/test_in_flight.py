# amaranth: UnusedElaboratable=no
"""The count of a queue's finished instructions, some of which are passed over."""

from __future__ import annotations

from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from tests.hw.belt_bench import STALLS
from tokenloom.hw.sequencer.in_flight import InFlight
from tokenloom.sim.bench import parameters, run_block, seeded


@cocotb.test()
async def passes(dut: Any) -> None:
    rng = seeded()
    depth = parameters()["depth"]
    cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
    dut.en.value = dut.rst.value = 1
    for name in ("restart", "issue", "finished", "position"):
        getattr(dut, name).value = 0
    await FallingEdge(dut.clk)
    dut.rst.value = 0
    fullest = behind = 0
    for turn in range(30):
        stall, finishing = STALLS[turn % 3], rng.choice((0.1, 0.5, 0.9))
        position, flying = 0, []  # of the queue's head, and of what is in flight
        dut.en.value = dut.restart.value = 1
        for name in ("issue", "finished"):
            getattr(dut, name).value = rng.getrandbits(1)
        await FallingEdge(dut.clk)
        dut.restart.value = 0
        for _ in range(rng.randrange(1, 100)):
            # The queue's head moves on by an issue or past an instruction.
            issue = len(flying) < depth and rng.random() < 0.4
            passes = not issue and rng.random() < 0.2
            finished = bool(flying) and rng.random() < finishing
            while rng.random() < stall:
                dut.en.value = 0
                for name in ("restart", "issue", "finished"):
                    getattr(dut, name).value = rng.getrandbits(1)
                await FallingEdge(dut.clk)
            dut.en.value = 1
            dut.restart.value, dut.position.value = 0, position
            dut.issue.value, dut.finished.value = int(issue), int(finished)
            await FallingEdge(dut.clk)
            if finished:
                flying.pop(0)
            if issue:
                flying.append(position)
            position += issue or passes
            # Outputs of the next cycle, in which the head is where it has got to.
            dut.position.value = position
            dut.issue.value = dut.finished.value = 0
            dut.en.value = 0
            await FallingEdge(dut.clk)
            assert int(dut.idle.value) == (not flying)
            assert int(dut.done.value) == (flying[0] if flying else position)
            fullest = max(fullest, len(flying))
            behind += bool(flying) and flying[-1] + 1 < position
    assert fullest == depth and behind > 50


@pytest.mark.parametrize("depth", [2, 8])
def test_in_flight(depth: int) -> None:
    run_block(InFlight(depth=depth), __name__, parameters={"depth": depth})


@pytest.mark.parametrize("depth", [1, 3])
def test_refusal(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth is {depth}; allowed: powers of two"):
        InFlight(depth=depth)
