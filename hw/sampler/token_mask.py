"""Token mask: a bit per id, in the order of the ids."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib.wiring import In, Out

from tokenloom.hw.verilog.addressed_memory import addressed_memory
from tokenloom.hw.verilog.block import Block

__all__ = ["TokenMask"]


class TokenMask(Block):
    """Says of each passing id whether it is out: `Sampler.in_masked` for its `in_valid`.

    Parameters
    ----------
    vocab : int
        Ids, 1 or more.

    Members
    -------
    we : In(1), addr : In, data : In(64)
        Writes the bits of ids 64 addr to 64 addr + 63, the first one lowest; not while ids pass.
    restart : In(1)
        Strobe: the next id is 0; not later than two cycles before it.
    take : In(1)
        The id has passed.
    masked : Out(1)
        The bit of the id that passes next.

    Latency
    -------
    `LATENCY` = 2 belt cycles from `restart` to the first bit; then a bit per cycle.

    Raises
    ------
    ValueError
        When there is no id.
    """

    LATENCY = 2
    WORD = 64

    def __init__(self, *, vocab: int) -> None:
        if vocab < 1:
            raise ValueError(f"vocab = {vocab} is impossible: allowed is 1 or more")
        self._words = -(-vocab // self.WORD)
        super().__init__(
            {
                "we": In(1),
                "addr": In(range(max(2, self._words))),
                "data": In(self.WORD),
                "restart": In(1),
                "take": In(1),
                "masked": Out(1),
            },
            params=(vocab,),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        place_bits = self.WORD.bit_length() - 1
        index = Signal(place_bits + len(self.addr))
        after = Signal.like(index)
        m.submodules.bits = memory = addressed_memory(shape=self.WORD, depth=self._words)
        write, read = memory.write_port(), memory.read_port()
        m.d.comb += [
            write.en.eq(self.we),
            write.addr.eq(self.addr),
            write.data.eq(self.data),
            after.eq(Mux(self.restart, 0, index + self.take)),
            read.addr.eq(after[place_bits:]),
        ]
        m.d.sync += index.eq(after)
        word: Value = read.data
        for level in reversed(range(place_bits)):
            half = len(word) // 2
            word = Mux(index[level], word[half:], word[:half])
        m.d.comb += self.masked.eq(word)
        return m
