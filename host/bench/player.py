"""Plays a block in Amaranth's own simulator, without Verilog."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["pack_values", "play_block"]


def pack_values(values: Iterable[Any], bits: int) -> int:
    """A port's value: the first of `values` lowest, each of so many bits."""
    return sum((int(v) & ((1 << bits) - 1)) << bits * i for i, v in enumerate(values))


def play_block(block: Any, drive: Any) -> None:
    """Run the testbench `drive(ctx)` to its end, a belt block with its enable high."""
    from amaranth.hdl import EnableInserter
    from amaranth.sim import Simulator

    if block.belt:
        enabled = EnableInserter({"sync": block.en})(block)

        async def driver(ctx: Any) -> None:
            ctx.set(block.en, 1)
            await drive(ctx)

        design, testbench = enabled, driver
    else:
        design, testbench = block, drive
    simulator = Simulator(design)
    simulator.add_clock(1e-8)
    simulator.add_testbench(testbench)
    simulator.run()
