"""Top list: the largest values of a stream, sorted."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib.wiring import In, Out

from tokenloom.hw.verilog.block import Block, instance

__all__ = ["ListCell", "TopList"]


class ListCell(Block):
    """A place of the list: keeps what it has, or takes the new one, or its neighbour's.

    Members
    -------
    clear, insert, shift : In(1)
        Strobes, as of `TopList`.
    value, tag : In
        What is inserted.
    above_fits, above_valid, above_value, above_tag : In
        The place above, which holds a larger value; the first one's `above_fits` is low.
    below_valid, below_value, below_tag : In
        The place below.
    fits : Out(1)
        The value to insert goes here or above.
    mine_valid, mine_value, mine_tag : Out
        What the place holds.

    Latency
    -------
    `LATENCY` = 1 belt cycle.
    """

    LATENCY = 1

    def __init__(self, *, value_bits: int, tag_bits: int) -> None:
        place = lambda flow, name: {  # noqa: E731
            f"{name}_valid": flow(1),
            f"{name}_value": flow(signed(value_bits)),
            f"{name}_tag": flow(tag_bits),
        }
        super().__init__(
            {
                "clear": In(1),
                "insert": In(1),
                "shift": In(1),
                "value": In(signed(value_bits)),
                "tag": In(tag_bits),
                "above_fits": In(1),
                **place(In, "above"),
                **place(In, "below"),
                "fits": Out(1),
                **place(Out, "mine"),
            },
            params=(value_bits, tag_bits),
        )
        self.module_name = f"list_cell_{value_bits}_{tag_bits}"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.fits.eq(~self.mine_valid | (self.value > self.mine_value))
        moves = Signal()
        m.d.comb += moves.eq((self.insert & self.fits) | self.shift)
        with m.If(self.clear):
            m.d.sync += self.mine_valid.eq(0)
        with m.Elif(moves):
            m.d.sync += self.mine_valid.eq(
                Mux(self.shift, self.below_valid, ~self.above_fits | self.above_valid)
            )
        with m.If(moves):
            for name in ("value", "tag"):
                mine = getattr(self, f"mine_{name}")
                above, below = getattr(self, f"above_{name}"), getattr(self, f"below_{name}")
                new = Mux(self.above_fits, above, getattr(self, name))
                m.d.sync += mine.eq(Mux(self.shift, below, new))
        return m


class TopList(Block):
    """The largest values so far, the largest first, the earliest first among equals.

    A row of cells, each of which compares the new value with its own: one value per cycle. A shift
    takes the first away, so that the list leaves the block one per cycle.

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

    LATENCY = ListCell.LATENCY

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
        cells = [
            ListCell(value_bits=self._value_bits, tag_bits=self._tag_bits)
            for _ in range(self._entries)
        ]
        for i, cell in enumerate(cells):
            m.submodules[f"cell{i}"] = instance(cell, en=self.en)
            for name in ("clear", "insert", "shift", "value", "tag"):
                m.d.comb += getattr(cell, name).eq(getattr(self, name))
            if i:
                above = cells[i - 1]
                m.d.comb += cell.above_fits.eq(above.fits)
                for name in ("valid", "value", "tag"):
                    m.d.comb += [
                        getattr(cell, f"above_{name}").eq(getattr(above, f"mine_{name}")),
                        getattr(above, f"below_{name}").eq(getattr(cell, f"mine_{name}")),
                    ]
        m.d.comb += [
            self.first_valid.eq(cells[0].mine_valid),
            self.first_value.eq(cells[0].mine_value),
            self.first_tag.eq(cells[0].mine_tag),
        ]
        return m
