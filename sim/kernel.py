"""A simulated kernel: as the simulated card, through the kernel's window and ports."""

from __future__ import annotations

import ctypes

from tokenloom.hw.card.kernel_map import BASES, CARD_OFFSET
from tokenloom.hw.config import HardwareConfig
from tokenloom.sim.card import CardTransport
from tokenloom.sim.kernel_adapter import simulated_base
from tokenloom.sim.memory import IDEAL, MemoryProfile
from tokenloom.sim.simulator import build

__all__ = ["KernelTransport"]


class KernelTransport(CardTransport):
    """The card's registers in the upper half of a kernel's window, and the kernel's own.

    Parameters are those of `CardTransport`, but there is no ideal memory: that one wants address
    and data of a write in the same cycle, between which the kernel has a register. The buffers'
    addresses are written at the start.
    """

    def __init__(
        self,
        hardware: HardwareConfig,
        words: int,
        memory: str | MemoryProfile = "hbm2",
        memory_seed: int = 1,
    ) -> None:
        if memory == IDEAL:
            raise ValueError("memory is 'ideal'; allowed are those with a model, as hbm2")
        super().__init__(hardware, words, memory, memory_seed)
        for channel in range(self.hardware.array.columns):
            base = simulated_base(channel)
            self.write_kernel(BASES + 8 * channel, base & 0xFFFFFFFF)
            self.write_kernel(BASES + 8 * channel + 4, base >> 32)

    def _simulator(self, power_up: bool) -> ctypes.CDLL:
        return build(self.hardware, kernel=True, power_up=power_up)

    def read(self, offset: int) -> int:
        """As `CardTransport.read`."""
        return super().read(CARD_OFFSET + offset)

    def write(self, offset: int, value: int, strobe: int = 0xF) -> None:
        """As `CardTransport.write`."""
        super().write(CARD_OFFSET + offset, value, strobe)

    def read_kernel(self, offset: int) -> int:
        """A register of the kernel's own."""
        return super().read(offset)

    def write_kernel(self, offset: int, value: int) -> None:
        """Write a register of the kernel's own."""
        super().write(offset, value)
