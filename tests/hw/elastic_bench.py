"""Plays streams with valid and ready against an elastic block, cycle by cycle, with random gaps.

Inputs change at the falling edge; what is handed over is read at the rising edge that follows. A
sender keeps an offer until it is taken, noise lies on its data otherwise; an output that waits for
`ready` must not move.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from cocotb.triggers import FallingEdge, RisingEdge

__all__ = ["Receiver", "Sender", "tick"]

Item = dict[str, int]


class Sender:
    """Offers items at the port `name`: `name_valid`, `name_ready`, and data ports."""

    def __init__(self, dut: Any, name: str, data: Iterable[str], rng: random.Random) -> None:
        self.dut, self.rng = dut, rng
        self.valid = getattr(dut, f"{name}_valid")
        self.ready = getattr(dut, f"{name}_ready")
        self.data = {port: len(getattr(dut, port)) for port in data}
        self.items: list[Item] = []
        self.gap = 0.0
        self.taken: list[int] = []
        """Cycles in which an item left."""
        self._place = 0
        self._offers = False

    @property
    def empty(self) -> bool:
        return self._place == len(self.items)

    def load(self, items: list[Item], gap: float) -> None:
        self.items, self.gap, self._place, self.taken = items, gap, 0, []

    def drive(self) -> None:
        if not self._offers:
            self._offers = not self.empty and self.rng.random() >= self.gap
            item = self.items[self._place] if self._offers else {}
            for port, bits in self.data.items():
                value = item.get(port, self.rng.getrandbits(bits))
                getattr(self.dut, port).value = value & ((1 << bits) - 1)
        self.valid.value = self._offers

    def sample(self, now: int) -> None:
        if self._offers and self.ready.value == 1:
            self._offers = False
            self._place += 1
            self.taken.append(now)


class Receiver:
    """Takes items from the port `name`."""

    def __init__(self, dut: Any, name: str, data: Iterable[str], rng: random.Random) -> None:
        self.dut, self.rng = dut, rng
        self.valid = getattr(dut, f"{name}_valid")
        self.ready = getattr(dut, f"{name}_ready")
        self.data = list(data)
        self.wait = 0.0
        self.found: list[tuple[int, Item]] = []
        self._kept: Item | None = None
        self._ready = False

    def drive(self) -> None:
        self._ready = self.rng.random() >= self.wait
        self.ready.value = self._ready

    def sample(self, now: int) -> None:
        item = None
        if self.valid.value == 1:
            item = {port: int(getattr(self.dut, port).value) for port in self.data}
        assert self._kept in (None, item), f"cycle {now}: an output that waits has moved"
        self._kept = None if self._ready else item
        if item is not None and self._ready:
            self.found.append((now, item))


async def tick(dut: Any, now: int, *ends: Sender | Receiver) -> int:
    """One clock cycle; returns the number of the next."""
    for end in ends:
        end.drive()
    await RisingEdge(dut.clk)
    for end in ends:
        end.sample(now)
    await FallingEdge(dut.clk)
    return now + 1
