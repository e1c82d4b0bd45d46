"""Drives a card through its registers: the same code for the simulated one and for a real one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tokenloom.compiler.errors import TokenloomError
from tokenloom.compiler.program import Program, configuration
from tokenloom.hw.card.counters import COUNTERS
from tokenloom.hw.card.identity import Identity
from tokenloom.hw.card.memory_test import Finding
from tokenloom.hw.card.register_map import CFG_WORDS, MAGIC, SETTINGS, Access, by_name
from tokenloom.hw.config import HardwareConfig
from tokenloom.hw.sampler.settings import Settings
from tokenloom.hw.sequencer.pass_control import EOS_IDS
from tokenloom.hw.sequencer.registers import Select, bias_word

__all__ = ["BusError", "Driver", "MemoryFinding", "RequestFailed", "Transport"]

_MAP = by_name()
_GREEDY = Settings()


class BusError(TokenloomError):
    """An access was answered by an error: `response` is SLVERR (2) or DECERR (3)."""

    def __init__(self, what: str, response: int) -> None:
        super().__init__(f"{what} was refused with {('SLVERR', 'DECERR')[response & 1]}")
        self.response = response


class RequestFailed(TokenloomError):
    """The card ended a request before its last token."""


class Transport(Protocol):
    """Reads and writes 32-bit registers by their byte offset."""

    def read(self, offset: int) -> int:
        """The register's value; raises BusError when the card refuses."""
        ...

    def write(self, offset: int, value: int) -> None:
        """Write all four bytes; raises BusError when the card refuses."""
        ...


@dataclass(frozen=True, kw_only=True)
class MemoryFinding:
    """The first bad place that the memory test found.

    Attributes
    ----------
    channel, address : int
        Channel, and the memory word in it.
    kind : Finding
    lane : int
        Which 32 bits of the word, with `Finding.BITS`.
    expected, found : int
        What should be there, and what was.
    """

    channel: int
    address: int
    kind: Finding
    lane: int
    expected: int
    found: int


class Driver:
    """A card.

    Parameters
    ----------
    transport : Transport
    hardware : HardwareConfig, optional
        What the card has to be made for.
    patience : float
        Seconds for which it may keep silent.

    Raises
    ------
    TokenloomError
        When it is no card, or made for another configuration.
    """

    def __init__(
        self, transport: Transport, hardware: HardwareConfig | None = None, patience: float = 60.0
    ) -> None:
        self._transport, self._patience = transport, patience
        self._words: list[int | None] = [None] * CFG_WORDS  # what CFG_DATA holds
        magic = self.read("MAGIC")["value"]
        if magic != MAGIC:
            raise TokenloomError(f"no tokenloom card: MAGIC is {magic:#010x}, not {MAGIC:#010x}")
        if hardware is not None and self.digest() != hardware.digest():
            raise TokenloomError(
                f"the card is made for another hardware configuration (digest "
                f"{self.digest()[:12]}) than '{hardware.name}' ({hardware.digest()[:12]})"
            )

    # Registers.

    def read(self, name: str) -> dict[str, int]:
        """Field -> value of a register."""
        register = _MAP[name]
        return register.unpack(self._transport.read(register.offset))

    def write(self, name: str, **fields: int) -> None:
        """Write a register; fields not named are zero.

        Raises
        ------
        BusError
            When the card refuses it.
        ValueError
            When there is no such field, or the value does not fit.
        """
        register = _MAP[name]
        if register.access not in (Access.STORED, Access.COMMAND):
            raise ValueError(f"{name} cannot be written")
        try:
            self._transport.write(register.offset, register.pack(**fields))
        except BusError as error:
            given = ", ".join(f"{field}={value}" for field, value in fields.items())
            raise BusError(f"{name} {given}".strip(), error.response) from None

    def _value(self, name: str) -> int:
        return self.read(name)["value"]

    def _until(self, what: str, **status: int) -> None:
        """Wait until STATUS has these fields."""
        end = time.monotonic() + self._patience
        while True:
            now = self.read("STATUS")
            if all(now[name] == value for name, value in status.items()):
                return
            if time.monotonic() > end:
                raise TokenloomError(f"the card did not {what} in {self._patience} s: {now}")

    # Identity.

    def identity(self) -> Identity:
        """The generator that made the card."""
        version, build = self.read("VERSION"), self.read("BUILD")
        return Identity(
            version=f"{version['major']}.{version['minor']}.{version['patch']}",
            git="".join(f"{self._value(f'GIT{i}'):08x}" for i in range(5))
            if build["git_known"]
            else None,
            modified=bool(build["git_modified"]),
        )

    def digest(self) -> str:
        """Digest of the hardware configuration, as `HardwareConfig.digest` has it."""
        return "".join(f"{self._value(f'DIGEST{i}'):08x}" for i in range(8))

    # Work.

    def configure(self, program: Program, hardware: HardwareConfig, vocab: int) -> None:
        """Reset, since the chip reads ahead, and write a model's program.

        The model's weights have to lie in the memory.

        Parameters
        ----------
        program : Program
        hardware : HardwareConfig
        vocab : int
            Ids that prompts may have.
        """
        self.reset()
        for select, address, word in configuration(program, hardware):
            self._configure(select, address, word)
        self.write("VOCAB", value=vocab)

    def _configure(self, select: int, address: int, word: int) -> None:
        for i in range(CFG_WORDS):
            part = word >> 32 * i & 0xFFFFFFFF
            if self._words[i] != part:
                self.write(f"CFG_DATA{i}", value=part)
                self._words[i] = part
        self.write("CFG_WRITE", address=address, select=select)

    def generate(
        self,
        prompt: Sequence[int],
        new: int,
        eos: Sequence[int] = (),
        slot: int = 0,
        *,
        settings: Settings = _GREEDY,
        biases: Sequence[tuple[int, int]] = (),
    ) -> Iterator[int]:
        """Play a prompt and give the tokens as they come, the one that ends the text as well.

        Whoever leaves early aborts the request. `settings` and `biases` are the sampler's as the
        chip takes them (`hw.sampler.settings`).

        Raises
        ------
        RequestFailed
            When the card ends the request: no KV page is free, the context is full, or the memory
            failed.
        BusError
            When it refuses the request or one of the prompt's ids.
        """
        known = tuple(eos)[:EOS_IDS]
        self.write("REQ_TOKENS", count=len(prompt))
        self.write("REQ_NEW", count=new)
        self.write("REQ_SLOT", slot=slot)
        for i, token in enumerate(known):
            self.write(f"REQ_EOS{i}", value=token)
        self.write("REQ_EOS_USED", mask=(1 << len(known)) - 1)
        self.write("REQ_SEED_LOW", value=settings.seed & 0xFFFFFFFF)
        self.write("REQ_SEED_HIGH", value=settings.seed >> 32)
        for name in SETTINGS:
            fields = (field.name for field in _MAP[name].fields)
            self.write(name, **{field: getattr(settings, field) for field in fields})
        for address, (token, bias) in enumerate(biases[: settings.biases]):
            self._configure(Select.BIASES, address, bias_word(token, bias))
        self.write("START", go=1)
        waiting = list(reversed(prompt))
        over = False
        end = time.monotonic() + self._patience
        try:
            while True:
                for _ in range(min(len(waiting), self.read("PROMPT_ROOM")["count"])):
                    self.write("PROMPT", value=waiting.pop())
                output = self.read("ANSWER")
                if not output["valid"]:
                    if time.monotonic() > end:
                        raise TokenloomError(f"no token from the card in {self._patience} s")
                    continue
                if output["failed"]:
                    self._explain()
                over = bool(output["last"])
                yield output["token"]
                if over or output["token"] in eos:
                    return
                end = time.monotonic() + self._patience
        finally:
            if not over:
                self.abort()

    def _explain(self) -> None:
        if self.read("STATUS")["fault"]:
            fault = self.read("FAULT")
            address = self._value("FAULT_LOW") | self._value("FAULT_HIGH") << 32
            raise RequestFailed(
                f"memory error: a {'write to' if fault['write'] else 'read of'} channel "
                f"{fault['channel']}, address {address:#x}, failed in every attempt; the request "
                "has ended"
            )
        raise RequestFailed(
            "the card ended the request: no free KV page, its context is full, or an id is none "
            "of the model's"
        )

    def abort(self) -> None:
        """End the request, when there is one, and drop what it leaves behind."""
        self.write("COMMAND", abort=1)
        self._until("come to rest", idle=1)
        while self.read("ANSWER")["valid"]:
            pass

    def reset(self) -> None:
        """Reset all but the registers; `configure` has to follow."""
        self.write("COMMAND", reset=1)
        self._until("reset", idle=1)

    def test_memory(self, *, first: int, words: int, seed: int = 0) -> MemoryFinding | None:
        """Reset, overwrite these words of every channel and read them back.

        Returns
        -------
        MemoryFinding or None
            The first bad place, None when all is well. `configure` has to follow, and the weights.
        """
        self.write("TEST_FIRST", value=first)
        self.write("TEST_WORDS", value=words)
        self.write("TEST_SEED", value=seed)
        self.write("COMMAND", test=1)
        self._until("end the memory test", idle=1)
        result = self.read("TEST_RESULT")
        if not result["done"]:
            raise TokenloomError("the memory test did not end")
        if not result["bad"]:
            return None
        return MemoryFinding(
            channel=result["channel"],
            address=self._value("TEST_ADDRESS"),
            kind=Finding(result["kind"]),
            lane=result["lane"],
            expected=self._value("TEST_EXPECTED"),
            found=self._value("TEST_FOUND"),
        )

    # Looking closely.

    def hold(self, on: bool = True) -> None:
        """Let the belt stand still, or run again."""
        self.write("CONTROL", hold=int(on))

    def step(self, cycles: int = 1) -> int:
        """While held: let belt cycles pass; returns how many did not, there being no pass."""
        self.write("STEP", cycles=cycles)
        left, same = cycles, 0
        # A pass that waits for the memory may take a while over a step.
        while left and same < 1000:
            now = self._value("STEPS_LEFT")
            same = same + 1 if now == left else 0
            left = now
        return left

    def counters(self) -> dict[str, int]:
        """All counters (`hw.counters.COUNTERS`) at one moment, since the last reset."""
        self.write("COMMAND", snapshot=1)
        return {
            name: self._value(f"{name.upper()}_LOW") | self._value(f"{name.upper()}_HIGH") << 32
            for name in COUNTERS
        }
