"""Top list: the largest values of a stream, sorted."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from tokenloom.hw.numbers.arith import or_tree, sum_tree
from tokenloom.hw.verilog.addressed_memory import addressed_memory
from tokenloom.hw.verilog.block import Block

__all__ = ["TopList"]


class TopList(Block):
    """The largest values so far, the largest first, the earliest first among equals.

    A value stays in the slot it was written to, and beside it stands the slot's rank. Every slot
    compares the new value with its own: those with a smaller one, or with none, go down by a rank,
    and the slot that was the last takes the new value. A shift moves all up by a rank and empties
    the first. So the ranks are a permutation at all times, and no value ever moves.

    Parameters
    ----------
    entries : int
        Places, 1 or more.
    value_bits : int
        Signed.
    tag_bits : int
        Of what travels with a value.

    Members
    -------
    clear : In(1)
        Strobe: the list is empty in the next cycle.
    insert : In(1), value : In(signed(value_bits)), tag : In(tag_bits)
        Strobe: a value. Not with `clear` or `shift`.
    shift : In(1)
        Strobe: the first one leaves. Not with `clear`.
    first_valid, first_value, first_tag : Out
        The first one.

    Latency
    -------
    `LATENCY` = 1 belt cycle from any strobe to the outputs.

    Raises
    ------
    ValueError
        When there are no places.
    """

    LATENCY = 1

    def __init__(self, *, entries: int, value_bits: int, tag_bits: int) -> None:
        if entries < 1:
            raise ValueError(f"entries = {entries} is impossible: allowed is 1 or more")
        self._entries, self._value_bits, self._tag_bits = entries, value_bits, tag_bits
        super().__init__(
            {
                "clear": In(1),
                "insert": In(1),
                "value": In(signed(value_bits)),
                "tag": In(tag_bits),
                "shift": In(1),
                "first_valid": Out(1),
                "first_value": Out(signed(value_bits)),
                "first_tag": Out(tag_bits),
            },
            params=(entries, value_bits, tag_bits),
        )
        self.module_name = f"top_list_{entries}_{value_bits}_{tag_bits}"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        slots, end = range(self._entries), self._entries - 1
        bits = bits_for(end)
        valid = Signal(self._entries)
        ranks = Signal(self._entries * bits, init=sum(i << (i * bits) for i in slots))
        rank = [ranks.word_select(i, bits) for i in slots]
        first, last = Signal(bits), Signal(bits, init=end)  # the slots with these ranks

        def slot_with(wanted: int) -> Value:
            return or_tree(Mux(rank[i] == wanted, i, 0) for i in slots)

        # One memory that all slots look into, and one of which the first slot alone is read.
        depth, width = self._entries, self._value_bits
        values = addressed_memory(
            shape=signed(width), depth=depth, attrs={"ram_style": "registers"}
        )
        pairs = addressed_memory(shape=width + self._tag_bits, depth=depth)
        m.submodules += [values, pairs]

        def value_in(slot: int) -> Value:
            port = values.read_port(domain="comb")
            m.d.comb += port.addr.eq(slot)
            return port.data

        fits = Signal(self._entries)
        found = Cat(~valid[i] | (self.value > value_in(i)) for i in slots)
        with m.If(self.insert):
            m.d.comb += fits.eq(found)
        # As many stay before the new one.
        new_rank = Signal(range(self._entries + 1))
        m.d.comb += new_rank.eq(Mux(self.insert, sum_tree(~fits), self._entries))
        enters = new_rank != self._entries

        for memory, data in ((values, self.value), (pairs, Cat(self.value, self.tag))):
            port = memory.write_port()
            m.d.comb += [port.en.eq(enters), port.addr.eq(last), port.data.eq(data)]

        with m.If(self.clear):
            m.d.sync += valid.eq(0)
        with m.Elif(self.shift):
            m.d.sync += [
                valid.bit_select(first, 1).eq(0),
                ranks.eq(Cat(Mux(one == 0, end, one - 1)[:bits] for one in rank)),
                first.eq(slot_with(1)),
                last.eq(first),
            ]
        with m.Elif(enters):
            m.d.sync += [
                valid.bit_select(last, 1).eq(1),
                ranks.eq(
                    Cat(
                        Mux(one == end, new_rank, one + fits[i])[:bits]
                        for i, one in enumerate(rank)
                    )
                ),
            ]
            with m.If(new_rank == 0):
                m.d.sync += first.eq(last)
            with m.If(new_rank != end):
                m.d.sync += last.eq(slot_with(end - 1))

        look = pairs.read_port(domain="comb")
        m.d.comb += [
            look.addr.eq(first),
            self.first_valid.eq(valid.any()),
            Cat(self.first_value, self.first_tag).eq(look.data),
        ]
        return m
