"""Drives a `RingSystem` under cocotb: loads vectors, starts collectives, reads results."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, First, Timer, ValueChange

from tokenloom.hw.ring.collective import Command, Words
from tokenloom.hw.ring.frame import LANES
from tokenloom.sim.link_model import FAULTS

__all__ = ["CYCLE", "Rings"]

CYCLE = 2  # ns


class Rings:
    """A ring under test.

    Attributes
    ----------
    nodes : int
    dut
        The cocotb handle of a `RingSystem`.
    """

    def __init__(self, dut: Any) -> None:
        self.dut, self.nodes = dut, 0
        self._clock: Any = None

    async def reset(
        self,
        nodes: int,
        *,
        latency: int = 25,
        pace: tuple[int, int] = (1, 1),
        faults: dict[str, int] | None = None,
        seed: int = 1,
    ) -> None:
        """Begin anew with a ring of `nodes`; `faults` has frames of 65,536 by name."""
        dut, self.nodes = self.dut, nodes
        if self._clock is None:
            self._clock = cocotb.start_soon(Clock(dut.clk, CYCLE, "ns").start())
        values = {
            "nodes": nodes, "latency": latency, "pace_num": pace[0], "pace_den": pace[1],
            "seed": seed, "restart": 0, "cut_data": 0, "cut_status": 0, "start": 0, "host_we": 0,
            **{f"rate_{name}": (faults or {}).get(name, 0) for name in FAULTS},
        }  # fmt: skip
        for name, value in values.items():
            getattr(dut, name).value = value
        dut.rst.value = 1
        await self.wait(3)
        dut.rst.value = 0
        # Until both ends of every link have heard of each other.
        await self.wait(3 * latency + 60)

    async def wait(self, cycles: int) -> None:
        """Let the clock run; ends at a falling edge."""
        if cycles > 1:
            await Timer((cycles - 1) * CYCLE, "ns")
        await FallingEdge(self.dut.clk)

    async def load(self, node: int, words: Words, at: int = 0) -> None:
        """Write a vector into a node's memory."""
        dut = self.dut
        dut.host_node.value = node
        dut.host_we.value = 1
        for i, word in enumerate(words):
            dut.host_addr.value = at + i
            dut.host_data.value = int.from_bytes(word.astype("<i8").tobytes(), "little")
            await FallingEdge(dut.clk)
        dut.host_we.value = 0

    async def read(self, node: int, count: int, at: int = 0) -> Words:
        """Read a vector from a node's memory."""
        dut, found = self.dut, []
        dut.host_node.value = node
        for i in range(count + 1):
            dut.host_addr.value = at + min(i, count - 1)
            await FallingEdge(dut.clk)
            if i:
                found.append(int(dut.host_read.value).to_bytes(8 * LANES, "little"))
        return np.frombuffer(b"".join(found), "<i8").reshape(count, LANES)

    async def load_all(self, vectors: Words, at: int = 0) -> None:
        """`load` on every node."""
        for node, words in enumerate(vectors):
            await self.load(node, words, at)

    async def read_all(self, count: int, at: int = 0) -> Words:
        """`read` on every node."""
        return np.stack([await self.read(node, count, at) for node in range(self.nodes)])

    def command(self, given: Command, *, source: int = 0, target: int = 0) -> None:
        """Set the command's ports."""
        values = {
            "op": given.op, "words": given.words, "size": given.size, "larger": given.larger,
            "root": given.root, "last": given.last, "from": source, "to": target,
        }  # fmt: skip
        for name, value in values.items():
            getattr(self.dut, f"cmd_{name}").value = int(value)

    async def start(self, mask: int | None = None) -> None:
        """Start the command on all nodes, or those of `mask`."""
        self.dut.start.value = (1 << self.nodes) - 1 if mask is None else mask
        await FallingEdge(self.dut.clk)
        self.dut.start.value = 0

    async def finished(self, limit: int) -> bool:
        """Wait until all nodes are done; False after `limit` cycles or when one has an error."""
        end = Timer(limit * CYCLE, "ns")
        while self.dut.pending.value != 0:
            if self.dut.error.value != 0:
                return False
            changed = (ValueChange(self.dut.pending), ValueChange(self.dut.error))
            if await First(*changed, end) is end:
                return False
        await FallingEdge(self.dut.clk)
        return bool(self.dut.error.value == 0)

    async def run(self, given: Command, limit: int, *, source: int = 0, target: int = 0) -> int:
        """Play a command on all nodes at once; gives the cycles it took.

        Raises
        ------
        AssertionError
            When it does not end within `limit` cycles or ends with an error.
        """
        self.command(given, source=source, target=target)
        await self.start()
        assert await self.finished(limit), (
            f"{given}: pending {self.dut.pending.value}, errors {self.dut.error.value}"
        )
        return int(self.dut.elapsed.value)

    def counts(self) -> dict[str, int]:
        """Frames that suffered since reset, by fault."""
        return {name: int(getattr(self.dut, f"count_{name}").value) for name in FAULTS}


def vectors(random: np.random.Generator, nodes: int, words: int, *, corners: bool = False) -> Words:
    """Random accumulators; with `corners` many of them at the ends of their range."""
    result = random.integers(-(1 << 60), 1 << 60, (nodes, words, LANES), dtype=np.int64)
    if corners:
        ends = np.array([0, -1, 1, (1 << 63) - 1, -(1 << 63), 1 << 32], dtype=np.int64)
        chosen = random.integers(0, 2, result.shape).astype(bool)
        result[chosen] = random.choice(ends, int(chosen.sum()))
    return result
