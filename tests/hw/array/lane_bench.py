"""Drives a belt block cycle by cycle with random stalls, for the lane blocks' tests.

The bench counts *belt* cycles: clock cycles with `en` high. In a clock cycle with `en` low the
inputs are noise, and the outputs must be the same in the next cycle.
"""

from __future__ import annotations

import random
from typing import Any

from cocotb.triggers import FallingEdge

from tests.hw.many import start_clock
from tests.hw.words import to_signed

Item = dict[str, int]

# Every test runs with all of them: never stalled, now and then, most of the time.
STALLS = (0.0, 0.3, 0.7)


def spread(items: list[Item], rng: random.Random, gap: float) -> list[Item | None]:
    """`items` with random gaps (None) before them."""
    cycles: list[Item | None] = []
    for item in items:
        while rng.random() < gap:
            cycles.append(None)
        cycles.append(item)
    return cycles


class Lane:
    """A block under test.

    Parameters
    ----------
    inputs, outputs : dict
        Port name to width; a negative width is a signed port.
    valid : tuple of str
        Inputs that must be low in a gap; all others are noise then.
    """

    def __init__(
        self,
        dut: Any,
        inputs: dict[str, int],
        outputs: dict[str, int],
        *,
        rng: random.Random,
        valid: tuple[str, ...] = ("in_valid",),
    ) -> None:
        self.dut, self.inputs, self.outputs, self.rng = dut, inputs, outputs, rng
        self.valid = valid
        self.cycle = 0
        self._frozen: Item | None = None

    async def reset(self) -> None:
        start_clock(self.dut)
        self._drive(None)
        self.dut.en.value = 1
        self.dut.rst.value = 1
        for _ in range(3):
            await FallingEdge(self.dut.clk)
        self.dut.rst.value = 0

    def _drive(self, item: Item | None) -> None:
        for name, bits in self.inputs.items():
            width = abs(bits)
            if item is not None and name in item:
                value = item[name]
            elif name in self.valid:
                value = 0
            else:
                value = self.rng.getrandbits(width)
            getattr(self.dut, name).value = value & ((1 << width) - 1)

    def _read(self) -> Item:
        found = {}
        for name, bits in self.outputs.items():
            value = int(getattr(self.dut, name).value)
            found[name] = to_signed(value, -bits) if bits < 0 else value
        return found

    async def run(
        self, cycles: list[Item | None], *, stall: float, drain: int = 20
    ) -> list[tuple[int, Item]]:
        """Play `cycles` (then `drain` empty ones): (belt cycle, outputs) of each valid output.

        Belt cycles count from the first of `cycles`.
        """
        found = []
        for cycle, item in enumerate([*cycles, *[None] * drain]):
            while True:
                await FallingEdge(self.dut.clk)
                outputs = self._read()
                assert self._frozen in (None, outputs), f"moved without en: {outputs}"
                enabled = self.rng.random() >= stall
                self.dut.en.value = enabled
                if enabled:
                    break
                self._frozen = outputs
                self._drive({name: 1 for name in self.valid})
            self._frozen = None
            self._drive(item)
            if outputs["out_valid"]:
                found.append((cycle, outputs))
            else:
                assert not outputs.get("out_saturated", 0), "saturation without a value"
        return found


def expect(found: list[tuple[int, Item]], expected: list[tuple[int, Item]]) -> None:
    """Compare outputs and their belt cycles exactly."""
    for index, (have, want) in enumerate(zip(found, expected, strict=False)):
        assert have == want, f"output {index}: {have}, expected {want}"
    assert len(found) == len(expected), f"{len(found)} outputs, expected {len(expected)}"
