"""Amaranth's queues as the chip uses them, against what a FIFO is, for a model checker.

Each word pushed carries its own number (modulo 2^5). What comes out has to be numbered without a
gap, nothing is taken when there is no room, and `level` is what lies between.
"""

from unittest import mock

from amaranth.hdl import Assert, Assume, Cover, Elaboratable, Module, Mux, ResetSignal, Signal
from amaranth.lib import fifo

from tests.formal.registers import Registers

__all__ = ["FifoProof"]

COUNT = 5


class FifoProof(Elaboratable):
    """Pushes and pops as the environment likes.

    Parameters
    ----------
    kind : type
        `SyncFIFO` or `SyncFIFOBuffered`.
    depth : int
    full : int, optional
        What `level` never exceeds; `depth`, if the queue is right.
    """

    def __init__(self, kind, *, depth, full=None):
        self.block = kind(width=COUNT, depth=depth)
        self.block._MustUse__silence = True  # only what it elaborates to is used
        self.buffered = kind is fifo.SyncFIFOBuffered
        self.full = depth if full is None else full
        self.ports = [self.block.w_en, self.block.r_en]

    def elaborate(self, platform):
        m = Module()
        block = self.block
        with mock.patch.object(fifo, "Memory", Registers):
            m.submodules.block = inside = block.elaborate(None)
        storage = inside.submodules.storage
        came, went = Signal(COUNT), Signal(COUNT)
        push, pop = block.w_en & block.w_rdy, block.r_en & block.r_rdy
        m.d.comb += [Assume(~ResetSignal()), block.w_data.eq(came)]
        m.d.sync += [came.eq(came + push), went.eq(went + pop)]
        held = (came - went)[:COUNT]
        m.d.comb += [Assert(held == block.level), Assert(held <= self.full)]
        with m.If(block.r_rdy):
            m.d.comb += [Assert(block.r_data == went), Assert(held.any())]
        # Room is offered whenever there is some, and a word is not held back for more than a
        # cycle.
        size, shown = len(storage.rows), block.r_rdy if self.buffered else 0
        stored = Signal(range(size + 1))
        waiting = Signal(2)
        m.d.sync += waiting.eq(Mux(held.any() & ~block.r_rdy, waiting + 1, 0))
        m.d.comb += [
            stored.eq(block.level - shown),
            Assert(block.w_rdy == (stored != size)),
            Assert(waiting <= int(self.buffered)),
        ]

        # Invariants: what lies where.
        head, tail = storage.read.addr, storage.write.addr
        m.d.comb += [
            Assert(stored <= size),
            Assert((head < size) & (tail < size)),
            Assert(tail == Mux(head + stored >= size, head + stored - size, head + stored)),
            Assert(~stored.any() | block.r_rdy | ~waiting.any()),
        ]
        for i in range(size):
            place = Mux(head + i >= size, head + i - size, head + i)
            with m.If(stored > i):
                m.d.comb += Assert(storage.rows[place] == (went + shown + i)[:COUNT])
        m.d.comb += Cover((block.level == self.full) & (went == 2 * size + 1))
        return m
