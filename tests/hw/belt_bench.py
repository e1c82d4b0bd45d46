"""Drives a belt block in a closed loop, with random stalls.

`next()` gives the outputs of the next belt cycle (a clock cycle with `en` high), `drive()` sets
that cycle's inputs. In between the bench stalls at random: then `en` is low, the inputs are noise
and the outputs must not move.
"""

from __future__ import annotations

import random
from typing import Any

from cocotb.triggers import FallingEdge

from tests.hw.many import start_clock
from tests.hw.words import to_signed

STALLS = (0.0, 0.3, 0.7)


class Belt:
    """A block under test.

    Parameters
    ----------
    inputs, outputs : dict
        Port name to width; a negative width is a signed port.
    strobes : tuple of str
        Inputs that are low unless driven; all others are noise then.
    stable : tuple of str
        Inputs that keep their value until driven again, stalled or not.
    """

    def __init__(
        self,
        dut: Any,
        inputs: dict[str, int],
        outputs: dict[str, int],
        *,
        rng: random.Random,
        strobes: tuple[str, ...],
        stable: tuple[str, ...] = (),
    ) -> None:
        self.dut, self.rng, self.outputs = dut, rng, outputs
        self.inputs = {name: abs(bits) for name, bits in inputs.items() if name not in stable}
        self.widths = {name: abs(bits) for name, bits in inputs.items()}
        self.strobes = strobes
        self.stall = 0.0
        self.now = -1

    async def reset(self) -> None:
        start_clock(self.dut)
        for name in self.widths:
            getattr(self.dut, name).value = 0
        self.dut.en.value = 1
        self.dut.rst.value = 1
        for _ in range(3):
            await FallingEdge(self.dut.clk)
        self.dut.rst.value = 0

    def drive(self, **values: int) -> None:
        """The inputs of this belt cycle."""
        for name, bits in self.inputs.items():
            if name not in values:
                values[name] = 0 if name in self.strobes else self.rng.getrandbits(bits)
        for name, value in values.items():
            mask = (1 << self.widths[name]) - 1
            getattr(self.dut, name).value = value & mask

    def _read(self) -> dict[str, int]:
        found = {}
        for name, bits in self.outputs.items():
            value = int(getattr(self.dut, name).value)
            found[name] = to_signed(value, -bits) if bits < 0 else value
        return found

    async def next(self) -> dict[str, int]:
        """The outputs of the next belt cycle, whose number is `now` then."""
        frozen = None
        while True:
            await FallingEdge(self.dut.clk)
            found = self._read()
            assert frozen in (None, found), f"moved without en: {frozen} to {found}"
            stalled = self.rng.random() < self.stall
            self.dut.en.value = not stalled
            if not stalled:
                break
            frozen = found
            self.drive(**{name: 1 for name in self.strobes})
        self.now += 1
        return found
