"""Proof: the free list never hands out a page twice and never loses one."""

import pytest
from amaranth.hdl import Assert, Assume, Cat, Elaboratable, Module, Mux, Signal

from tests.formal.sby import prove
from tokenloom.hw.kv.free_list import FreeList


class Spied(FreeList):
    """With a view of every word of the stack."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        self.words = []
        for i in range(self._pages):
            port = m.submodules.stack.read_port(domain="comb")
            word = Signal(len(self.page), name=f"word{i}")
            m.d.comb += [port.addr.eq(i), word.eq(port.data)]
            self.words.append(word)
        return m


def total(bits):
    """How many are high, wide enough."""
    return sum((Mux(bit, 1, 0) for bit in bits), start=0)


class Proof(Elaboratable):
    """Whoever holds pages gives back only what it has: no page is at two places, none is lost.

    Parameters
    ----------
    honest : bool
        It does so.
    """

    def __init__(self, pages, honest=True):
        self.pages, self.honest = pages, honest
        self.dut = Spied(pages=pages)
        self.ports = [self.dut.take_valid, self.dut.give_valid, self.dut.give_page]

    def elaborate(self, platform):
        m = Module()
        pages = self.pages
        dut = self.dut
        m.submodules.dut = dut.elaborate(platform)

        # Pages that are out: a page just taken is known one cycle later.
        out = Signal(pages)
        taken = Signal()
        m.d.sync += taken.eq(dut.take_valid & dut.take_ready)
        now_out = Signal(pages)
        m.d.comb += now_out.eq(out | Mux(taken, 1 << dut.page, 0))
        m.d.sync += out.eq(now_out & ~Mux(dut.give_valid, 1 << dut.give_page, 0))
        if self.honest:
            m.d.comb += Assume(~dut.give_valid | now_out.bit_select(dut.give_page, 1))

        free = Signal(pages)
        for p in range(pages):
            on_stack = Cat((i < dut.stacked) & (dut.words[i] == p) for i in range(pages))
            m.d.comb += [
                free[p].eq((dut.fresh <= p) | on_stack.any()),
                # Every page is free or out, not both; no page is on the stack twice.
                Assert(free[p] != now_out[p]),
                Assert(total(on_stack) + (dut.fresh <= p) <= 1),
            ]
        m.d.comb += [
            Assert(~taken | ~out.bit_select(dut.page, 1), "a page is handed out twice"),
            Assert(~taken | (dut.page < pages)),
            Assert(dut.fresh <= pages),
            Assert(dut.stacked <= dut.fresh),
            Assert(dut.count == total(free)),
            Assert(dut.take_ready == (free.any() & ~dut.give_valid)),
        ]
        return m


@pytest.mark.parametrize("pages", [4, 5])
def test_free_list(pages):
    prove(f"free_list_{pages}", Proof(pages), mode="prove", depth=1)


def test_a_page_that_comes_back_twice_breaks_it():
    with pytest.raises(AssertionError, match="Assert failed in top"):
        prove("free_list_twice", Proof(4, honest=False), mode="bmc", depth=6)
