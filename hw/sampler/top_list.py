"""Top list: the largest values of a stream, sorted."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib.wiring import In, Out

from tokenloom.hw.verilog.block import Block

__all__ = ["TopList"]


class TopList(Block):
    """The largest values so far, the largest first, the earliest first among equals.

    A row of places, each of which compares the new value with its own: one value per cycle. A shift
    takes the first away, so that the list leaves the block one per cycle. What the places hold is
    one register each of values and tags, and it is looked at only when something comes: a simulator
    does no work for a list that holds.

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
        places = range(self._entries)
        valid = Signal(self._entries)  # from the first place on
        values = Signal(self._entries * self._value_bits, reset_less=True)
        tags = Signal(self._entries * self._tag_bits, reset_less=True)

        # Sorted, so the new value fits from some place on to the end.
        fits = Signal(self._entries)
        mine = [values.word_select(i, self._value_bits).as_signed() for i in places]
        m.d.comb += fits.eq(
            Mux(self.insert, Cat(~valid[i] | (self.value > mine[i]) for i in places), 0)
        )

        with m.If(self.clear):
            m.d.sync += valid.eq(0)
        with m.Elif(self.shift):
            m.d.sync += valid.eq(valid >> 1)
        with m.Elif(self.insert):
            m.d.sync += valid.eq(Cat(1, valid))

        with m.If(self.shift | self.insert):
            for held, new, bits in (
                (values, self.value, self._value_bits),
                (tags, self.tag, self._tag_bits),
            ):
                after = []
                for i in places:
                    place = held.word_select(i, bits)
                    above = held.word_select(i - 1, bits) if i else new[:bits]
                    below = held.word_select(i + 1, bits) if i + 1 < self._entries else place
                    inserted = Mux(fits[i - 1], above, new[:bits]) if i else new[:bits]
                    after.append(Mux(self.shift, below, Mux(fits[i], inserted, place)))
                m.d.sync += held.eq(Cat(after))
        m.d.comb += [
            self.first_valid.eq(valid[0]),
            self.first_value.eq(values[: self._value_bits].as_signed()),
            self.first_tag.eq(tags[: self._tag_bits]),
        ]
        return m
