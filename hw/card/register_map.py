"""The card's registers: one table from which the decoder, the C header, the driver and the
documentation come (`hw/card/register_file.py`, `hw/card/register_texts.py`, `host/driver.py`).

Registers have 32 bits, offsets are in bytes. Fields lie side by side from bit 0 unless `low` says
otherwise; what no field covers reads as zero.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from tokenloom.hw.card.counters import COUNTERS
from tokenloom.hw.sampler.settings import BIASES_MAX, FIELDS, WINDOW_MAX
from tokenloom.hw.sequencer.isa import Unit
from tokenloom.hw.sequencer.pass_control import EOS_IDS
from tokenloom.hw.sequencer.registers import Select

__all__ = [
    "ADDRESS_BITS",
    "CFG_WORDS",
    "MAGIC",
    "REGISTERS",
    "SETTINGS",
    "Access",
    "Field",
    "Register",
    "by_name",
    "register",
]

MAGIC = 0x544C4F4D
"""What the first register holds: "TLOM"."""
ADDRESS_BITS = 12
"""Byte addresses of the window: 4 KiB, the least that a PCIe or AXI interconnect maps."""
CFG_WORDS = 16
"""32-bit words of a configuration write."""


class Access(enum.Enum):
    """What a register does when it is read or written; anything else is answered by SLVERR."""

    READ = "r"
    """Shows what the card says."""
    STORED = "rw"
    """Holds what was written."""
    COMMAND = "w"
    """A write does something, once; it may be refused with SLVERR."""
    TAKE = "r, takes"
    """A read takes the value away."""
    CONTROL = "rw, acts"
    """A read shows what the card says, reads and writes do something."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """Bits of a register."""

    name: str
    bits: int
    text: str
    low: int


@dataclass(frozen=True, kw_only=True)
class Register:
    """One word of the window; `text` says what it is for."""

    name: str
    offset: int
    access: Access
    text: str
    fields: tuple[Field, ...]

    @property
    def bits(self) -> int:
        """Bits up to the end of the highest field."""
        return max(field.low + field.bits for field in self.fields)

    def pack(self, **values: int) -> int:
        """The word with these fields, zero elsewhere.

        Raises
        ------
        ValueError
            When there is no such field, or a value does not fit.
        """
        word = 0
        fields = {field.name: field for field in self.fields}
        for name, value in values.items():
            if name not in fields:
                raise ValueError(f"{self.name} has no field {name}; it has {', '.join(fields)}")
            field = fields[name]
            if not 0 <= value < 1 << field.bits:
                raise ValueError(
                    f"{self.name}.{name} is {value}; allowed: 0 to {(1 << field.bits) - 1}"
                )
            word |= value << field.low
        return word

    def unpack(self, word: int) -> dict[str, int]:
        """Field -> its value in a word."""
        return {f.name: word >> f.low & ((1 << f.bits) - 1) for f in self.fields}


def register(
    name: str,
    offset: int,
    access: Access,
    text: str,
    *fields: tuple[str, int, str] | tuple[str, int, str, int],
) -> Register:
    """A register; its fields are (name, bits, text) or (name, bits, text, low), none: 32 bits."""
    placed, at = [], 0
    for field in fields or (("value", 32, ""),):
        low = field[3] if len(field) == 4 else at
        placed.append(Field(name=field[0], bits=field[1], text=field[2], low=low))
        at = low + field[1]
    return Register(name=name, offset=offset, access=access, text=text, fields=tuple(placed))


def _several(name: str, offset: int, count: int, access: Access, text: str) -> list[Register]:
    return [
        register(f"{name}{i}", offset + 4 * i, access, text if i == 0 else "The next 32 bits.")
        for i in range(count)
    ]


def _counters(offset: int) -> list[Register]:
    found = []
    for name, text in COUNTERS.items():
        for half, which in (("LOW", text), ("HIGH", "Its upper 32 bits.")):
            found.append(register(f"{name.upper()}_{half}", offset, Access.READ, which))
            offset += 4
    return found


_R, _RW, _W, _TAKE = Access.READ, Access.STORED, Access.COMMAND, Access.TAKE
_SELECTS = ", ".join(
    [*(f"{unit.value} queue of {unit.name.lower()}" for unit in Unit)]
    + [f"{value} {name.lower()}" for name, value in vars(Select).items() if name.isupper()]
)

REGISTERS: tuple[Register, ...] = (
    # Who the card is.
    register("MAGIC", 0x000, _R, f"Always {MAGIC:#010x}."),
    register("VERSION", 0x004, _R, "Version of the generator.",
             ("patch", 8, ""), ("minor", 8, ""), ("major", 8, "")),
    register("BUILD", 0x008, _R, "What is known of the generator's sources.",
             ("git_known", 1, "GIT0 to GIT4 hold the commit."),
             ("git_modified", 1, "There were changes on top of it.")),
    *_several("GIT", 0x010, 5, _R, "The commit, its first eight hexadecimal digits first."),
    *_several("DIGEST", 0x030, 8, _R,
             "SHA-256 of the hardware configuration, its first eight hexadecimal digits first."),
    register("SHAPE", 0x050, _R, "The chip.",
             ("columns", 9, "Memory channels."), ("rows", 6, "Tokens per pass."),
             ("port_bytes", 8, "Bytes of a memory word.", 16),
             ("candidates", FIELDS["count"], "Ids in the sampler's list; 0: no settings but seed "
              "and temperature.")),
    # What it does.
    register("CONTROL", 0x080, _RW, "",
             ("hold", 1, "The belt stands still but for the cycles that STEP grants.")),
    register("COMMAND", 0x084, _W, "Set bits are done at once. Refused while a reset or a memory "
             "test is under way, but for snapshot and clear.",
             ("abort", 1, "End the request, when there is one, and drop the rest of its prompt."),
             ("reset", 1, "Abort, await the memory's answers, then reset all but these registers; "
              "the configuration has to be written again."),
             ("test", 1, "Reset, then test the memory as TEST_* say; overwrites it."),
             ("snapshot", 1, "Copy all counters to where they are read."),
             ("clear", 1, "Clear STATUS.refused.")),
    register("STATUS", 0x088, _R, "",
             ("idle", 1, "Configuration writes and a request are welcome."),
             ("configured", 1, "The model's registers were written since the last reset."),
             ("aborting", 1, ""), ("resetting", 1, ""), ("testing", 1, ""),
             ("fault", 1, "A memory error ended the last request; FAULT says where."),
             ("refused", 1, "A write was refused since the last COMMAND.clear.")),
    register("STEP", 0x08C, _W, "With CONTROL.hold: let so many belt cycles pass, on top of those "
             "not yet passed.", ("cycles", 32, "")),
    register("STEPS_LEFT", 0x090, _R, "Belt cycles granted and not yet passed."),
    register("FAULT", 0x094, _R, "Burst that failed in every attempt.",
             ("channel", 8, ""), ("write", 1, "It was a write.")),
    register("FAULT_LOW", 0x098, _R, "Its byte address in the channel."),
    register("FAULT_HIGH", 0x09C, _R, "Its upper 32 bits."),
    # Configuration.
    register("CFG_WRITE", 0x0C0, _W,
             "Writes CFG_DATA* to the chip; refused unless idle, and a bias whose id is not below "
             "VOCAB. Target 8 comes last, after it "
             f"nothing without a reset, but for target {Select.BIASES}: the chip reads ahead. "
             f"Targets: {_SELECTS}.",
             ("address", 20, ""), ("select", 4, "", 24)),
    *_several("CFG_DATA", 0x100, CFG_WORDS, _RW, "The word to write, lowest bits first."),
    # Requests.
    register("VOCAB", 0x140, _RW, "Ids in the model's vocabulary; PROMPT refuses others."),
    register("REQ_TOKENS", 0x144, _RW, "Tokens in the prompt.", ("count", 20, "")),
    register("REQ_NEW", 0x148, _RW, "Most tokens to generate.", ("count", 20, "")),
    register("REQ_SLOT", 0x14C, _RW, "Sequence.", ("slot", 16, "")),
    register("REQ_EOS_USED", 0x150, _RW, "Which of REQ_EOS* end the text.",
             ("mask", EOS_IDS, "")),
    *_several("REQ_EOS", 0x154, EOS_IDS, _RW, "An id that ends the text."),
    register("REQ_SEED_LOW", 0x164, _RW, "Seed of the draws."),
    register("REQ_SEED_HIGH", 0x168, _RW, "Its upper 32 bits."),
    register("REQ_TEMPERATURE", 0x16C, _RW, "Scale of the noise on the logits, as "
             "`hw.sampler.settings` has it; mantissa 0: the largest logit wins.",
             ("mantissa", FIELDS["mantissa"], ""), ("shift", FIELDS["shift"], "")),
    register("START", 0x170, _W, "Begins the request that REQ_* describe. Refused unless idle, "
             "configured, with ANSWER empty, at least one token in the prompt and one to "
             "generate, and a slot that exists.", ("go", 1, "")),
    register("PROMPT", 0x174, _W, "A token of the prompt, before START or after it. Refused when "
             "there is no room, and when it is no id below VOCAB."),
    register("PROMPT_ROOM", 0x178, _R, "Tokens that PROMPT takes now.", ("count", 16, "")),
    register("ANSWER", 0x17C, _TAKE, "The oldest token generated.",
             ("token", 29, ""), ("last", 1, "The request has ended."),
             ("failed", 1, "It ended early and this is no token: aborted, no page free, context "
              "full, or STATUS.fault."),
             ("valid", 1, "There was one.")),
    # Memory test.
    register("TEST_FIRST", 0x180, _RW, "First memory word of each channel to test."),
    register("TEST_WORDS", 0x184, _RW, "How many."),
    register("TEST_SEED", 0x188, _RW, "Exclusive-or of the pattern."),
    register("TEST_RESULT", 0x18C, _R, "",
             ("done", 1, "A test has ended since the last reset."),
             ("bad", 1, "It found an error; the other fields and TEST_* below are of the first."),
             ("kind", 2, "0: wrong bits, 1: error response to a read, 2: to a write."),
             ("lane", 4, "Which 32 bits of the word are wrong, from 0."), ("channel", 8, "", 8)),
    register("TEST_ADDRESS", 0x190, _R, "The word."),
    register("TEST_EXPECTED", 0x194, _R, "What was written to that lane."),
    register("TEST_FOUND", 0x198, _R, "What was read from it."),
    # The sampler's other settings; the biases are written with CFG_WRITE.
    register("REQ_CANDIDATES", 0x19C, _RW, "The list in which the cut-offs cut.",
             ("count", FIELDS["count"], "0: no list; START refuses more than SHAPE.candidates."),
             ("limited", 1, "Top-k: the draw is among `count` ids.")),
    register("REQ_SHARES", 0x1A0, _RW, "Cut-offs in 2^-16; 0: off.",
             ("top_p", FIELDS["top_p"], ""), ("min_p", FIELDS["min_p"], "")),
    register("REQ_POWER", 0x1A4, _RW, "log2(e) / T in units of a power.",
             ("power_mantissa", FIELDS["power_mantissa"], ""),
             ("power_shift", FIELDS["power_shift"], "")),
    register("REQ_PENALTY", 0x1A8, _RW, "Repetition penalty and its reciprocal in 2^-14.",
             ("up", FIELDS["up"], ""), ("down", FIELDS["down"], "")),
    register("REQ_RULES", 0x1AC, _RW, "",
             ("window", FIELDS["window"],
              f"Tokens in which repetitions are looked for; 0: off; START refuses {WINDOW_MAX + 1} "
              "and more."),
             ("biases", FIELDS["biases"],
              f"Entries of the table that count; ids ascend in it; START refuses {BIASES_MAX + 1} "
              "and more.")),
    *_counters(0x200),
)  # fmt: skip
"""Every register, in order of its offset."""

SETTINGS = (
    "REQ_TEMPERATURE", "REQ_CANDIDATES", "REQ_SHARES", "REQ_POWER", "REQ_PENALTY", "REQ_RULES",
)  # fmt: skip
"""Registers whose fields are the sampler's settings of these names, all but the seed."""


def by_name(registers: tuple[Register, ...] = REGISTERS) -> dict[str, Register]:
    """Name -> register.

    Raises
    ------
    ValueError
        When two registers share a name or an offset, an offset is no multiple of 4 or outside the
        window, or fields overlap or exceed 32 bits.
    """
    found: dict[str, Register] = {}
    offsets: dict[int, str] = {}
    for register in registers:
        name, offset = register.name, register.offset
        if name in found or offset in offsets:
            raise ValueError(f"{name} at {offset:#x} is already {offsets.get(offset, 'named')}")
        if offset % 4 or not 0 <= offset < 1 << ADDRESS_BITS:
            raise ValueError(
                f"{name} is at {offset:#x}; allowed: multiples of 4 below {1 << ADDRESS_BITS:#x}"
            )
        used = 0
        for field in register.fields:
            mask = (1 << field.bits) - 1 << field.low
            if field.bits < 1 or used & mask or mask >> 32:
                raise ValueError(f"{name}.{field.name} overlaps another field or leaves 32 bits")
            used |= mask
        found[name] = register
        offsets[offset] = name
    return found
