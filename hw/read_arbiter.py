"""Puts the row reader and the tape reader of one channel onto its memory port."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from tokenloom.hw.block import Block
from tokenloom.hw.words import ADDRESS_BITS, check_port_bits

__all__ = ["ReadArbiter"]


class ReadArbiter(Block):
    """Merges two read ports; the row reader's bursts go first, words come back in order.

    Parameters
    ----------
    port_bits : int
        Bits of a memory word, 256 or 512.
    bursts : int
        Bursts that may be outstanding, at least 2.

    Members
    -------
    row_ar_valid, row_ar_ready, row_ar_addr, row_ar_len, row_r_valid, row_r_ready, row_r_data
        The row reader.
    tape_ar_valid, …, tape_r_data
        The tape reader.
    ar_valid, ar_ready, ar_addr, ar_len, r_valid, r_ready, r_data
        The channel.

    Latency
    -------
    A request takes one cycle, a word none.

    Raises
    ------
    ValueError
        When a parameter is out of range.
    """

    belt = False

    def __init__(self, *, port_bits: int, bursts: int = 16) -> None:
        check_port_bits(port_bits)
        if bursts < 2:
            raise ValueError(f"bursts has to be at least 2, not {bursts!r}")
        self._bursts = bursts
        address = ADDRESS_BITS + (port_bits // 8).bit_length() - 1
        members: dict[str, Any] = {}
        for prefix in ("row_", "tape_"):
            members |= {
                f"{prefix}ar_valid": In(1),
                f"{prefix}ar_ready": Out(1),
                f"{prefix}ar_addr": In(address),
                f"{prefix}ar_len": In(4),
                f"{prefix}r_valid": Out(1),
                f"{prefix}r_ready": In(1),
                f"{prefix}r_data": Out(port_bits),
            }
        members |= {
            "ar_valid": Out(1),
            "ar_ready": In(1),
            "ar_addr": Out(address),
            "ar_len": Out(4),
            "r_valid": In(1),
            "r_ready": Out(1),
            "r_data": In(port_bits),
        }
        super().__init__(members, params=(port_bits, bursts))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.order = order = SyncFIFO(width=5, depth=self._bursts)

        # Requests: a register, so that a waiting burst is never replaced.
        free, is_row = Signal(), Signal()
        length = Mux(is_row, self.row_ar_len, self.tape_ar_len)
        m.d.comb += [
            free.eq((~self.ar_valid | self.ar_ready) & order.w_rdy),
            is_row.eq(self.row_ar_valid),
            self.row_ar_ready.eq(free),
            self.tape_ar_ready.eq(free & ~is_row),
            order.w_en.eq(free & (self.row_ar_valid | self.tape_ar_valid)),
            order.w_data.eq(Cat(is_row, length)),
        ]
        with m.If(self.ar_ready):
            m.d.sync += self.ar_valid.eq(0)
        with m.If(order.w_en & order.w_rdy):
            m.d.sync += [
                self.ar_valid.eq(1),
                self.ar_addr.eq(Mux(is_row, self.row_ar_addr, self.tape_ar_addr)),
                self.ar_len.eq(length),
            ]

        # Words: the oldest burst says whose they are.
        to_row = Signal()
        word = Signal(4)
        valid = Signal()
        m.d.comb += [
            to_row.eq(order.r_data[0]),
            valid.eq(self.r_valid & order.r_rdy),
            self.row_r_valid.eq(valid & to_row),
            self.tape_r_valid.eq(valid & ~to_row),
            self.row_r_data.eq(self.r_data),
            self.tape_r_data.eq(self.r_data),
            self.r_ready.eq(order.r_rdy & Mux(to_row, self.row_r_ready, self.tape_r_ready)),
        ]
        with m.If(self.r_valid & self.r_ready):
            m.d.sync += word.eq(word + 1)
            with m.If(word == order.r_data[1:]):
                m.d.comb += order.r_en.eq(1)
                m.d.sync += word.eq(0)
        return m
