"""How far a unit is in a queue of which instructions may be passed over."""

from __future__ import annotations

from types import SimpleNamespace

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.sequencer.isa import DONE_BITS
from tokenloom.hw.verilog.block import Block

__all__ = ["InFlight"]


class InFlight(Block):
    """Counts a queue's instructions before which nothing is left to do.

    What is passed over counts as done once everything before it is. So the count is the place of
    the oldest operation in flight, or of the queue's head if there is none.

    Parameters
    ----------
    depth : int
        Operations that can be in flight, and that never are more: a power of two, 2 or more.

    Members
    -------
    restart : In(1), a pass begins; nothing is in flight
    position : In(DONE_BITS), place of the instruction at the queue's head
    issue : In(1), it is issued; finished : In(1), the oldest operation in flight is over
    done : Out(DONE_BITS), the count; idle : Out(1), nothing is in flight

    Latency
    -------
    One cycle from `issue` and `finished`.
    """

    def __init__(self, *, depth: int) -> None:
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth is {depth}; allowed: powers of two from 2 on")
        self._depth = depth
        super().__init__(
            {
                "restart": In(1),
                "position": In(DONE_BITS),
                "issue": In(1),
                "finished": In(1),
                "done": Out(DONE_BITS),
                "idle": Out(1),
            },
            params=(depth,),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.places = memory = Memory(shape=DONE_BITS, depth=self._depth, init=[])
        write, read = memory.write_port(), memory.read_port(domain="comb")
        # One bit more than an address, so that full is not empty.
        begun, over = Signal(range(2 * self._depth)), Signal(range(2 * self._depth))
        m.d.comb += [
            write.en.eq(self.issue),
            write.addr.eq(begun),
            write.data.eq(self.position),
            read.addr.eq(over),
            self.idle.eq(begun == over),
            self.done.eq(Mux(self.idle, self.position, read.data)),
        ]
        with m.If(self.restart):
            m.d.sync += [begun.eq(0), over.eq(0)]
        with m.Else():
            m.d.sync += [begun.eq(begun + self.issue), over.eq(over + self.finished)]
        # For proofs.
        self.inside = SimpleNamespace(begun=begun, over=over)
        return m
