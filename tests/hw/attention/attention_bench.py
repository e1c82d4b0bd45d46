"""Drives a belt block one belt cycle at a time, for the attention blocks' tests."""

from __future__ import annotations

import random
from typing import Any

from cocotb.triggers import FallingEdge

from tests.hw.many import start_clock

STALLS = (0.0, 0.4, 0.7)


class Belt:
    """A block under test; `stall` is the chance of a clock cycle with `en` low.

    Parameters
    ----------
    inputs, outputs : dict
        Port name to width.
    strobes : tuple of str
        Inputs that are low when `drive` does not name them; the others are noise then.
    """

    def __init__(
        self,
        dut: Any,
        inputs: dict[str, int],
        outputs: dict[str, int],
        *,
        strobes: tuple[str, ...],
        rng: random.Random,
    ) -> None:
        self.dut, self.inputs, self.outputs = dut, inputs, outputs
        self.strobes, self.rng = strobes, rng
        self.stall = 0.0
        self.cycle = 0

    async def reset(self) -> None:
        start_clock(self.dut)
        self.drive()
        self.dut.en.value = 1
        self.dut.rst.value = 1
        for _ in range(3):
            await FallingEdge(self.dut.clk)
        self.dut.rst.value = 0

    def drive(self, **values: int) -> None:
        """The inputs of this belt cycle."""
        assert set(values) <= set(self.inputs), values
        for name, bits in self.inputs.items():
            noise = 0 if name in self.strobes else self.rng.getrandbits(bits)
            getattr(self.dut, name).value = values.get(name, noise) & ((1 << bits) - 1)

    def _read(self) -> dict[str, int]:
        return {name: int(getattr(self.dut, name).value) for name in self.outputs}

    async def next(self) -> dict[str, int]:
        """Go to the next belt cycle: its outputs. `drive` its inputs before the next call."""
        await FallingEdge(self.dut.clk)
        outputs = self._read()
        while self.rng.random() < self.stall:
            self.dut.en.value = 0
            await FallingEdge(self.dut.clk)
            assert self._read() == outputs, "moved without en"
        self.dut.en.value = 1
        self.cycle += 1
        return outputs
