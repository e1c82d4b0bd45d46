"""The receive buffer against what a FIFO is, for a model checker.

Each word pushed carries its own number (modulo 2^5). What comes out has to be numbered without a
gap; when the buffer is full it holds at least as many words as its memory has.
"""

from unittest import mock

from amaranth.hdl import Assert, Assume, Cover, Elaboratable, Module, Mux, ResetSignal, Signal

from tests.formal.registers import Registers
from tokenloom.hw.ring import word_buffer

DEPTH, COUNT = 4, 5


class WordBufferProof(Elaboratable):
    """Pushes and pops as the environment likes; a push into a full buffer is lost."""

    def __init__(self):
        self.block = word_buffer.WordBuffer(bits=COUNT, depth=DEPTH)
        self.push, self.pop = Signal(name="offer"), Signal(name="take")
        self.ports = [self.push, self.pop]

    def elaborate(self, platform):
        m = Module()
        block = self.block
        with mock.patch.object(word_buffer, "Memory", Registers):
            m.submodules.block = block.elaborate(None)
        inside = block.inside
        came, went = Signal(COUNT), Signal(COUNT)
        m.d.comb += [
            Assume(~ResetSignal()),
            block.push.eq(self.push),
            block.in_word.eq(came),
            block.pop.eq(self.pop & block.out_valid),
        ]
        m.d.sync += [came.eq(came + (self.push & ~block.full)), went.eq(went + block.pop)]
        held = (came - went)[:COUNT]

        with m.If(block.out_valid):
            m.d.comb += Assert(block.out_word == went)
        with m.If(block.full):
            m.d.comb += Assert(held >= DEPTH)
        m.d.comb += Assert(held <= DEPTH + 1)
        # A word is never held back for more than a cycle, however few there are.
        waiting = Signal(2)
        m.d.sync += waiting.eq(Mux(held.any() & ~block.out_valid, waiting + 1, 0))
        m.d.comb += Assert(waiting <= 1)

        # Invariants: what lies where.
        m.d.comb += [
            Assert(held == inside.level + block.out_valid),
            Assert((inside.tail - inside.head)[: len(inside.head)] == inside.level[:-1]),
            Assert(inside.level <= DEPTH),
            Assert(~inside.level.any() | block.out_valid | ~waiting.any()),
        ]
        for i in range(DEPTH):
            with m.If(inside.level > i):
                where = (inside.head + i)[: len(inside.head)]
                number = (went + block.out_valid + i)[:COUNT]
                m.d.comb += Assert(inside.words.rows[where] == number)
        m.d.comb += Cover(block.full & (went == 7))
        return m
