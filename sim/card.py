"""A simulated card: the transport of `host/driver.py` to the verilated one, and its memory."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from tokenloom.compiler.errors import TokenloomError
from tokenloom.host.driver import BusError
from tokenloom.hw.config import HardwareConfig
from tokenloom.hw.memory.axi import Response
from tokenloom.sim.chip_device import PASS
from tokenloom.sim.memory import IDEAL, Counters, MemoryProfile, broken_rule, memory_profile
from tokenloom.sim.simulator import build

__all__ = ["CardTransport"]

# Cycles within which a register access is answered.
_ANSWER = 100
# ... that pass before a read, as the way from a host takes longer than the access.
_WAY = 20


class CardTransport:
    """Registers of a simulated card.

    Parameters
    ----------
    hardware : HardwareConfig
    words : int
        Memory words of each channel.
    memory : str or MemoryProfile
    memory_seed : int
    power_up : int, optional
        As for `ChipDevice`.

    Raises
    ------
    TokenloomError
        When the simulator cannot be built.
    """

    def __init__(
        self,
        hardware: HardwareConfig,
        words: int,
        memory: str | MemoryProfile = IDEAL,
        memory_seed: int = 1,
        *,
        power_up: int | None = None,
    ) -> None:
        self.hardware = hardware
        self._word = hardware.memory.port_bits // 8
        self._bytes = words * self._word
        self._library = library = self._simulator(power_up is not None)
        library.tl_new.restype = ctypes.c_void_p
        for name in ("tl_cycles", "tl_passes", "tl_pending"):
            getattr(library, name).restype = ctypes.c_int64
        self._chip = ctypes.c_void_p(library.tl_new(power_up or 0))
        for channel in range(hardware.array.columns):
            self.load(channel, np.zeros(0, np.uint8))
        profile = memory_profile(memory) if isinstance(memory, str) else memory
        if profile is not None:
            timing = profile.timing(clock_mhz=hardware.board.clock_mhz, beat_bytes=self._word)
            library.tl_model(self._chip, timing, ctypes.c_uint64(memory_seed))

    def _simulator(self, power_up: bool) -> ctypes.CDLL:
        return build(self.hardware, card=True, power_up=power_up)

    def close(self) -> None:
        """Free the simulator."""
        if self._chip:
            self._library.tl_delete(self._chip)
            self._chip = ctypes.c_void_p()

    def load(self, channel: int, data: npt.NDArray[np.uint8]) -> None:
        """Put bytes at a channel's start, zeros behind them; a board has its own way for that."""
        self._library.tl_memory(
            self._chip, channel, data.ctypes.data_as(ctypes.c_void_p), ctypes.c_uint64(len(data)),
            ctypes.c_uint64(self._bytes),
        )  # fmt: skip

    def peek(self, channel: int, address: int, size: int) -> bytes:
        """What lies in a channel."""
        to = (ctypes.c_uint8 * size)()
        self._library.tl_peek(
            self._chip, channel, ctypes.c_uint64(address), to, ctypes.c_uint64(size)
        )
        return bytes(to)

    def fail_at(self, channel: int, address: int, times: int = -1) -> None:
        """Answer bursts with that byte of a channel with an error, so often (-1: always)."""
        self._library.tl_error(self._chip, channel, ctypes.c_int64(address), ctypes.c_int64(times))

    def memory_counters(self, channel: int) -> Counters:
        """What a channel's memory has done; all zero for the ideal one."""
        to = Counters()
        self._library.tl_counters(self._chip, channel, ctypes.byref(to))
        return to

    def pending(self) -> int:
        """Bursts that the memory has taken and not answered in full."""
        columns = self.hardware.array.columns
        return sum(self._library.tl_pending(self._chip, channel) for channel in range(columns))

    def passes(self) -> npt.NDArray[np.void]:
        """What the harness has counted in each pass so far, as `chip_device.PASS`."""
        passes = np.zeros(self._library.tl_passes(self._chip, None), PASS)
        self._library.tl_passes(self._chip, passes.ctypes.data_as(ctypes.c_void_p))
        return passes

    @property
    def cycles(self) -> int:
        """Clock cycles since the start."""
        return int(self._library.tl_cycles(self._chip))

    def wait(self, cycles: int) -> None:
        """Let cycles pass.

        Raises
        ------
        TokenloomError
            When the card asks for an address outside its memory or breaks a rule of the protocol.
        """
        status = self._library.tl_wait(self._chip, ctypes.c_int64(cycles))
        if status == 5:
            raise TokenloomError("the card asked for an address outside its memory")
        if status == 6:
            rule, text = ctypes.c_char_p(), ctypes.c_char_p()
            cycle, address = ctypes.c_int64(), ctypes.c_uint64()
            found = (rule, text, cycle, address)
            channel = self._library.tl_broken(self._chip, *map(ctypes.byref, found))
            raise TokenloomError(
                broken_rule(
                    (rule.value or b"").decode(),
                    (text.value or b"").decode(),
                    f"channel {channel}",
                    cycle.value,
                    address.value,
                )  # fmt: skip
            )

    def read(self, offset: int) -> int:
        """As `Transport.read`."""
        self.wait(_WAY)
        data = ctypes.c_uint32()
        response = self._library.tl_axi_read(
            self._chip, ctypes.c_uint32(offset), ctypes.byref(data), ctypes.c_int64(_ANSWER)
        )
        self._check(response, f"a read of {offset:#05x}")
        return data.value

    def write(self, offset: int, value: int, strobe: int = 0xF) -> None:
        """As `Transport.write`, of the bytes in `strobe`."""
        response = self._library.tl_axi_write(
            self._chip, ctypes.c_uint32(offset), ctypes.c_uint32(value), ctypes.c_uint32(strobe),
            ctypes.c_int64(_ANSWER),
        )  # fmt: skip
        self._check(response, f"a write to {offset:#05x}")

    def _check(self, response: int, what: str) -> None:
        if response < 0:
            raise TokenloomError(f"{what} got no answer in {_ANSWER} cycles")
        if response != Response.OKAY:
            raise BusError(what, response)
