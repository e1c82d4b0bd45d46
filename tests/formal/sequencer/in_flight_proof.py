"""How far a unit is in its queue, against what that means, for a model checker.

`PLACE` is any place of the queue. While its operation is in flight, the count is at most `PLACE`:
nobody who waits for it goes ahead; and the count is as large as it can be, and never falls.
"""

from unittest import mock

from amaranth.hdl import Assert, Assume, Cover, Elaboratable, Module, Mux, ResetSignal, Signal

from tests.formal.registers import Registers
from tokenloom.hw.sequencer import in_flight

__all__ = ["InFlightProof"]

DEPTH = 4


class InFlightProof(Elaboratable):
    """Issues, passes over and finishes as the environment likes, as the queue and the units do it.

    Parameters
    ----------
    bounded : bool
        No more operations in flight than there is room for.
    """

    def __init__(self, *, bounded=True):
        self.bounded = bounded
        self.block = in_flight.InFlight(depth=DEPTH)
        self.skip, self.place = Signal(name="skip"), Signal(len(self.block.done), name="PLACE")
        self.ports = [self.block.restart, self.block.issue, self.block.finished, self.skip]
        self.ports += [self.place]

    def elaborate(self, platform):
        m = Module()
        block = self.block
        with mock.patch.object(in_flight, "Memory", Registers):
            m.submodules.block = inside = block.elaborate(None)
        rows = inside.submodules.places.rows
        bits = len(block.done)
        place, position = Signal(bits), Signal(bits)
        first = Signal(init=1)
        m.d.sync += [first.eq(0), place.eq(self.place)]
        # One more than the last: the queue's head.
        with m.If(block.restart):
            m.d.sync += position.eq(0)
        with m.Else():
            m.d.sync += position.eq(position + (block.issue | self.skip))
        flying = Signal(range(DEPTH + 1))  # operations
        m.d.comb += [
            Assume(~ResetSignal()),
            Assume(first | (self.place == place)),
            block.position.eq(position),
            Assume(~(block.issue & self.skip)),
            # Program memories are far shorter than the counts are wide.
            Assume(position < (1 << bits) - 1),
            Assume(~block.finished | flying.any()),
        ]
        if self.bounded:
            m.d.comb += Assume(~block.issue | (flying < DEPTH))

        # PLACE's operation, and how many in flight are older.
        there, older = Signal(), Signal(range(DEPTH + 1))
        before = Signal(bits)
        with m.If(block.restart):
            m.d.sync += [flying.eq(0), there.eq(0), before.eq(0)]
        with m.Else():
            m.d.sync += [flying.eq(flying + block.issue - block.finished), before.eq(block.done)]
            with m.If(block.issue & (position == self.place)):
                m.d.sync += [there.eq(1), older.eq(flying - block.finished)]
            with m.Elif(there & block.finished):
                m.d.sync += [there.eq(older.any()), older.eq(older - 1)]
        m.d.comb += [
            Assert(block.idle == (flying == 0)),
            Assert(~there | (block.done <= self.place)),
            # As large as can be: PLACE's operation if it is the oldest, all if there is none.
            Assert(~(there & (older == 0)) | (block.done == self.place)),
            Assert(flying.any() | (block.done == position)),
            Assert(block.done >= before),
        ]
        # Invariants: the places in flight lie one behind the other, rising, below the head.
        begun, over = block.inside.begun, block.inside.over
        oldest = over[:-1]
        m.d.comb += [
            Assert((begun - over)[: len(over)] == flying),
            Assert(flying <= DEPTH),
            Assert(~there | (older < flying)),
        ]
        held = [Mux(flying > i, rows[(oldest + i)[: len(oldest)]], position) for i in range(DEPTH)]
        for i, (one, next_one) in enumerate(zip(held, [*held[1:], position], strict=True)):
            m.d.comb += Assert((flying <= i) | (one < next_one))
            m.d.comb += Assert(~(there & (older == i)) | (one == self.place))
            m.d.comb += Assert((flying <= i) | (before <= one))
        m.d.comb += Assert(before <= position)
        m.d.comb += Cover((flying == DEPTH) & (block.done == 3))
        return m
