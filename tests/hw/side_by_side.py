"""Equal lanes next to each other, so that a bench gets many values for one look at the ports."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from amaranth.hdl import Module
from amaranth.lib.wiring import In, Out
from cocotb.triggers import FallingEdge

from tests.hw.clocked import reset
from tests.hw.many import start_clock
from tests.hw.words import pack, unpack, words
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["Lanes", "SideBySide", "play"]


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


async def play(
    dut: Any,
    rng: random.Random,
    inputs: dict[str, int],
    outputs: dict[str, int],
    beats: list[dict[str, np.ndarray]],
    *,
    latency: int,
    setup: Sequence[dict[str, int]] = (),
    stall: float = 0.1,
) -> dict[str, np.ndarray]:
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
    values, count = next(iter(beats[0].values())).shape
    configured = dict.fromkeys(setup[0] if setup else (), 1)  # driven as words, never noise
    lanes = Lanes(
        dut, rng, count, {"in_valid": 1, **inputs, **configured}, {"out_valid": 1, **outputs},
        strobes=("in_valid", *configured),
    )  # fmt: skip
    await lanes.reset()
    for given in setup:
        lanes.drive(**given)
        await lanes.next()
    lanes.stall = stall
    every = [lanes.every] * values
    feed = [
        {"in_valid": every, **{name: words(beat[name], abs(inputs[name])) for name in beat}}
        for beat in beats
    ]
    found: dict[str, list[list[int]]] = {name: [] for name in outputs}
    for cycle in range(values * len(beats) + latency - 1):
        value, beat = divmod(cycle, len(beats))
        given = feed[beat] if value < values else {}
        lanes.drive(**{name: row[value] for name, row in given.items()})
        await lanes.next()
        last = cycle + 1 - latency  # the beat whose output this is
        comes = last >= 0 and last % len(beats) == len(beats) - 1
        assert lanes.word("out_valid") == (lanes.every if comes else 0), f"cycle {cycle}"
        for name in outputs if comes else ():
            found[name].append(lanes.read(name))
    return {name: np.array(rows, dtype=np.int64) for name, rows in found.items()}
