"""Equal lanes next to each other, so that a bench gets many values for one look at the ports."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from amaranth.hdl import Module
from amaranth.lib.wiring import In, Out
from cocotb.triggers import FallingEdge

from tests.hw.clocked import begin
from tests.hw.words import pack, unpack
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["SideBySide", "play"]


class SideBySide(Block):
    """`count` blocks of a belt; each port holds all of theirs, the first one's lowest."""

    def __init__(self, make: Callable[[], Block], count: int) -> None:
        self._blocks = [make() for _ in range(count)]
        first = self._blocks[0]
        super().__init__(
            {
                name: (In if flow.name == "In" else Out)(count * len(value))
                for name, (value, flow) in first.flat_ports().items()
            },
            params=(first.module_name, first.params, count),
        )
        self.module_name = f"{first.module_name}_{count}_times"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for i, block in enumerate(self._blocks):
            m.submodules[f"block{i}"] = instance(block, en=self.en)
            for name, (value, flow) in block.flat_ports().items():
                part = getattr(self, name).word_select(i, len(value))
                m.d.comb += value.eq(part) if flow.name == "In" else part.eq(value)
        return m


async def play(dut, rng, inputs, outputs, beats, *, latency, stall=0.1):
    """Play values on all blocks in step.

    Parameters
    ----------
    inputs, outputs : dict
        Port name to width, of one block, `in_valid` and `out_valid` aside; negative: signed.
    beats : list of dict
        Port name to array [values, blocks], for the cycles that a value takes; what a beat does
        not name is noise.
    latency : int
        Belt cycles from a value's last beat to its output.

    Returns
    -------
    dict
        Port name to array [values, blocks].
    """
    shape = next(iter(beats[0].values())).shape
    values, count = shape
    found = {name: np.zeros(shape, dtype=np.int64) for name in outputs}
    dut.en.value = 1
    await begin(dut, ["in_valid"])
    every = (1 << count) - 1
    total = values * len(beats)
    for cycle in range(total + latency - 1):
        value, beat = divmod(cycle, len(beats))
        given = beats[beat] if value < values else {}
        dut.in_valid.value = every if given else 0
        for name, bits in inputs.items():
            width = abs(bits)
            if name in given:
                word = pack(given[name][value], width)
            else:
                word = rng.getrandbits(width * count)
            getattr(dut, name).value = word
        while rng.random() < stall:
            dut.en.value = 0
            await FallingEdge(dut.clk)
        dut.en.value = 1
        await FallingEdge(dut.clk)
        last = cycle + 1 - latency  # the beat whose output this is
        comes = last >= 0 and last % len(beats) == len(beats) - 1
        assert int(dut.out_valid.value) == (every if comes else 0), f"cycle {cycle}"
        if comes:
            for name, bits in outputs.items():
                word = int(getattr(dut, name).value)
                found[name][last // len(beats)] = unpack(word, abs(bits), count, unsigned=bits > 0)
    return found
