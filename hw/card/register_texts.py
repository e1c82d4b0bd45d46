"""The register table as documentation and as a C header.

`python -m tokenloom.hw.card.register_texts` prints docs/registers.md.
"""

from __future__ import annotations

from tokenloom.hw.card.kernel_map import CARD_OFFSET
from tokenloom.hw.card.register_map import ADDRESS_BITS, REGISTERS, Access, Register

__all__ = ["c_header", "kernel_header", "kernel_markdown", "markdown"]

_ACCESS = {
    Access.READ: "a read shows what the card says",
    Access.STORED: "holds what was written; zero after power-up, kept by a reset",
    Access.COMMAND: "a write does something once; SLVERR when it is refused",
    Access.TAKE: "a read takes the value away",
    Access.CONTROL: "a read shows what the card says; reads and writes do something",
}

_INTRODUCTION = f"""# Registers

Written by `python -m tokenloom.hw.card.register_texts` from `hw/card/register_map.py`, as are
the decoder, the driver's names and `tokenloom_registers.h`; do not edit it.

A card has one AXI4-Lite slave of 32 bits and {1 << ADDRESS_BITS:,} bytes. An address without a
register is answered by DECERR, an access that a register does not have by SLVERR. Unnamed bits
read as zero.

"""

_KERNEL_INTRODUCTION = f"""# The kernel's own registers

Written from `hw/card/kernel_map.py`. They are the lower half of the kernel's window; the card's
registers begin at {CARD_OFFSET:#x}.

"""


def markdown(registers: tuple[Register, ...] = REGISTERS) -> str:
    """The table, and what each field means."""
    return _INTRODUCTION + _table(registers)


def kernel_markdown(registers: tuple[Register, ...]) -> str:
    """The same of a kernel's own registers."""
    return _KERNEL_INTRODUCTION + _table(registers)


def _table(registers: tuple[Register, ...]) -> str:
    used = {register.access for register in registers}
    lines = [f"* `{access.value}`: {text}" for access, text in _ACCESS.items() if access in used]
    lines += ["", "| Offset | Register | Access | Fields | Meaning |", "|---|---|---|---|---|"]
    for register in registers:
        fields, meanings = [], [register.text]
        for field in register.fields:
            high = field.low + field.bits - 1
            span = f"{high}:{field.low}" if field.bits > 1 else f"{high}"
            whole = field.name == "value" and field.bits == 32
            if not whole:
                fields.append(f"`{field.name}` {span}")
            if field.text:
                meanings.append(f"`{field.name}`: {field.text}")
        lines.append(
            f"| {register.offset:#05x} | `{register.name}` | {register.access.value} | "
            f"{', '.join(fields)} | {' '.join(part for part in meanings if part)} |"
        )
    return "\n".join(lines) + "\n"


def c_header(registers: tuple[Register, ...] = REGISTERS) -> str:
    """Offsets, and for every field its position and mask: TL_NAME, TL_NAME_FIELD_LOW, ..._MASK."""
    return _header(
        "TOKENLOOM_REGISTERS_H",
        "Registers of a tokenloom card: written by `tokenloom generate`.",
        [("TL_WINDOW_BYTES", 1 << ADDRESS_BITS)],
        "TL",
        registers,
    )


def kernel_header(registers: tuple[Register, ...]) -> str:
    """The same of a kernel's own registers, TLK_...; TLK_CARD is where the card's begin."""
    return _header(
        "TOKENLOOM_KERNEL_H",
        "Registers of a tokenloom kernel: written by `tokenloom synth`.",
        [("TLK_CARD", CARD_OFFSET)],
        "TLK",
        registers,
    )


def _header(
    guard: str,
    title: str,
    constants: list[tuple[str, int]],
    prefix: str,
    registers: tuple[Register, ...],
) -> str:
    lines = [
        f"/* {title} Offsets are in bytes;",
        f"   a field is (word & {prefix}_..._MASK) >> {prefix}_..._LOW. */",
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
        *(f"#define {name} {value:#x}u" for name, value in constants),
    ]
    for register in registers:
        name = f"{prefix}_{register.name}"
        lines += [
            "",
            f"/* {': '.join(part for part in (register.access.value, register.text) if part)} */",
            f"#define {name} {register.offset:#05x}u",
        ]
        for field in register.fields:
            label = f"{name}_{field.name.upper()}"
            mask = (1 << field.bits) - 1 << field.low
            if field.text:
                lines.append(f"/* {field.text} */")
            lines += [f"#define {label}_LOW {field.low}u", f"#define {label}_MASK {mask:#010x}u"]
    return "\n".join([*lines, "", "#endif", ""])


if __name__ == "__main__":
    print(markdown(), end="")
