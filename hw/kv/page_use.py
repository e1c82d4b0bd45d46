"""How long ago, how often and how intensely each page was used."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.wiring import In, Out

from tokenloom.hw.kv.eviction_policy import (
    AGE_BITS,
    AGE_MAX,
    FREQUENCY_BITS,
    FREQUENCY_MAX,
    MASS_BITS,
    MASS_MAX,
)
from tokenloom.hw.kv.free_list import check_pages
from tokenloom.hw.verilog.addressed_memory import addressed_memory
from tokenloom.hw.verilog.block import Block

__all__ = ["PageUse"]


class PageUse(Block):
    """Keeps `eviction_policy.PageState` of every page in a memory that nothing has to sweep.

    A page's record holds the epoch in which it was written; whoever reads it ages it then (age =
    epochs since, frequency and mass shifted right by it). So an epoch costs no time. Epochs are
    counted modulo 2^`stamp_bits`: lest a page forgotten for long look young again, each tick
    lets some pages, in turn, be looked at; what is older than `AGE_MAX` gets a record of that
    age, which reads the same. So the values are exactly those of `PageState`.

    Parameters
    ----------
    pages : int
        Pages, at most 65,536.
    stamp_bits : int
        Bits of a record's epoch, 10 or more.

    Members
    -------
    tick : In(1)
        An epoch ends; counts from the next cycle on, while `hold` from its end on.
    use_valid, use_ready, use_page, use_mass : In(1), Out(1), In, In(MASS_BITS)
        A page is used.
    fresh_valid, fresh_page : In(1), In
        The page is new: its record is cleared. Always taken; no page's record may be asked for
        before it was cleared.
    hold : In(1)
        Records and epoch stay as they are from the next cycle on: `use_ready` and `fresh_valid`
        have to be low.
    due : Out(1)
        Pages are still to be refreshed: no use is taken, and `hold` should wait.
    look_page : In
        While `hold`, from its second cycle on: the page whose values are wanted.
    age, frequency, mass : Out
        They, one cycle later.

    Latency
    -------
    `LATENCY` = 1 cycle from `look_page`.

    Duration
    --------
    One use per cycle, but not two of one page in a row, and `REFRESH` cycles after a tick have
    none: pages / 2^(stamp_bits - 2), rounded up (twice that with a single page). Ticks have to
    come more slowly, or no use is ever taken; and `hold` not while pages are `due`: then every page
    is looked at in time.

    Raises
    ------
    ValueError
        When a parameter is out of range.
    """

    belt = False
    LATENCY = 1

    def __init__(self, *, pages: int, stamp_bits: int = 12) -> None:
        check_pages(pages)
        if stamp_bits < AGE_BITS + 2:
            raise ValueError(f"stamp_bits has to be at least {AGE_BITS + 2}, not {stamp_bits!r}")
        self._pages, self._stamp = pages, stamp_bits
        page = max(1, (pages - 1).bit_length())
        super().__init__(
            {
                "tick": In(1),
                "use_valid": In(1),
                "use_ready": Out(1),
                "use_page": In(page),
                "use_mass": In(MASS_BITS),
                "fresh_valid": In(1),
                "fresh_page": In(page),
                "hold": In(1),
                "due": Out(1),
                "look_page": In(page),
                "age": Out(AGE_BITS),
                "frequency": Out(FREQUENCY_BITS),
                "mass": Out(MASS_BITS),
            },
            params=(pages, stamp_bits),
        )

    @property
    def refresh(self) -> int:
        """Pages looked at after each tick: all of them in a quarter of the epochs' range."""
        return -(-self._pages >> (self._stamp - 2))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        layout = data.StructLayout(
            {"stamp": self._stamp, "frequency": FREQUENCY_BITS, "mass": MASS_BITS}
        )
        m.submodules.records = records = addressed_memory(shape=layout, depth=self._pages)
        read, write = records.read_port(), records.write_port()

        # Epochs; pages still to be refreshed, and the next one.
        epoch, now = Signal(self._stamp), Signal(self._stamp)
        owed, turn = Signal(range(2 * self._pages + 1)), Signal.like(self.use_page)
        refresh, use, busy = Signal(), Signal(), Signal()
        pending, pending_page = Signal(), Signal.like(self.use_page)
        m.d.sync += epoch.eq(epoch + self.tick)
        with m.If(~self.hold):
            m.d.sync += now.eq(epoch + self.tick)
        # At most all of them are owed.
        with m.If(self.tick & (owed <= self._pages)):
            m.d.sync += owed.eq(owed + self.refresh - refresh)
        with m.Else():
            m.d.sync += owed.eq(owed - refresh)
        with m.If(refresh):
            m.d.sync += turn.eq(Mux(turn == self._pages - 1, 0, turn + 1))

        # First cycle: who reads. Nobody reads the record that is just being written.
        m.d.comb += [
            self.due.eq(owed.any()),
            refresh.eq(
                self.due & ~self.hold & ~self.fresh_valid & ~(pending & (pending_page == turn))
            ),
            self.use_ready.eq(
                ~self.due
                & ~self.hold
                & ~self.fresh_valid
                & ~(pending & (pending_page == self.use_page))
            ),
            use.eq(self.use_valid & self.use_ready),
            busy.eq(self.fresh_valid | refresh | use),
            read.addr.eq(Mux(self.hold, self.look_page, Mux(self.due, turn, self.use_page))),
            read.en.eq(self.hold | refresh | use),
        ]

        # Second cycle: the record aged, and written anew.
        using, clearing, added = Signal(), Signal(), Signal(MASS_BITS)
        passed = Signal(self._stamp)
        old = Signal()
        more_mass = Signal(MASS_BITS + 1)
        m.d.sync += [pending.eq(busy), using.eq(use), clearing.eq(self.fresh_valid)]
        with m.If(busy):
            m.d.sync += [
                pending_page.eq(
                    Mux(self.fresh_valid, self.fresh_page, Mux(refresh, turn, self.use_page))
                ),
                added.eq(self.use_mass),
            ]
        record = read.data
        m.d.comb += [
            passed.eq(now - record.stamp),
            old.eq(passed >= AGE_MAX),
            self.age.eq(Mux(old, AGE_MAX, passed)),
            # Sixteen epochs and more leave nothing.
            self.frequency.eq(Mux(passed[4:].any(), 0, record.frequency >> passed[:4])),
            self.mass.eq(Mux(passed[4:].any(), 0, record.mass >> passed[:4])),
            more_mass.eq(self.mass + added),
            write.addr.eq(pending_page),
            write.en.eq(pending & (using | clearing | old)),
            write.data.stamp.eq(Mux(using | clearing, now, now - AGE_MAX)),
        ]
        with m.If(using):
            m.d.comb += [
                write.data.frequency.eq(self.frequency + (self.frequency != FREQUENCY_MAX)),
                write.data.mass.eq(Mux(more_mass[-1], MASS_MAX, more_mass)),
            ]
        return m
