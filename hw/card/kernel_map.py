"""The Vitis kernel's registers: one table for the decoder, kernel.xml, the C header and the docs.

A kernel's window begins with the control block that the vendor's runtime knows and the addresses of
its buffers; the card's own registers (`register_map.REGISTERS`) fill the upper half.
"""

from __future__ import annotations

from tokenloom.hw.card.register_map import ADDRESS_BITS, Access, Register, register

__all__ = ["BASES", "CARD_OFFSET", "EVENTS", "argument", "bus", "kernel_registers"]

CARD_OFFSET = 1 << ADDRESS_BITS - 1
"""Where the card's registers begin in the kernel's window."""
BASES = 0x010
"""Where the buffers' addresses begin: what is below belongs to the vendor's runtime."""
EVENTS = ("done", "ready", "token")
"""What may raise the interrupt, by its bit."""


def argument(channel: int) -> str:
    """The kernel's argument that holds a channel's buffer."""
    return f"mem{channel:02}"


def bus(channel: int) -> str:
    """The kernel's port of a channel."""
    return f"m_axi_{argument(channel)}"


def _events(what: str) -> list[tuple[str, int, str]]:
    texts = {"done": "A request has ended.", "ready": "The next one may start.",
             "token": "ANSWER has got a token."}  # fmt: skip
    return [(name, 1, f"{texts[name]}{what}") for name in EVENTS]


def kernel_registers(channels: int) -> tuple[Register, ...]:
    """The registers of a kernel with so many memory channels.

    Raises
    ------
    ValueError
        When there is no room for so many.
    """
    most = (CARD_OFFSET - BASES) // 8
    if not 1 <= channels <= most:
        raise ValueError(f"channels is {channels}; allowed: 1 to {most}")
    bases = []
    for channel in range(channels):
        name, offset = argument(channel).upper(), BASES + 8 * channel
        text = (
            f"Address of the buffer of channel {channel}; the lowest 12 bits count as zero. "
            "To be written before the configuration: the chip reads ahead."
        )
        bases += [
            register(f"{name}_LOW", offset, Access.STORED, text),
            register(f"{name}_HIGH", offset + 4, Access.STORED, "Its upper 32 bits."),
        ]
    return (
        register(
            "AP_CTRL", 0x000, Access.CONTROL, "The runtime's handshake, ap_ctrl_hs.",
            ("start", 1, "Written as 1: as START.go of the card; a request that the card refuses "
             "is done at once. Reads as 1 until the request has ended."),
            ("done", 1, "A request has ended; a read clears it."),
            ("idle", 1, "No request is under way."),
            ("ready", 1, "As done; a read clears it."),
        ),
        register("GIE", 0x004, Access.STORED, "", ("enable", 1, "Events may raise the interrupt.")),
        register("IER", 0x008, Access.STORED, "Events that ISR keeps.", *_events("")),
        register("ISR", 0x00C, Access.CONTROL, "Events since they were enabled; a 1 written "
                 "toggles its bit.", *_events("")),
        *bases,
    )  # fmt: skip
