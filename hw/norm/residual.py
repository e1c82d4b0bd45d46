"""Residual: one row's residual stream, its saturating update and its sum of squares."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.arith import sat32
from tokenloom.hw.numbers.formats import BLOCK, SS_BITS
from tokenloom.hw.verilog.block import Block

__all__ = ["Residual"]


class Residual(Block):
    """`r[i] = sat32(r[i] + value)` (or `= value`) and `ss = Σ r²` of the values written.

    Parameters
    ----------
    width : int
        Residual values, 1 or more. The memory is rounded up to whole blocks of 32.
    norm_lanes : int
        Values per word of the read port: 1, 2, 4, 8, 16 or 32.
    taps : bool
        With `tap_` ports.

    Members
    -------
    in_valid : In(1)
        The other inputs hold an update.
    in_value : In(signed(32))
        What is added or, with `in_first`, written.
    in_index : In(range(width))
        Which value. An index does not occur twice within `LATENCY` cycles.
    in_first : In(1)
        Write instead of add.
    in_start : In(1)
        First value of the operation: `ss` starts at its square.
    in_last : In(1)
        Last value of the operation.
    done : Out(1)
        Strobe `LATENCY` cycles after `in_last`: from this cycle on memory and `ss` are readable.
    ss : Out(80)
        Exact sum of the squares of the values written since `in_start`.
    saturated : Out(1)
        Strobe `SATURATED` cycles after an update that was clamped.
    read_en, read_addr : In
        Read the word `read_addr`. Updates and reads share one port: never with `in_valid`.
    read_data : Out(32 * norm_lanes)
        The word, one cycle later (value i of the word in bits 32i..32i+31); it stays until the next
        read or update.
    tap_valid : Out(1), tap_index : Out, tap_value : Out(32)
        Only with taps: what is being written.

    Latency
    -------
    `LATENCY` = 6 belt cycles from an update to `ss`; a read answers in one cycle.

    Duration
    --------
    One update per cycle, with or without gaps.

    Raises
    ------
    ValueError
        When `width` is less than 1 or `norm_lanes` is no power of two in 1..32.
    """

    LATENCY = 6
    SATURATED = 3

    def __init__(self, *, width: int, norm_lanes: int, taps: bool = False) -> None:
        if width < 1:
            raise ValueError(f"width = {width} is impossible: allowed is 1 or more")
        if norm_lanes not in (1, 2, 4, 8, 16, 32):
            raise ValueError(f"norm_lanes = {norm_lanes}: allowed are 1, 2, 4, 8, 16 and 32")
        self._width, self._lanes, self._taps = width, norm_lanes, taps
        self._words = -(-width // BLOCK) * BLOCK // norm_lanes
        index = range(max(2, width))
        tapped = {"tap_valid": Out(1), "tap_index": Out(index), "tap_value": Out(32)}
        super().__init__(
            {
                "in_valid": In(1),
                "in_value": In(signed(32)),
                "in_index": In(index),
                "in_first": In(1),
                "in_start": In(1),
                "in_last": In(1),
                "done": Out(1),
                "ss": Out(SS_BITS),
                "saturated": Out(1),
                "read_en": In(1),
                "read_addr": In(range(max(2, self._words))),
                "read_data": Out(32 * norm_lanes),
                **(tapped if taps else {}),
            },
            params=(width, norm_lanes, taps),
        )

    @property
    def width(self) -> int:
        """Residual values."""
        return self._width

    @property
    def norm_lanes(self) -> int:
        """Values per word."""
        return self._lanes

    @property
    def words(self) -> int:
        """Words in the memory."""
        return self._words

    def elaborate(self, platform: object) -> Module:
        """Read, add and clamp, write; then two cycles of multiplier, and the sum."""
        m = Module()
        lane_bits = (self._lanes - 1).bit_length()

        m.submodules.memory = memory = Memory(
            shape=32 * self._lanes, depth=max(2, self._words), init=[]
        )
        read = memory.read_port()
        write = memory.write_port(granularity=32)
        m.d.comb += [
            read.en.eq(self.in_valid | self.read_en),
            read.addr.eq(Mux(self.in_valid, self.in_index[lane_bits:], self.read_addr)),
            self.read_data.eq(read.data),
        ]

        # Flags of the update in each stage; stage 0 is the input.
        valid, start, last = [self.in_valid], [self.in_start], [self.in_last]
        for stage in range(1, 6):
            here = [Signal(name=f"{name}{stage}") for name in ("valid", "start", "last")]
            m.d.sync += here[0].eq(valid[-1])
            with m.If(valid[-1]):
                m.d.sync += [here[1].eq(start[-1]), here[2].eq(last[-1])]
            for flags, flag in zip((valid, start, last), here, strict=True):
                flags.append(flag)

        # Stage 1: the word is at the read port.
        index = [self.in_index]
        first1 = Signal(reset_less=True)
        value = [self.in_value]
        for stage in (1, 2, 3):
            index.append(Signal(range(max(2, self._width)), name=f"index{stage}", reset_less=True))
            with m.If(valid[stage - 1]):
                m.d.sync += index[stage].eq(index[stage - 1])
        for stage in (1, 2):
            value.append(Signal(signed(32), name=f"value{stage}", reset_less=True))
            with m.If(valid[stage - 1]):
                m.d.sync += value[stage].eq(value[stage - 1])
        with m.If(self.in_valid):
            m.d.sync += first1.eq(self.in_first)

        # Stage 2: old and new value.
        old2 = Signal(signed(32), reset_less=True)
        words = [read.data.word_select(lane, 32) for lane in range(self._lanes)]
        chosen = Array(words)[index[1][:lane_bits]] if lane_bits else words[0]
        with m.If(valid[1]):
            m.d.sync += old2.eq(Mux(first1, 0, chosen))

        # Stage 3: the new value is written.
        total = Signal(signed(33))
        m.d.comb += total.eq(old2 + value[2])
        clamped, saturated = sat32(total)
        new3 = Signal(signed(32), reset_less=True)
        m.d.sync += self.saturated.eq(valid[2] & saturated)
        with m.If(valid[2]):
            m.d.sync += new3.eq(clamped)
        m.d.comb += [
            write.addr.eq(index[3][lane_bits:]),
            write.data.eq(new3.as_unsigned().replicate(self._lanes)),
        ]
        if lane_bits:
            m.d.comb += write.en.eq(valid[3] << index[3][:lane_bits])
        else:
            m.d.comb += write.en.eq(valid[3])

        if self._taps:
            m.d.comb += [
                self.tap_valid.eq(valid[3]),
                self.tap_index.eq(index[3]),
                self.tap_value.eq(new3),
            ]

        # Stages 4 and 5: the square, with a register for the multiplier to take in.
        square = [Signal(63, name=f"square{stage}", reset_less=True) for stage in (4, 5)]
        with m.If(valid[3]):
            m.d.sync += square[0].eq((new3 * new3)[:63])
        with m.If(valid[4]):
            m.d.sync += square[1].eq(square[0])

        # Stage 6: the sum.
        with m.If(valid[5]):
            m.d.sync += self.ss.eq(Mux(start[5], 0, self.ss) + square[1])
        m.d.sync += self.done.eq(valid[5] & last[5])
        return m
