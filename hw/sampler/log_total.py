"""Log total: the base-2 logarithm of a sum of powers."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.arith import bit_length, round_shift
from tokenloom.hw.numbers.tables import LOG2_FRAC, LOG2_SEGMENT_BITS, log2_segments
from tokenloom.hw.sampler.candidates import LOG2_OFFSET_BITS, UNIT_BITS
from tokenloom.hw.verilog.block import Block

__all__ = ["LOG_BITS", "LogTotal"]

_START_BITS, _RISE_BITS = 17, 10  # the rise's sign is 0
_PLACE_BITS = LOG2_SEGMENT_BITS + LOG2_OFFSET_BITS
LOG_BITS = 7 + LOG2_FRAC
"""Bits of the logarithm, signed: from that of one unit, -48, to 2^20 powers of the top octave."""


class LogTotal(Block):
    """`candidates.log2_total`, docs/numbers.md, point 18.

    Parameters
    ----------
    total_bits : int
        24 to 69.

    Members
    -------
    total : In(total_bits)
        Positive, unit 2^-48.
    log : Out(signed(23))
        `LOG2_FRAC` fraction bits.

    Latency
    -------
    `LATENCY` = 5 belt cycles.

    Raises
    ------
    ValueError
        When `total_bits` is not allowed.
    """

    LATENCY = 5

    def __init__(self, *, total_bits: int) -> None:
        if not _PLACE_BITS + 2 <= total_bits <= UNIT_BITS + 21:
            raise ValueError(
                f"total_bits = {total_bits} is impossible: allowed is {_PLACE_BITS + 2}.."
                f"{UNIT_BITS + 21}"
            )
        self._total_bits = total_bits
        super().__init__(
            {"total": In(total_bits), "log": Out(signed(LOG_BITS))}, params=(total_bits,)
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self._total_bits
        total1 = Signal(bits, reset_less=True)
        width1 = Signal(range(bits + 1), reset_less=True)
        normal = Signal(bits)
        place2 = Signal(_PLACE_BITS, reset_less=True)
        whole2, whole3, whole4 = (
            Signal(signed(LOG_BITS - LOG2_FRAC), name=f"whole{i}", reset_less=True)
            for i in (2, 3, 4)
        )
        offset3 = Signal(LOG2_OFFSET_BITS, reset_less=True)
        start4 = Signal(_START_BITS, reset_less=True)
        grown4 = Signal(signed(_RISE_BITS + LOG2_OFFSET_BITS), reset_less=True)
        entries = [start | rise << _START_BITS for start, rise in log2_segments()]
        m.submodules.table = memory = Memory(
            shape=_START_BITS + _RISE_BITS, depth=len(entries), init=entries
        )
        port = memory.read_port()
        segment = port.data
        m.d.comb += [
            normal.eq(total1 << (bits - width1)[: bits.bit_length()]),
            port.addr.eq(place2[LOG2_OFFSET_BITS:]),
        ]
        m.d.sync += [
            total1.eq(self.total),
            width1.eq(Mux(self.total.any(), bit_length(self.total), 1)),
            place2.eq(normal[bits - 1 - _PLACE_BITS : bits - 1]),
            whole2.eq(width1 - (1 + UNIT_BITS)),
            offset3.eq(place2[:LOG2_OFFSET_BITS]),
            whole3.eq(whole2),
            start4.eq(segment[:_START_BITS]),
            grown4.eq(segment[_START_BITS:].as_signed() * offset3),
            whole4.eq(whole3),
            self.log.eq((whole4 << LOG2_FRAC) + start4 + round_shift(grown4, LOG2_OFFSET_BITS)),
        ]
        return m
