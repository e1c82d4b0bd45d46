"""A unit's queue against what playing a program means, for a model checker.

The program is any one, with any bits, that ends somewhere (`END`); behind that lies anything. It
stays as it is while it is played, from the cycle of the restart on: it is written between passes.
"""

from unittest import mock

from amaranth.hdl import Array, Assert, Assume, Cover, Elaboratable, Module, ResetSignal, Signal
from amaranth.lib import data

from tests.formal.registers import Registers
from tokenloom.hw.sequencer import unit_queue
from tokenloom.hw.sequencer.isa import CHUNK_LAYOUTS, DONE_BITS, LAYOUTS, Unit

__all__ = ["QueueProof"]

DEPTH = 4
UNIT = Unit.SOFTMAX


class QueueProof(Elaboratable):
    """Restarts, counts, readiness and what is passed over as the environment likes.

    Parameters
    ----------
    chunks : bool
        As the queue's.
    ends : bool
        The program has an end; without one, the assertions cannot hold.
    """

    def __init__(self, *, chunks, ends=True):
        self.chunks, self.ends = chunks, ends
        self.block = unit_queue.UnitQueue(unit=UNIT, depth=DEPTH, chunks=chunks)
        names = ["cfg_we", "cfg_addr", "cfg_data", "restart", "sample", "done", "ready"]
        self.end = Signal(range(DEPTH), name="END")
        self.ports = [getattr(self.block, name) for name in names + ["skip"] * chunks]
        self.ports.append(self.end)

    def elaborate(self, platform):
        m = Module()
        block = self.block
        with mock.patch.object(unit_queue, "Memory", Registers):
            m.submodules.block = inside = block.elaborate(None)
        rows = inside.submodules.program.rows
        layout = (CHUNK_LAYOUTS if self.chunks else LAYOUTS)[UNIT]
        m.d.comb += Assume(~ResetSignal())

        # The play: since the last restart `at` instructions were issued or passed over.
        playing, at = Signal(), Signal(range(DEPTH))
        word = Signal(layout.size)
        head = data.View(layout, word)
        ends, enough, skip = Signal(), Signal(), Signal()
        m.d.comb += [
            word.eq(rows[at]),
            skip.eq(block.skip if self.chunks else 0),
            ends.eq(head.header.stop | (head.header.sample_only & ~block.sample)),
            enough.eq(
                sum(
                    block.done.word_select(unit, DONE_BITS) < head.header.wait[unit]
                    for unit in Unit
                )
                == 0
            ),
            # The program is not written while it is played, nor as it begins.
            Assume(~block.cfg_we | ~playing & ~block.restart),
        ]
        goes, end = Signal(), Signal.like(self.end)
        ended = Array(data.View(layout, row).header.stop for row in rows)[self.end]
        m.d.comb += goes.eq(playing & ~ends & (skip | enough & block.ready))
        with m.If(block.restart):
            m.d.sync += [playing.eq(1), at.eq(0)]
        with m.Elif(playing):
            m.d.sync += at.eq(at + goes)
            with m.If(ends):
                m.d.sync += playing.eq(0)

        if self.ends:
            m.d.sync += end.eq(self.end)
            m.d.comb += [
                Assume(~block.restart | ended),
                Assume(~playing | block.restart | (self.end == end)),
                Assert(~playing | block.restart | ended & (at <= end)),
                Assert(~goes | block.restart | (at < end)),  # never behind the end
            ]

        # In the very cycle in which the unit and the counts allow it, each in order, none twice.
        m.d.comb += [
            Assert(block.issue == (goes & ~skip)),
            Assert(~block.issue | (block.op == word)),
            Assert(block.stopped == (~playing | ends)),
            Assert(~goes | (at < DEPTH - 1)),
        ]
        if self.chunks:
            with m.If(playing):
                m.d.comb += [Assert(block.head == word), Assert(block.position == at)]
        # Invariants: the word that was read is the one at the head.
        last = inside.submodules.program.read_port()
        m.d.comb += [
            Assert(~playing | (last.data == word)),
            Assert(block.inside.valid == playing),
            Assert(~playing | (block.inside.pc == at)),
        ]
        m.d.comb += Cover(playing & ends & (at == DEPTH - 1) & ~skip)
        return m
