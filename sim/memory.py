"""Memory profiles, and the C++ memory model and protocol checker for benches in Python.

There is one model, `memory_model.hpp`: the fast harness compiles it in, benches reach it here.
"""

from __future__ import annotations

import ctypes
import dataclasses
import fcntl
import functools
import hashlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tokenloom.compiler.errors import TokenloomError
from tokenloom.hw.config import load
from tokenloom.hw.memory.axi import BURST_BEATS, BURST_BYTES
from tokenloom.hw.verilog.build_folder import build_root

__all__ = [
    "IDEAL",
    "MEMORIES",
    "AxiAddress",
    "AxiChecker",
    "AxiMaster",
    "AxiSlave",
    "Counters",
    "Memory",
    "MemoryProfile",
    "axi_rules",
    "broken_rule",
    "linear_reader",
    "memory_profile",
    "model_sources",
]

_HERE = Path(__file__).parent
_HEADERS = ("axi.hpp", "memory_model.hpp", "axi_checker.hpp")
_FS = 1_000_000  # femtoseconds per nanosecond
_UNIT = 32  # bytes for which the data bus is granted at a time: a beat of a 256-bit port

IDEAL = "ideal"
"""The memory that answers every read in the next cycle; it has no profile."""


@dataclass(frozen=True, kw_only=True)
class MemoryProfile:
    """One memory channel, whatever the clock of the port in front of it; times in nanoseconds.

    Attributes
    ----------
    name : str
    bytes_per_ns : float or None
        Peak of the data bus in GB/s; None: what the port takes.
    reachable : float
        Part of the peak that an endless linear read gets, refresh included.
    latency, write_latency : float
        First data of an open row after the address; acknowledgement after the data.
    jitter, tail : float
        Uniform extra per burst; more for one burst in `tail_every`.
    tail_every : int
    refresh_every, refresh : float
        Period and length; 0: never.
    banks, row_bytes : int
    activate, precharge, row_cycle : float
        Open a row, close one, and least time from one activation to the next, per bank.
    turnaround : float
        Between reads and writes on the bus.
    reads, writes : int
        Bursts that the port takes before it wants to see one end.
    busy : float
        Share of cycles in which the port is not ready although it has room.
    error_rate : float
        Share of bursts with an error response.
    error_address, error_times : int
        A byte whose bursts fail, so often (-1: always); address -1: none.
    """

    name: str
    bytes_per_ns: float | None
    reachable: float
    latency: float
    write_latency: float
    jitter: float
    tail: float
    tail_every: int
    refresh_every: float
    refresh: float
    banks: int
    row_bytes: int
    activate: float
    precharge: float
    row_cycle: float
    turnaround: float
    reads: int
    writes: int
    busy: float
    error_rate: float = 0.0
    error_address: int = -1
    error_times: int = 0

    def timing(self, *, clock_mhz: float, beat_bytes: int) -> ctypes.Array[ctypes.c_int64]:
        """The figures as the model takes them, for a port of that clock and width."""
        period = 1000 / clock_mhz
        peak = self.bytes_per_ns or beat_bytes / period
        refreshed = self.refresh / self.refresh_every if self.refresh_every else 0.0
        unit = _UNIT / peak * (1 - refreshed) / self.reachable
        times = {
            "period": period,
            "unit": unit,
            "latency": self.latency,
            "write": self.write_latency,
            "jitter": self.jitter,
            "tail": self.tail,
            "refresh_every": self.refresh_every,
            "refresh": self.refresh,
            "activate": self.activate,
            "precharge": self.precharge,
            "row_cycle": self.row_cycle,
            "turnaround": self.turnaround,
        }
        values = {f"{name}_fs": round(time * _FS) for name, time in times.items()}
        values |= {
            "beat_bytes": beat_bytes,
            "busy_256": round(256 * self.busy),
            "error_ppm": round(1e6 * self.error_rate),
        }
        for name in ("tail_every", "banks", "row_bytes", "reads", "writes"):
            values[name] = getattr(self, name)
        values |= {"error_address": self.error_address, "error_times": self.error_times}
        names = _library().tm_fields().decode().split()
        if set(names) != set(values):
            raise TokenloomError(f"the memory model's figures are {names}, given {list(values)}")
        return (ctypes.c_int64 * len(names))(*(values[name] for name in names))


# One pseudo-channel of the U280 and U55C; peak and the part that can be had are the board's. Rows
# of 1 KB, 16 banks and row times as in JESD235 (4 Gb per channel: 260 ns of refresh every 3.9 us).
# The latencies are those that others measured at the AXI port: 107 ns for an open row, 122 for a
# closed and 138 for another one (Shuhai, FCCM 2020). Jitter, tail and unreadiness are assumptions.
_HBM2 = MemoryProfile(
    name="hbm2",
    bytes_per_ns=None,
    reachable=1.0,
    latency=107.0,
    write_latency=60.0,
    jitter=20.0,
    tail=250.0,
    tail_every=64,
    refresh_every=3900.0,
    refresh=260.0,
    banks=16,
    row_bytes=1024,
    activate=15.0,
    precharge=16.0,
    row_cycle=48.0,
    turnaround=10.0,
    reads=64,
    writes=32,
    busy=0.1,
)
# A DDR4 channel of the VCK5000, all of it for one column; 8 Gb chips refresh 350 ns in every
# 7.8 us, which is all that is known to be lost of the peak. A read through the network on chip is
# assumed to take about 150 ns more than the 73 ns of the memory.
_DDR4 = dataclasses.replace(
    _HBM2,
    name="ddr4",
    reachable=1 - 350 / 7800,
    latency=220.0,
    write_latency=120.0,
    jitter=60.0,
    tail=500.0,
    refresh_every=7800.0,
    refresh=350.0,
    row_bytes=8192,
    activate=16.6,
    precharge=16.6,
    row_cycle=47.0,
    turnaround=20.0,
)
# Block RAM of an ECP5 at its port's clock: two cycles at 80 MHz, no rows, nothing to refresh.
_ONCHIP = dataclasses.replace(
    _HBM2,
    name="onchip",
    latency=25.0,
    write_latency=12.5,
    jitter=0.0,
    tail=0.0,
    tail_every=0,
    refresh_every=0.0,
    refresh=0.0,
    banks=1,
    activate=0.0,
    precharge=0.0,
    row_cycle=0.0,
    turnaround=0.0,
    busy=0.0,
)
_PROFILES = {profile.name: profile for profile in (_HBM2, _DDR4, _ONCHIP)}
# The preset of the board whose memory a profile is; block RAM gives what its port takes.
_BOARDS = {"hbm2": "u280", "ddr4": "vck5000"}

MEMORIES = (IDEAL, *_PROFILES)
"""Names of the memories that a simulated board can have."""


def memory_profile(name: str) -> MemoryProfile | None:
    """The profile of that name, None for the ideal memory.

    Raises
    ------
    TokenloomError
        When there is none; the message names those there are.
    """
    if name not in MEMORIES:
        raise TokenloomError(
            f"--memory {name}: there is no such memory model; allowed are {', '.join(MEMORIES)}"
        )
    if name == IDEAL:
        return None
    profile = _PROFILES[name]
    if name in _BOARDS:
        board = load(_BOARDS[name]).board.memory
        profile = dataclasses.replace(
            profile,
            bytes_per_ns=board.channel_gbs,
            reachable=min(profile.reachable, board.ceiling),
        )
    return profile


def model_sources() -> list[Path]:
    """The C++ headers of model and checker."""
    return [_HERE / name for name in _HEADERS]


@functools.cache
def _library() -> ctypes.CDLL:
    """Model and checker as a shared library, cached by content."""
    source = _HERE / "memory_api.cpp"
    command = "g++ -std=c++20 -O2 -fPIC -shared".split()
    digest = hashlib.sha256(" ".join(command).encode())
    for path in (source, *model_sources()):
        digest.update(path.read_bytes())
    folder = build_root() / "memory"
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f"libmemory-{digest.hexdigest()[:16]}.so"
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            temporary = folder / f"libmemory.{os.getpid()}.so"
            done = subprocess.run(
                [*command, str(source), "-o", str(temporary)], capture_output=True, text=True
            )
            if done.returncode:
                raise TokenloomError(f"g++ failed on {source.name}:\n{done.stderr[-2000:]}")
            temporary.replace(library)
    loaded = ctypes.CDLL(str(library))
    for name in ("tm_new", "tm_checker"):
        getattr(loaded, name).restype = ctypes.c_void_p
    for name in ("tm_fields", "tm_rule_name", "tm_rule_text"):
        getattr(loaded, name).restype = ctypes.c_char_p
    loaded.tm_linear.restype = ctypes.c_int64
    loaded.tm_sizes.restype = ctypes.c_uint64
    sizes = [loaded.tm_sizes(i) for i in range(4)]
    if sizes != [ctypes.sizeof(AxiMaster), ctypes.sizeof(AxiSlave), BURST_BEATS, BURST_BYTES]:
        raise TokenloomError("axi.hpp differs from its mirrors in memory.py and hw/memory/axi.py")
    return loaded


class AxiAddress(ctypes.Structure):
    """`axi.hpp`'s AxiAddress: one address channel; `len` is beats - 1."""

    _fields_ = [
        *((name, ctypes.c_uint8) for name in ("valid", "id", "len", "size", "burst")),
        ("addr", ctypes.c_uint64),
    ]


_MOST_BYTES = 64


class AxiMaster(ctypes.Structure):
    """`axi.hpp`'s AxiMaster: what the chip drives in a cycle."""

    _fields_ = [
        ("ar", AxiAddress),
        ("aw", AxiAddress),
        *((name, ctypes.c_uint8) for name in ("w_valid", "w_last", "w_id", "r_ready", "b_ready")),
        ("w_strobe", ctypes.c_uint64),
        ("w_data", ctypes.c_uint8 * _MOST_BYTES),
    ]


class AxiSlave(ctypes.Structure):
    """`axi.hpp`'s AxiSlave: what the memory drives in a cycle."""

    _fields_ = [
        *(
            (name, ctypes.c_uint8)
            for name in (
                "ar_ready",
                "aw_ready",
                "w_ready",
                "r_valid",
                "r_id",
                "r_resp",
                "r_last",
                "b_valid",
                "b_id",
                "b_resp",
            )
        ),
        ("r_data", ctypes.c_uint8 * _MOST_BYTES),
    ]


class Counters(ctypes.Structure):
    """What a channel has done: bursts, bytes, and error responses given."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            "reads",
            "writes",
            "read_bytes",
            "written_bytes",
            "read_errors",
            "write_errors",
        )
    ]


class Memory:
    """One channel of a memory, cycle by cycle.

    Parameters
    ----------
    profile : MemoryProfile
    seed : int
    data : bytes
        Its contents, and with them its size.
    clock_mhz : float
    beat_bytes : int
        The port's.

    Attributes
    ----------
    out : AxiSlave
        What the memory drives in the present cycle.
    """

    def __init__(
        self,
        profile: MemoryProfile,
        seed: int,
        data: bytes,
        *,
        clock_mhz: float = 300.0,
        beat_bytes: int = 32,
    ) -> None:
        self._library = _library()
        self._size = len(data)
        timing = profile.timing(clock_mhz=clock_mhz, beat_bytes=beat_bytes)
        self._handle = ctypes.c_void_p(
            self._library.tm_new(timing, ctypes.c_uint64(seed), data, ctypes.c_uint64(len(data)))
        )
        self.out = AxiSlave()
        self._library.tm_out(self._handle, ctypes.byref(self.out))

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.tm_delete(self._handle)

    def cycle(self, master: AxiMaster) -> AxiSlave:
        """One clock cycle with the master's signals; returns `out` of the next cycle."""
        self._library.tm_cycle(self._handle, ctypes.byref(master), ctypes.byref(self.out))
        return self.out

    def peek(self, address: int, size: int) -> bytes:
        """What lies in the memory."""
        if not 0 <= address <= address + size <= self._size:
            raise ValueError(f"{address}+{size} is outside of {self._size} bytes")
        to = (ctypes.c_uint8 * size)()
        self._library.tm_peek(self._handle, ctypes.c_uint64(address), to, ctypes.c_uint64(size))
        return bytes(to)

    def counters(self) -> Counters:
        """What the channel has done."""
        to = Counters()
        self._library.tm_counters(self._handle, ctypes.byref(to))
        return to


class AxiChecker:
    """Watches one port; `check` raises at the first broken rule.

    Parameters
    ----------
    beat_bytes : int
    reads, writes : int
        Bursts that may be outstanding.
    patience : int
        Cycles for which the master may refuse a response.
    name : str
        The port's, for messages.
    """

    def __init__(
        self,
        *,
        beat_bytes: int = 32,
        reads: int = 16,
        writes: int = 16,
        patience: int = 64,
        name: str = "port",
    ) -> None:
        self._library = _library()
        self._name = name
        self._handle = ctypes.c_void_p(
            self._library.tm_checker(
                *(ctypes.c_int64(n) for n in (beat_bytes, reads, writes, patience))
            )
        )

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.tm_checker_delete(self._handle)

    def check(self, master: AxiMaster, slave: AxiSlave, *, reset: bool = False) -> None:
        """Look at one cycle.

        Raises
        ------
        TokenloomError
            At a broken rule: names rule, port, cycle and address.
        """
        rule = self._library.tm_check(
            self._handle, ctypes.byref(master), ctypes.byref(slave), int(reset)
        )
        if rule:
            cycle, address = ctypes.c_int64(), ctypes.c_uint64()
            self._library.tm_verdict(self._handle, ctypes.byref(cycle), ctypes.byref(address))
            text = self._library.tm_rule_text(rule).decode()
            name = self._library.tm_rule_name(rule).decode()
            raise TokenloomError(broken_rule(name, text, self._name, cycle.value, address.value))


def broken_rule(rule: str, text: str, port: str, cycle: int, address: int) -> str:
    """The message for a broken rule."""
    return f"AXI rule {rule} broken on {port} in cycle {cycle}, address {address:#x}: {text}"


def axi_rules() -> list[str]:
    """Names of every rule that the checker knows."""
    library = _library()
    return [library.tm_rule_name(i).decode() for i in range(1, library.tm_rules())]


def linear_reader(
    profile: MemoryProfile,
    seed: int,
    *,
    cycles: int = 1_000_000,
    clock_mhz: float = 300.0,
    beat_bytes: int = 32,
    burst_bytes: int = BURST_BYTES,
) -> float:
    """Bytes per cycle of a reader that asks for burst after burst and always takes them."""
    timing = profile.timing(clock_mhz=clock_mhz, beat_bytes=beat_bytes)
    total = _library().tm_linear(
        timing, ctypes.c_uint64(seed), ctypes.c_int64(cycles), ctypes.c_int64(burst_bytes)
    )
    return int(total) / cycles
