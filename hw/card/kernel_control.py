"""The registers that the vendor's runtime expects of a kernel, and the kernel's interrupt."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib.wiring import In, Out

from tokenloom.hw.card.axi_lite import axi_lite_ports, connect_axi_lite
from tokenloom.hw.card.kernel_map import EVENTS, argument, kernel_registers
from tokenloom.hw.card.register_file import RegisterFile
from tokenloom.hw.card.register_map import ADDRESS_BITS
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["KernelControl"]


class KernelControl(Block):
    """Control block (ap_ctrl_hs), interrupt and base addresses of a kernel.

    Parameters
    ----------
    channels : int

    Members
    -------
    s_axi_* : AXI4-Lite, `kernel_map.kernel_registers`
    base : Out(64 channels)
        The buffers' addresses.
    go : Out(1)
        Starts the request that the card's registers describe, for one cycle.
    startable : In(1)
        The card takes `go` in this cycle.
    idle : In(1), low from the cycle after a taken `go` until the request has ended
    waiting : In(1)
        ANSWER holds a token.
    irq : Out(1)
        The interrupt, a level
    """

    belt = False

    def __init__(self, *, channels: int) -> None:
        self._channels, self._registers = channels, kernel_registers(channels)
        members: dict[str, Any] = {
            **axi_lite_ports(ADDRESS_BITS),
            "base": Out(64 * channels),
            "go": Out(1),
            "startable": In(1),
            "idle": In(1),
            "waiting": In(1),
            "irq": Out(1),
        }
        super().__init__(members, params=(channels,))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        regs = RegisterFile(self._registers, module_name="kernel_registers")
        m.submodules.registers = instance(regs)
        connect_axi_lite(m, self, regs)

        busy, done, start, ended = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            start.eq(regs.ap_ctrl_write & regs.ap_ctrl_data[0] & ~busy),
            self.go.eq(start),
            ended.eq((busy & self.idle) | (start & ~self.startable)),
            regs.ap_ctrl.eq(Cat(busy, done, self.idle & ~busy, done)),
        ]
        with m.If(busy & self.idle):
            m.d.sync += busy.eq(0)
        with m.If(start & self.startable):
            m.d.sync += busy.eq(1)
        # An end in the cycle of a read is kept for the next one.
        with m.If(ended):
            m.d.sync += done.eq(1)
        with m.Elif(regs.ap_ctrl_read):
            m.d.sync += done.eq(0)

        events, waited = Signal(len(EVENTS)), Signal()
        status = Signal(len(EVENTS))
        toggles = regs.isr_data[: len(EVENTS)] & regs.isr_write.replicate(len(EVENTS))
        m.d.comb += [
            events.eq(Cat(ended, ended, self.waiting & ~waited)),
            regs.isr.eq(status),
        ]
        m.d.sync += [
            waited.eq(self.waiting),
            status.eq((status ^ toggles) | (events & regs.ier)),
            self.irq.eq(regs.gie[0] & status.any()),
        ]
        m.d.comb += self.base.eq(
            Cat(
                getattr(regs, f"{argument(channel)}_{half}")
                for channel in range(self._channels)
                for half in ("low", "high")
            )
        )
        return m
