"""One unit's queue of instructions, played in order."""

from __future__ import annotations

from types import SimpleNamespace

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.sequencer.isa import CHUNK_LAYOUTS, DONE_BITS, LAYOUTS, Unit
from tokenloom.hw.verilog.block import Block

__all__ = ["UnitQueue"]


class UnitQueue(Block):
    """Issues a unit's next instruction once its named predecessors are done.

    Parameters
    ----------
    unit : Unit
    depth : int
        Instructions that fit.
    chunks : bool
        With the ports `head`, `skip` and `position`: instructions can be passed over.

    Members
    -------
    cfg_we, cfg_addr, cfg_data : In, program memory, one instruction per write
    restart : In(1), a pass begins: from the next cycle on the queue plays from its start
    sample : In(1), whether this pass samples
    done : In(5 × DONE_BITS), finished operations of each unit in this pass
    ready : In(1), the unit accepts an instruction in this cycle
    issue : Out(1), it does accept one; op : Out, its bits, valid with `issue`
    stopped : Out(1), the program has ended
    head : Out, with chunks: bits of the instruction at the head; skip : In(1), it is passed over,
        whatever it waits for; position : Out, its place in the queue

    Latency
    -------
    `issue` comes in the very cycle in which `ready` and the counts allow it; the next instruction
    is at the head one cycle later, and so is the first one after `restart`. An instruction that is
    passed over takes one cycle at the head.
    """

    def __init__(self, *, unit: Unit, depth: int, chunks: bool = False) -> None:
        if depth < 2:
            raise ValueError(f"queue depth is {depth}; allowed: 2 and more")
        self._unit, self._depth, self._chunks = unit, depth, chunks
        self._layout = (CHUNK_LAYOUTS if chunks else LAYOUTS)[unit]
        self.module_name = f"queue_{unit.name.lower()}"
        chunk_ports = {
            "head": Out(self._layout.size),
            "skip": In(1),
            "position": Out(range(depth)),
        }
        super().__init__(
            {
                "cfg_we": In(1),
                "cfg_addr": In(range(depth)),
                "cfg_data": In(self._layout.size),
                "restart": In(1),
                "sample": In(1),
                "done": In(DONE_BITS * len(Unit)),
                "ready": In(1),
                "issue": Out(1),
                "op": Out(self._layout.size),
                "stopped": Out(1),
                **(chunk_ports if chunks else {}),
            },
            params=(unit, depth, chunks),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.program = memory = Memory(shape=self._layout.size, depth=self._depth, init=[])
        write, read = memory.write_port(), memory.read_port()
        m.d.comb += [
            write.en.eq(self.cfg_we),
            write.addr.eq(self.cfg_addr),
            write.data.eq(self.cfg_data),
        ]
        pc, valid = Signal(range(self._depth)), Signal()  # the head; false until and after a pass
        step = Signal()
        m.d.comb += [
            read.addr.eq(Mux(self.restart, 0, pc + step)),
            read.en.eq(1),
            self.op.eq(read.data),
        ]
        op = data.View(self._layout, read.data)
        met = Cat(
            self.done.word_select(u, DONE_BITS) >= op.header.wait[u] for u in range(len(Unit))
        ).all()
        ends = op.header.stop | (op.header.sample_only & ~self.sample)
        if self._chunks:
            passed = valid & ~ends & self.skip
            m.d.comb += [
                self.issue.eq(valid & ~ends & ~self.skip & met & self.ready),
                step.eq(self.issue | passed),
                self.head.eq(read.data),
                self.position.eq(pc),
            ]
        else:
            m.d.comb += [self.issue.eq(valid & ~ends & met & self.ready), step.eq(self.issue)]
        m.d.comb += self.stopped.eq(~valid | ends)
        with m.If(self.restart):
            m.d.sync += [pc.eq(0), valid.eq(1)]
        with m.Else():
            m.d.sync += pc.eq(pc + step)
            with m.If(valid & ends):
                m.d.sync += valid.eq(0)
        # For proofs.
        self.inside = SimpleNamespace(pc=pc, valid=valid)
        return m
