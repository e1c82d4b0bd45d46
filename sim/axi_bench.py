"""The memory model on the port of a block under cocotb, watched by the protocol checker."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.triggers import FallingEdge, RisingEdge

from tokenloom.hw.memory.axi import Burst
from tokenloom.sim.memory import AxiChecker, AxiMaster, Memory, MemoryProfile

__all__ = ["AxiMemory"]


class AxiMemory:
    """Serves a block's port; signals that the block does not have are those of one-beat writes.

    Parameters
    ----------
    dut
        The cocotb handle; its ports are `prefix` + ar_valid and so on, and `clk`.
    profile, seed, data, clock_mhz
        As for `Memory`.
    beat_bytes : int
    reads, writes : int
        Bursts that the block may have outstanding.

    Attributes
    ----------
    memory : Memory
    most_words : int
        Most words that were asked for and not yet given, at any time.
    """

    def __init__(
        self,
        dut: Any,
        profile: MemoryProfile,
        seed: int,
        data: bytes,
        *,
        beat_bytes: int,
        clock_mhz: float = 300.0,
        reads: int = 16,
        writes: int = 16,
        prefix: str = "",
    ) -> None:
        self.memory = Memory(profile, seed, data, clock_mhz=clock_mhz, beat_bytes=beat_bytes)
        self.most_words = self._words = 0
        self._checker = AxiChecker(beat_bytes=beat_bytes, reads=reads, writes=writes)
        self._dut, self._prefix, self._beat = dut, prefix, beat_bytes

    def start(self) -> None:
        """Serve from now on, in the background."""
        self._task = cocotb.start_soon(self._run())

    def stop(self) -> None:
        """Serve no longer."""
        self._task.cancel()

    def _port(self, name: str) -> Any:
        return getattr(self._dut, self._prefix + name, None)

    def _value(self, name: str, default: int = 0) -> int:
        port = self._port(name)
        return default if port is None else int(port.value)

    def _sample(self) -> AxiMaster:
        master = AxiMaster()
        for channel in ("ar", "aw"):
            address = getattr(master, channel)
            address.valid = self._value(f"{channel}_valid")
            address.size, address.burst = self._beat.bit_length() - 1, Burst.INCR
            if address.valid:
                address.addr = self._value(f"{channel}_addr")
                address.len = self._value(f"{channel}_len")
        master.w_valid, master.w_last = self._value("w_valid"), 1
        if master.w_valid:
            data = self._value("w_data").to_bytes(self._beat, "little")
            master.w_data[: self._beat] = data
            master.w_strobe = self._value("w_strobe")
        master.r_ready, master.b_ready = self._value("r_ready", 1), self._value("b_ready", 1)
        return master

    def _drive(self) -> None:
        out = self.memory.out
        for name in ("ar_ready", "aw_ready", "w_ready", "r_valid", "r_resp", "r_last", "b_valid",
                     "b_resp"):  # fmt: skip
            port = self._port(name)
            if port is not None:
                port.value = getattr(out, name)
        if out.r_valid:
            self._port("r_data").value = int.from_bytes(bytes(out.r_data)[: self._beat], "little")

    async def _run(self) -> None:
        self._drive()
        while True:
            await RisingEdge(self._dut.clk)
            # Values sampled just at the edge are those before it.
            master = self._sample()
            self._checker.check(master, self.memory.out)
            if master.ar.valid and self.memory.out.ar_ready:
                self._words += master.ar.len + 1
                self.most_words = max(self.most_words, self._words)
            self._words -= self.memory.out.r_valid and master.r_ready
            self.memory.cycle(master)
            await FallingEdge(self._dut.clk)
            self._drive()
