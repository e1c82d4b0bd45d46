"""Clock and reset of a bench."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

__all__ = ["begin", "reset"]


async def reset(dut: Any, inputs: Iterable[str]) -> None:
    """The named inputs at zero and a reset, under a running clock."""
    for name in inputs:
        getattr(dut, name).value = 0
    dut.rst.value = 1
    for _ in range(3):
        await FallingEdge(dut.clk)
    dut.rst.value = 0


async def begin(dut: Any, inputs: Iterable[str]) -> None:
    """Clock and reset, the named inputs at zero."""
    Clock(dut.clk, 10, "ns").start()
    await reset(dut, inputs)
