"""A buffer in block RAM whose words can be seen a cycle after they came."""

from __future__ import annotations

from types import SimpleNamespace

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.verilog.block import Block

__all__ = ["WordBuffer"]


class WordBuffer(Block):
    """First in, first out.

    A word that meets an empty buffer goes past the memory, so the buffer costs one cycle; others go
    through the memory's read register, which is the output then.

    Parameters
    ----------
    bits, depth : int
        Width; words in the memory (the output holds one more). A power of two.

    Members
    -------
    push, in_word : In(1), In(bits)
        Taken, unless `full`.
    full : Out(1)
        The memory has no room.
    out_valid, out_word : Out(1), Out(bits)
        The oldest word.
    pop : In(1)
        It is taken; only with `out_valid`.

    Latency
    -------
    `LATENCY` = 1 cycle from push to `out_valid`; a word per cycle.

    Raises
    ------
    ValueError
        When a parameter is out of range.
    """

    belt = False
    LATENCY = 1

    def __init__(self, *, bits: int, depth: int) -> None:
        if bits < 1:
            raise ValueError(f"bits has to be positive, not {bits!r}")
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth has to be a power of two from 2 on, not {depth!r}")
        self._bits, self._depth = bits, depth
        super().__init__(
            {
                "push": In(1),
                "in_word": In(bits),
                "full": Out(1),
                "out_valid": Out(1),
                "out_word": Out(bits),
                "pop": In(1),
            },
            params=(bits, depth),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.words = words = Memory(shape=self._bits, depth=self._depth, init=[])
        write, read = words.write_port(), words.read_port()
        index = (self._depth - 1).bit_length()
        head, tail, level = Signal(index), Signal(index), Signal(index + 1)
        passed, through = Signal(self._bits), Signal()
        stored, fetch, bypass, room = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            self.full.eq(level[-1]),
            self.out_word.eq(Mux(through, read.data, passed)),
            # The output is free for the next word.
            room.eq(~self.out_valid | self.pop),
            fetch.eq(room & level.any()),
            bypass.eq(room & ~level.any() & self.push),
            stored.eq(self.push & ~bypass & ~self.full),
            write.en.eq(stored),
            write.addr.eq(tail),
            write.data.eq(self.in_word),
            read.en.eq(fetch),
            read.addr.eq(head),
        ]
        with m.If(room):
            m.d.sync += [self.out_valid.eq(fetch | bypass), through.eq(fetch)]
        with m.If(bypass):
            m.d.sync += passed.eq(self.in_word)
        with m.If(stored):
            m.d.sync += tail.eq(tail + 1)
        with m.If(fetch):
            m.d.sync += head.eq(head + 1)
        with m.If(stored != fetch):
            m.d.sync += level.eq(Mux(stored, level + 1, level - 1))
        # For proofs.
        self.inside = SimpleNamespace(head=head, tail=tail, level=level, words=words)
        return m
