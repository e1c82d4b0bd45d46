"""The verilated chip as a device: load a model, send a prompt, get tokens, logits and record."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenloom.compiler.errors import TokenloomError
from tokenloom.compiler.image import MemoryImage, lay_out
from tokenloom.compiler.program import Program, compile_program, configuration
from tokenloom.compiler.quantise import QuantModel
from tokenloom.hw.config import HardwareConfig
from tokenloom.hw.sampler.noise import SAMPLING
from tokenloom.hw.sequencer.isa import Unit
from tokenloom.hw.sequencer.pass_control import EOS_IDS
from tokenloom.hw.sequencer.registers import Select, bias_word
from tokenloom.hw.taps import tap_words
from tokenloom.sim.memory import (
    IDEAL,
    Counters,
    MemoryProfile,
    broken_rule,
    memory_profile,
)
from tokenloom.sim.request import GREEDY, Sampling, check_request, check_sampler
from tokenloom.sim.simulator import build

__all__ = ["PASS", "ChipDevice", "Event", "Hold", "MemoryFault", "PassRecord"]

PASS = np.dtype(
    [(name, "<i4") for name in ("rows", "pos", "sample", "pad")]
    + [
        (name, "<i8")
        for name in (
            "elapsed",
            "scheduled",
            "stall_tape",
            "stall_row",
            "stall_kv",
            "stall_other",
            "beats",
            "saturated",
        )  # fmt: skip
    ]
)
"""A pass as the harness hands it over, see `PassRecord`."""
_EVENT = np.dtype(
    [("pass", "<i4"), ("unit", "<i4"), ("finished", "<i4"), ("pad", "<i4"), ("cycle", "<i8")]
)
# Cycles without a token after which a run counts as hung.
_PATIENCE = 200_000_000
# Cycles between two looks at Ctrl-C: less than a second of the largest chip.
_SLICE = 2_000

# New tokens of a rehearsal, and cycles after which it ends sooner, but not before its fourth pass.
_REHEARSED, _REHEARSED_CYCLES = 40, 400_000


class MemoryFault(TokenloomError):
    """A burst got an error response in every attempt; the request it belonged to has ended.

    Attributes
    ----------
    channel, address : int
        Where: the byte address of the burst in its channel.
    write : bool
    """

    def __init__(self, *, channel: int, address: int, write: bool, attempts: int) -> None:
        super().__init__(
            f"memory error: a {'write to' if write else 'read of'} channel {channel}, address "
            f"{address:#x}, failed in each of {attempts} attempts; the request has ended"
        )
        self.channel, self.address, self.write = channel, address, write


class Hold:
    """Extra stalls that the harness injects."""

    NONE = 0
    EVERY = 1
    RANDOM = 2
    AT = 3


@dataclass(frozen=True, kw_only=True)
class PassRecord:
    """One pass as the harness saw it, in clock cycles.

    Attributes
    ----------
    rows, pos : int
    sample : bool
    elapsed, scheduled : int
        Clock cycles, and belt cycles.
    stalls : dict
        Cause -> cycles; they sum to elapsed - scheduled.
    beats : int
        Belt cycles in which the array took a beat from each channel.
    saturated : int
    logits : int32 array [rows, vocab]
        Only where the pass samples.
    token : int or None
    """

    rows: int
    pos: int
    sample: bool
    elapsed: int
    scheduled: int
    stalls: dict[str, int]
    beats: int
    saturated: int
    logits: npt.NDArray[np.int32] | None
    token: int | None


@dataclass(frozen=True, kw_only=True)
class Event:
    """An operation's start (its issue) or end (results usable from the next cycle on)."""

    number: int
    unit: Unit
    finished: bool
    cycle: int


class ChipDevice:
    """A simulated board with one chip and a memory.

    Parameters
    ----------
    model : QuantModel
    hardware : HardwareConfig
    step : callable
        Told what happens next.
    memory : str or MemoryProfile
        One of `MEMORIES`, or a profile of one's own.
    memory_seed : int
        Of everything about it that is left to chance.
    taps : bool
        Simulate the chip that shows every operation's output.
    power_up : int, optional
        Seed, from 1 on, of the noise with which the chip's registers and memories begin, and the
        channels behind the weights; without, with zeros.
    soon : bool
        With a simulator that is soon built and slow.
    guided : bool
        With a simulator that is a fifth to a quarter faster and compiled twice (`simulator.build`).

    Raises
    ------
    TokenloomError
        When the model does not fit the hardware, the seed is out of range, or the simulator
        cannot be built.
    """

    name = "verilator"
    timed = True

    def __init__(
        self,
        model: QuantModel,
        hardware: HardwareConfig,
        step: Callable[[str], None] = lambda text: None,
        memory: str | MemoryProfile = IDEAL,
        memory_seed: int = 1,
        *,
        taps: bool = False,
        power_up: int | None = None,
        soon: bool = False,
        guided: bool = False,
    ) -> None:
        self._profile = memory_profile(memory) if isinstance(memory, str) else memory
        self._memory_seed = memory_seed
        if power_up is not None and not 0 < power_up < 2**31:
            raise TokenloomError(f"power_up is {power_up}; allowed: 1 to {2**31 - 1}")
        self.hardware, self._power_up = hardware, power_up
        step("lay out the weights")
        self._lay_out(model)
        library = build(
            hardware,
            step,
            taps=taps,
            power_up=power_up is not None,
            soon=soon,
            rehearse=self._rehearse if guided else None,
        )
        step("load the model")
        self._open(library)

    def _open(self, library: ctypes.CDLL) -> None:
        library.tl_new.restype = ctypes.c_void_p
        library.tl_power_up.restype = ctypes.c_uint64
        for name in ("tl_cycles", "tl_passes", "tl_events", "tl_logits", "tl_taps", "tl_pending"):
            getattr(library, name).restype = ctypes.c_int64
        self._library = library
        self._abandoned = False  # the chip is in the midst of a request that nobody listens to
        self._chip = ctypes.c_void_p(library.tl_new(self._power_up or 0))
        self._fill_channels()
        self._configure()

    def _rehearse(self, library: ctypes.CDLL) -> None:
        """Play a short request: passes of a prompt, then of single tokens."""
        self._open(library)
        try:
            # Two passes of full rows and a token that is left, then one token after the other.
            prompt = [0] * min(2 * self.hardware.array.rows + 1, self.model.positions)
            new = min(_REHEARSED, self.model.positions - len(prompt) + 1)
            for number, _ in enumerate(self.generate(prompt, new)):
                if number > 2 and library.tl_cycles(self._chip) > _REHEARSED_CYCLES:
                    return
        finally:
            self.close()

    def replace(self, model: QuantModel) -> None:
        """Reset the chip and load another model; the chip's memories keep what they held."""
        self._lay_out(model)
        self._library.tl_reset(self._chip)
        self._abandoned = False
        self._fill_channels()
        self._configure()

    def reset(self) -> None:
        """Reset chip and memory whatever is under way; both keep what their memories hold."""
        self._library.tl_reset(self._chip)
        self._abandoned = False
        self._attach_memory()
        self._configure()

    def _lay_out(self, model: QuantModel) -> None:
        self.model = model
        self.image: MemoryImage = lay_out(model, self.hardware)
        self.program: Program = compile_program(model, self.image, self.hardware)

    def _fill_channels(self) -> None:
        size = self.image.words * self.hardware.memory.port_bits // 8
        noise = np.random.default_rng(self._power_up)
        for channel, weights in enumerate(self.image.channels):
            data = weights
            if self._power_up is not None:
                behind = noise.integers(0, 256, size - len(weights), np.uint8)
                data = np.concatenate([weights, behind])
            self._library.tl_memory(
                self._chip,
                channel,
                data.ctypes.data_as(ctypes.c_void_p),
                ctypes.c_uint64(len(data)),
                ctypes.c_uint64(size),
            )
        self._attach_memory()

    def _attach_memory(self) -> None:
        if self._profile is not None:
            timing = self._profile.timing(
                clock_mhz=self.hardware.board.clock_mhz,
                beat_bytes=self.hardware.memory.port_bits // 8,
            )
            self._library.tl_model(self._chip, timing, ctypes.c_uint64(self._memory_seed))

    def close(self) -> None:
        """Free the simulator."""
        if self._chip:
            self._library.tl_delete(self._chip)
            self._chip = ctypes.c_void_p()

    def _write(self, select: int, address: int, value: int) -> None:
        words = (ctypes.c_uint32 * 16)(*(value >> 32 * i & 0xFFFFFFFF for i in range(16)))
        self._library.tl_config(self._chip, select, address, words)

    def _configure(self) -> None:
        for select, address, word in configuration(self.program, self.hardware):
            self._write(select, address, word)

    def hold(self, mode: int, argument: int = 0) -> None:
        """Inject stalls: `Hold.EVERY` after each belt cycle, RANDOM (seed), AT one belt cycle."""
        self._library.tl_hold(self._chip, mode, ctypes.c_uint64(argument))

    def fail_at(self, channel: int, address: int, times: int = -1) -> None:
        """Answer bursts with that byte of a channel with an error, so often (-1: always).

        Raises
        ------
        TokenloomError
            When the memory is ideal, or there is no such channel.
        """
        if self._profile is None:
            raise TokenloomError("the ideal memory has no errors; allowed is a memory with a model")
        columns = self.hardware.array.columns
        if not 0 <= channel < columns:
            raise TokenloomError(f"channel is {channel}; allowed: 0 to {columns - 1}")
        self._library.tl_error(self._chip, channel, ctypes.c_int64(address), ctypes.c_int64(times))

    def pending(self) -> int:
        """Bursts that the memory has taken and not answered in full."""
        columns = self.hardware.array.columns
        return sum(self._library.tl_pending(self._chip, channel) for channel in range(columns))

    def memory_counters(self) -> list[Counters]:
        """What each channel's memory has done; all zero for the ideal memory."""
        result = []
        for channel in range(self.hardware.array.columns):
            result.append(Counters())
            self._library.tl_counters(self._chip, channel, ctypes.byref(result[-1]))
        return result

    def _set_sampling(self, sampling: Sampling) -> None:
        settings = sampling.settings(self.model)
        value, count = settings.word(), -(-SAMPLING.size // 32)
        words = (ctypes.c_uint32 * count)(*(value >> 32 * i & 0xFFFFFFFF for i in range(count)))
        self._library.tl_sampling(self._chip, words, count)
        for address, (token, bias) in enumerate(sampling.biases(self.model)):
            self._write(Select.BIASES, address, bias_word(token, bias))

    def generate(
        self,
        prompt: Sequence[int],
        new: int,
        eos: Sequence[int] = (),
        slot: int = 0,
        *,
        sampling: Sampling = GREEDY,
    ) -> Iterator[PassRecord]:
        """Play a prompt and sample; yields every pass as it ends.

        The chip compares with the first `EOS_IDS` of `eos`, this method with the others.

        Raises
        ------
        TokenloomError
            When the prompt is empty or too long, the chip's sampler cannot do what is asked, the
            chip hangs, finds no KV page or gives up on a memory error, or a rule of the memory's
            protocol is broken.
        """
        self._request(prompt, new, eos, slot, sampling)
        token = ctypes.c_uint32()
        answers = True
        try:
            while True:
                status = self._sliced(self._library.tl_run, ctypes.byref(token))
                answers = status not in (4, 5, 6)
                if status == 6:
                    raise TokenloomError(self._broken_rule())
                if status == 3:
                    self._raise_memory_error()
                    raise TokenloomError(
                        "the chip ended the request: no free KV page, its context is full, or a "
                        "token is none of the model's"
                    )
                if status == 4:
                    raise TokenloomError(f"the chip did not answer within {_PATIENCE} cycles")
                if status == 5:
                    raise TokenloomError("the chip asked for an address outside its memory")
                yield self._record(int(token.value) if status else None)
                if status == 2 or (status and token.value in eos):
                    self._sliced(self._library.tl_finish)
                    return
        finally:
            # Whoever leaves early, by Ctrl-C say, shall not wait for the end of the request.
            self._abandoned = answers

    def _request(
        self, prompt: Sequence[int], new: int, eos: Sequence[int], slot: int, sampling: Sampling
    ) -> None:
        check_request(self.model, prompt, new)
        check_sampler(sampling, self.hardware.sampler.candidates)
        slots = self.hardware.memory.slots
        if not 0 <= slot < slots:
            raise TokenloomError(f"slot is {slot}; allowed: 0 to {slots - 1}")
        if self._abandoned:  # the rest of that request is not this one's
            self._sliced(self._library.tl_finish)
            self._abandoned = False
        tokens = (ctypes.c_uint32 * len(prompt))(*prompt)
        known = tuple(eos)[:EOS_IDS]
        ends = (ctypes.c_uint32 * EOS_IDS)(*known)
        self._set_sampling(sampling)
        self._library.tl_request(self._chip, tokens, len(prompt), new, slot, ends, len(known))

    def begin(self, prompt: Sequence[int], new: int, cycles: int, slot: int = 0) -> None:
        """Send a request and let some cycles pass; nobody listens to it."""
        self._request(prompt, new, (), slot, GREEDY)
        self._abandoned = True
        self.wait(cycles)

    def wait(self, cycles: int) -> None:
        """Let cycles pass.

        Raises
        ------
        TokenloomError
            When the chip asks for an address outside its memory or breaks a rule of the protocol.
        """
        token = ctypes.c_uint32()
        end = self._library.tl_cycles(self._chip) + cycles
        while (left := end - self._library.tl_cycles(self._chip)) > 0:
            status = self._library.tl_run(
                self._chip, ctypes.c_int64(min(left, _SLICE)), ctypes.byref(token)
            )
            if status == 5:
                raise TokenloomError("the chip asked for an address outside its memory")
            if status == 6:
                raise TokenloomError(self._broken_rule())

    def _sliced(self, function: Callable[..., int], *arguments: object) -> int:
        """Play for up to `_PATIENCE` cycles until something happens, and see Ctrl-C meanwhile."""
        for _ in range(-(-_PATIENCE // _SLICE)):
            status = function(self._chip, ctypes.c_int64(_SLICE), *arguments)
            if status != 4:
                break
        return status

    def _raise_memory_error(self) -> None:
        address, write = ctypes.c_uint64(), ctypes.c_int()
        channel = self._library.tl_fault(self._chip, ctypes.byref(address), ctypes.byref(write))
        if channel >= 0:
            raise MemoryFault(
                channel=channel,
                address=address.value,
                write=bool(write.value),
                attempts=self.hardware.memory.retries + 1,
            )

    def _broken_rule(self) -> str:
        rule, text = ctypes.c_char_p(), ctypes.c_char_p()
        cycle, address = ctypes.c_int64(), ctypes.c_uint64()
        found = (rule, text, cycle, address)
        channel = self._library.tl_broken(self._chip, *(ctypes.byref(value) for value in found))
        return broken_rule(
            (rule.value or b"").decode(), (text.value or b"").decode(), f"channel {channel}",
            cycle.value, address.value,
        )  # fmt: skip

    def _record(self, token: int | None) -> PassRecord:
        count = self._library.tl_passes(self._chip, None)
        passes = np.zeros(count, PASS)
        self._library.tl_passes(self._chip, passes.ctypes.data_as(ctypes.c_void_p))
        row = passes[-1]
        logits = None
        if row["sample"]:
            logits = np.zeros((row["rows"], self.model.head.rows), np.int32)
            for r in range(row["rows"]):
                size = self._library.tl_logits(self._chip, r, None)
                if size != logits.shape[1]:
                    raise TokenloomError(f"row {r} gave {size} logits; expected {logits.shape[1]}")
                self._library.tl_logits(self._chip, r, logits[r].ctypes.data_as(ctypes.c_void_p))
        return PassRecord(
            rows=int(row["rows"]),
            pos=int(row["pos"]),
            sample=bool(row["sample"]),
            elapsed=int(row["elapsed"]),
            scheduled=int(row["scheduled"]),
            stalls={name: int(row["stall_" + name]) for name in ("tape", "row", "kv", "other")},
            beats=int(row["beats"]),
            saturated=int(row["saturated"]),
            logits=logits,
            token=token,
        )

    def taps(self) -> npt.NDArray[np.uint32]:
        """Records of the last pass, [belt cycles with an output, `taps.tap_words`]."""
        words = np.zeros(self._library.tl_taps(self._chip, None), np.uint32)
        self._library.tl_taps(self._chip, words.ctypes.data_as(ctypes.c_void_p))
        return words.reshape(-1, tap_words(self.hardware))

    def events(self) -> list[Event]:
        """Starts and ends of every operation so far."""
        count = self._library.tl_events(self._chip, None)
        events = np.zeros(count, _EVENT)
        self._library.tl_events(self._chip, events.ctypes.data_as(ctypes.c_void_p))
        return [
            Event(
                number=int(e["pass"]),
                unit=Unit(int(e["unit"])),
                finished=bool(e["finished"]),
                cycle=int(e["cycle"]),
            )
            for e in events
        ]
