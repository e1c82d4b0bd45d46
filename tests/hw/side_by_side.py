"""Equal lanes next to each other, so that a bench gets many values for one look at the ports."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from amaranth.hdl import Module
from amaranth.lib.wiring import In, Out
from cocotb.triggers import FallingEdge

from tests.hw.clocked import begin, reset
from tests.hw.many import start_clock
from tests.hw.words import pack, unpack
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["Lanes", "SideBySide", "play", "words"]


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


async def play(dut, rng, inputs, outputs, beats, *, latency, setup=(), stall=0.1):
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
    setup : sequence of dict
        Port name to the word that it holds, for the belt cycles before the first value.

    Returns
    -------
    dict
        Port name to array [values, blocks].
    """
    shape = next(iter(beats[0].values())).shape
    values, count = shape
    found = {name: np.zeros(shape, dtype=np.int64) for name in outputs}
    dut.en.value = 1
    await begin(dut, ["in_valid", *(setup[0] if setup else ())])
    for given in setup:
        for name, word in given.items():
            getattr(dut, name).value = word
        await FallingEdge(dut.clk)
    for name in setup[0] if setup else ():
        getattr(dut, name).value = 0
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


def words(values: np.ndarray, bits: int) -> list[int]:
    """What a port of `bits` bits per block holds, cycle by cycle, of an array [cycles, blocks]."""
    each = (values[..., None] >> np.arange(bits) & 1).astype(np.uint8)
    rows = np.packbits(each.reshape(len(values), -1), axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in rows]


class Lanes:
    """Drives the blocks of a `SideBySide` in a closed loop, as belt_bench.Belt does with one.

    `drive()` sets the inputs of a belt cycle, `next()` lets it pass; then the outputs are those of
    the next one. In between the bench stalls at random.

    Parameters
    ----------
    inputs, outputs : dict
        Port name to width, of one block; a negative width is a signed port.
    strobes : tuple of str
        Inputs that are low unless driven; all others are noise then.
    stable : tuple of str
        Inputs that keep their value until driven again.
    """

    def __init__(
        self,
        dut: Any,
        rng: random.Random,
        count: int,
        inputs: dict[str, int],
        outputs: dict[str, int],
        *,
        strobes: tuple[str, ...],
        stable: tuple[str, ...] = (),
    ) -> None:
        self.dut, self.rng, self.count = dut, rng, count
        self.inputs, self.outputs = inputs, outputs
        self.strobes, self.stable = strobes, stable
        self.stall = 0.0
        self.every = (1 << count) - 1
        self._ports = {name: getattr(dut, name) for name in (*inputs, *outputs)}
        self._held: dict[str, int] = {}  # a port that does not change is not written again

    async def reset(self) -> None:
        start_clock(self.dut)
        self.dut.en.value = 1
        await reset(self.dut, self.inputs)
        self._held = dict.fromkeys(self.inputs, 0)

    def drive(self, **given: int | Iterable[Any]) -> None:
        """The inputs of this belt cycle: the port's word, or a number per block."""
        for name, bits in self.inputs.items():
            value = given.get(name)
            if value is None:
                if name in self.stable:
                    continue
                value = 0 if name in self.strobes else self.rng.getrandbits(abs(bits) * self.count)
            elif not isinstance(value, int):
                value = pack(value, abs(bits))
            if value != self._held[name]:
                self._held[name] = self._ports[name].value = value

    async def next(self) -> None:
        """One belt cycle."""
        while self.rng.random() < self.stall:
            self.dut.en.value = 0
            await FallingEdge(self.dut.clk)
        self.dut.en.value = 1
        await FallingEdge(self.dut.clk)

    def word(self, name: str) -> int:
        """All that an output holds."""
        return int(self._ports[name].value)

    def read(self, name: str) -> list[int]:
        """An output, block by block."""
        bits = self.outputs[name]
        return unpack(self.word(name), abs(bits), self.count, unsigned=bits > 0)

    def same(self, name: str, want: int | Iterable[Any], about: Callable[[int], str]) -> None:
        """Compare an output with a word or with a number per block; `about` tells of a block."""
        bits = self.outputs[name]
        if not isinstance(want, int):
            want = pack(want, abs(bits))
        if self.word(name) == want:
            return
        wanted = unpack(want, abs(bits), self.count, unsigned=bits > 0)
        for lane, (one, other) in enumerate(zip(self.read(name), wanted, strict=True)):
            assert one == other, f"{name} of lane {lane}: {one}, not {other}; {about(lane)}"
