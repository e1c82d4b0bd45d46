"""What goes onto a board: the chip, its registers behind AXI4-Lite, and the memory's test."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, ResetSignal, Value
from amaranth.lib.wiring import In, Out

from tokenloom.hw.card.axi_lite import axi_lite_ports, connect_axi_lite
from tokenloom.hw.card.control import Control
from tokenloom.hw.card.identity import Identity
from tokenloom.hw.card.memory_test import MemoryTest
from tokenloom.hw.card.register_map import ADDRESS_BITS
from tokenloom.hw.chip import Chip
from tokenloom.hw.config import HardwareConfig
from tokenloom.hw.numbers.words import pick
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["Card"]

# The chip's memory ports whose master the test may be.
_MASTER = ("ar_valid", "ar_addr", "ar_len", "r_ready", "aw_valid", "aw_addr", "w_valid", "w_data",
           "w_strobe")  # fmt: skip
_SLAVE = ("ar_ready", "r_valid", "r_data", "r_resp", "r_last", "aw_ready", "w_ready", "b_valid",
          "b_resp")  # fmt: skip
# ... and those that are the same for both.
_FIXED = ("ar_id", "ar_size", "ar_burst", "aw_id", "aw_len", "aw_size", "aw_burst", "w_id",
          "w_last", "b_ready")  # fmt: skip

_HANDSHAKE = ("startable", "idle", "waiting")


class Card(Block):
    """The chip with all that a host needs; the top that `tokenloom generate` writes.

    Parameters
    ----------
    hardware : HardwareConfig
    identity : Identity
        What the card says of its origin.

    Members
    -------
    s_axi_* : AXI4-Lite, `register_map.REGISTERS`
    ar_*, r_*, aw_*, w_*, b_* : the memory channels, see `Chip`
    go : In(1), startable, idle, waiting : Out(1), for a kernel's handshake, see `Control`
    """

    belt = False

    def __init__(self, *, hardware: HardwareConfig, identity: Identity) -> None:
        self._hw, self._identity = hardware, identity
        self._chip = Chip(hardware=hardware)
        ports = self._chip.flat_ports()
        members: dict[str, Any] = axi_lite_ports(ADDRESS_BITS)
        for name in (*_MASTER, *_SLAVE, *_FIXED):
            value, flow = ports[name]
            members[name] = flow(len(value))
        members |= {"go": In(1), **{name: Out(1) for name in _HANDSHAKE}}
        super().__init__(members, params=(hardware.digest(), identity))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        hw, chip = self._hw, self._chip
        columns, port = hw.array.columns, hw.memory.port_bits
        control = Control(hardware=hw, identity=self._identity)
        test = MemoryTest(port_bits=port, channels=columns)
        reset = ResetSignal() | control.chip_reset
        m.submodules.chip = instance(chip, reset=reset)
        m.submodules.host_side = instance(control)
        m.submodules.memory_test = instance(test, reset=reset)

        # The host's side.
        own = control.signature.members
        others = chip.signature.members
        connect_axi_lite(m, self, control)
        for name, member in own.items():
            inner = getattr(control, name)
            if name in others:
                other = getattr(chip, name)
            elif name.startswith("test_") and name != "test_mine":
                other = getattr(test, name.removeprefix("test_"))
            else:
                continue
            m.d.comb += inner.eq(other) if member.flow is In else other.eq(inner)

        m.d.comb += control.go.eq(self.go)
        m.d.comb += [getattr(self, name).eq(getattr(control, name)) for name in _HANDSHAKE]

        # The memory's side. The chip's channels count what is under way: neither the test's answers
        # nor ready signals for its requests are theirs.
        chosen = [test.channel == c for c in range(columns)]
        mine = control.test_mine
        for name in _SLAVE:
            value = getattr(self, name)
            gated = value & ~mine.replicate(columns) if len(value) == columns else value
            m.d.comb += getattr(chip, name).eq(gated)
        for name in _FIXED:
            m.d.comb += getattr(self, name).eq(getattr(chip, name))
        for name in _MASTER:
            value = getattr(chip, name)
            if name.endswith("_valid"):
                tested = Cat(hit & getattr(test, name) for hit in chosen)
            elif name in ("w_strobe", "r_ready"):
                tested = Const(-1, len(value))
            else:
                tested = getattr(test, name).replicate(columns)
            m.d.comb += getattr(self, name).eq(Mux(mine, tested, value))

        for name in _SLAVE:
            packed = getattr(self, name)
            own_part: Value = pick(m, packed, test.channel, len(packed) // columns, columns)
            if name.endswith("_valid"):
                own_part &= mine
            m.d.comb += getattr(test, name).eq(own_part)
        return m
