"""Decodes AXI4-Lite accesses by a table of registers."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib.wiring import In, Out

from tokenloom.hw.card.axi_lite import AxiLite, axi_lite_ports, connect_axi_lite
from tokenloom.hw.card.register_map import ADDRESS_BITS, REGISTERS, Access, Register, by_name
from tokenloom.hw.memory.axi import Response
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["RegisterFile"]


class RegisterFile(Block):
    """A word per register of the table; each has ports of its lower-case name.

    An address without a register is answered by DECERR; an access that the register does not have,
    and a refused command, by SLVERR. A byte that is not strobed keeps its value in a stored
    register and is zero in a command; a command without any strobed byte does nothing.

    Parameters
    ----------
    registers : tuple of Register
    module_name : str
        The name of the module, when a chip has two of different tables.

    Members
    -------
    s_axi_* : AXI4-Lite, see `AxiLite`
    NAME : In, of a register that is read; with NAME_read : Out(1), strobe, when that takes it
    NAME : Out, of a stored register
    NAME : Out, NAME_write : Out(1), strobe, NAME_refused : In(1), of a command; the answer comes in
        the same cycle; NAME_denied : Out(1), strobe in place of NAME_write
    NAME : In, NAME_read : Out(1), strobe, of a control; NAME_data : Out, NAME_write : Out(1)
    refused : Out(1), strobe
        A command was refused.

    Latency
    -------
    That of `AxiLite`; a stored register changes in the cycle after its write.
    """

    belt = False

    def __init__(
        self,
        registers: tuple[Register, ...] = REGISTERS,
        *,
        module_name: str = "register_file",
    ) -> None:
        by_name(registers)
        self.module_name = module_name
        self._registers = registers
        members: dict[str, Any] = {**axi_lite_ports(ADDRESS_BITS), "refused": Out(1)}
        for register in registers:
            name = register.name.lower()
            match register.access:
                case Access.READ:
                    members[name] = In(register.bits)
                case Access.TAKE:
                    members |= {name: In(register.bits), f"{name}_read": Out(1)}
                case Access.STORED:
                    members[name] = Out(register.bits)
                case Access.CONTROL:
                    members |= {
                        name: In(register.bits),
                        f"{name}_read": Out(1),
                        f"{name}_data": Out(register.bits),
                        f"{name}_write": Out(1),
                    }
                case Access.COMMAND:
                    members |= {
                        name: Out(register.bits),
                        f"{name}_write": Out(1),
                        f"{name}_refused": In(1),
                        f"{name}_denied": Out(1),
                    }
        super().__init__(members, params=(registers,))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus = AxiLite(addr_bits=ADDRESS_BITS)
        m.submodules.axi_lite = instance(bus)
        connect_axi_lite(m, self, bus)
        mask, strobed = Signal(32), Signal(32)
        m.d.comb += [
            mask.eq(Cat(bit.replicate(8) for bit in bus.write_strobe)),
            strobed.eq(bus.write_data & mask),
        ]
        writable, readable, denied = [], [], []
        some = bus.write_strobe.any()
        for register in self._registers:
            name = register.name.lower()
            port = getattr(self, name)
            hit = bus.write_word == register.offset >> 2
            if register.access is Access.STORED:
                writable.append(hit)
                with m.If(bus.write & hit):
                    m.d.sync += port.eq((port & ~mask) | strobed)
            elif register.access is Access.COMMAND:
                no = Signal(name=f"{name}_no")
                m.d.comb += [
                    no.eq(hit & some & getattr(self, f"{name}_refused")),
                    port.eq(strobed),
                    getattr(self, f"{name}_write").eq(bus.write & hit & some & ~no),
                    getattr(self, f"{name}_denied").eq(bus.write & no),
                ]
                writable.append(hit)
                denied.append(no)
            elif register.access is Access.CONTROL:
                m.d.comb += [
                    getattr(self, f"{name}_data").eq(strobed),
                    getattr(self, f"{name}_write").eq(bus.write & hit & some),
                ]
                writable.append(hit)
            if register.access is not Access.COMMAND:
                readable.append(register)
            if register.access in (Access.TAKE, Access.CONTROL):
                taken = bus.read_word == register.offset >> 2
                m.d.comb += getattr(self, f"{name}_read").eq(bus.read & taken)
        offsets = [register.offset >> 2 for register in self._registers]

        def response(word: Value, good: Value) -> Value:
            return Mux(
                word.matches(*offsets), Mux(good, Response.OKAY, Response.SLVERR), Response.DECERR
            )

        no = Cat(denied).any()
        with m.Switch(bus.read_word):
            for register in readable:
                with m.Case(register.offset >> 2):
                    m.d.comb += bus.read_data.eq(getattr(self, register.name.lower()))
        m.d.comb += [
            self.refused.eq(bus.write & no),
            bus.write_resp.eq(response(bus.write_word, Cat(writable).any() & ~no)),
            bus.read_resp.eq(
                response(
                    bus.read_word,
                    bus.read_word.matches(*(register.offset >> 2 for register in readable)),
                )
            ),
        ]
        return m
