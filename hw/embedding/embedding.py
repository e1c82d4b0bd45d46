"""Embedding, the belt's side: fetched row blocks become accumulators for the drain lanes."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.formats import BLOCK
from tokenloom.hw.numbers.fp16 import decode
from tokenloom.hw.verilog.block import Block

__all__ = ["Embedding"]


class Embedding(Block):
    """`acc = (code · m) << sw + m_min << sw_min`, row after row, one value per cycle.

    Parameters
    ----------
    width : int
        Largest number of values in a row, 1 or more.
    rows : int
        R, rows of a pass, 1..32.

    Members
    -------
    start : In(1)
        Strobe, not before the cycle after the last `out_last` of the operation before it, if any.
    rows_count : In(range(rows + 1))
        Rows of this operation, 1..rows.
    blocks : In(range(⌈width/32⌉ + 1))
        Blocks per row.
    last_values : In(6)
        Values of a row's last block, 1..32. (These three are read in the cycle of `start`.)
    need : Out(1)
        This cycle consumes the block at the inputs below. `en` must be low while it is not there.
    block_codes : In(256)
        32 int8 codes, code i in bits 8i..8i+7.
    block_scale : In(16)
        Rebased fp16.
    block_minimum : In(16)
        Rebased fp16, 0 where the tensor has no minima.
    out_valid : Out(1)
        The outputs below hold an accumulator.
    out_acc : Out(signed(64))
        The accumulator.
    out_row : Out(range(rows))
        Its row: the drain lane that takes it.
    out_index : Out(range(width))
        Its place in the row.
    out_start, out_last : Out(1)
        First and last value of its row.

    Latency
    -------
    `LATENCY` = 4 belt cycles from `need` to the block's first value; the first `need` is one cycle
    after `start`.

    Duration
    --------
    A block takes 32 cycles, full or not: `duration(...)`.

    Raises
    ------
    ValueError
        When a parameter is out of its range.
    """

    LATENCY = 4

    def __init__(self, *, width: int, rows: int = 32) -> None:
        if width < 1:
            raise ValueError(f"width = {width} is impossible: allowed is 1 or more")
        if not 1 <= rows <= 32:
            raise ValueError(f"rows = {rows} is impossible: allowed is 1..32")
        self._width, self._rows = width, rows
        self._blocks = -(-width // BLOCK)
        super().__init__(
            {
                "start": In(1),
                "rows_count": In(range(rows + 1)),
                "blocks": In(range(self._blocks + 1)),
                "last_values": In(6),
                "need": Out(1),
                "block_codes": In(8 * BLOCK),
                "block_scale": In(16),
                "block_minimum": In(16),
                "out_valid": Out(1),
                "out_acc": Out(signed(64)),
                "out_row": Out(range(max(2, rows))),
                "out_index": Out(range(self._blocks * BLOCK)),
                "out_start": Out(1),
                "out_last": Out(1),
            },
            params=(width, rows),
        )

    @property
    def width(self) -> int:
        """Largest number of values in a row."""
        return self._width

    @property
    def rows(self) -> int:
        """Rows of a pass."""
        return self._rows

    @classmethod
    def duration(cls, *, rows_count: int, blocks: int, last_values: int) -> int:
        """Belt cycles from `start` to `out_last` of the last row."""
        return 1 + cls.LATENCY + BLOCK * (rows_count * blocks - 1) + last_values - 1

    def elaborate(self, platform: object) -> Module:
        """Count blocks; then per value: select the code, multiply, shift, add the minimum."""
        m = Module()

        # The operation and the place in it: `value` is 0 in the cycle of `need`.
        busy = Signal()
        rows_left = Signal.like(self.rows_count, reset_less=True)
        blocks = Signal.like(self.blocks, reset_less=True)
        last_values = Signal.like(self.last_values, reset_less=True)
        row = Signal.like(self.out_row, reset_less=True)
        block = Signal(range(max(2, self._blocks)), reset_less=True)
        value = Signal(5)
        row_end = Signal()
        m.d.comb += row_end.eq(block == blocks - 1)
        with m.If(self.start):
            m.d.sync += [
                busy.eq(1),
                rows_left.eq(self.rows_count),
                blocks.eq(self.blocks),
                last_values.eq(self.last_values),
                row.eq(0),
                block.eq(0),
                value.eq(0),
            ]
        with m.Elif(busy):
            m.d.sync += value.eq(value + 1)
            with m.If(value == BLOCK - 1):
                m.d.sync += block.eq(block + 1)
                with m.If(row_end):
                    m.d.sync += [block.eq(0), row.eq(row + 1), rows_left.eq(rows_left - 1)]
                    with m.If(rows_left == 1):
                        m.d.sync += busy.eq(0)
        m.d.comb += self.need.eq(busy & ~value.any())

        # The flags of the value in each stage; stage 0 is the cycle of the count above.
        final = Signal()
        m.d.comb += final.eq(row_end & (value == last_values - 1))
        valid0, start0 = Signal(), Signal()
        m.d.comb += [
            valid0.eq(busy & (~row_end | (value < last_values))),
            start0.eq(~block.any() & ~value.any()),
        ]
        place0 = Signal(len(block) + 5)
        m.d.comb += place0.eq((block << 5) | value)
        stages = [(valid0, place0, row, start0, final)]
        for stage in range(1, self.LATENCY):
            here = (
                Signal(name=f"valid{stage}"),
                Signal.like(place0, name=f"place{stage}", reset_less=True),
                Signal.like(row, name=f"row{stage}", reset_less=True),
                Signal(name=f"start{stage}", reset_less=True),
                Signal(name=f"last{stage}", reset_less=True),
            )
            stages.append(here)
        stages.append((self.out_valid, self.out_index, self.out_row, self.out_start, self.out_last))
        for old, new in zip(stages[:-1], stages[1:], strict=True):
            m.d.sync += new[0].eq(old[0])
            with m.If(old[0]):
                m.d.sync += [b.eq(a) for a, b in zip(old[1:], new[1:], strict=True)]

        # Stage 1: the block's registers; the codes move down by one per value.
        loads = [self.need] + [Signal(name=f"load{stage}") for stage in (1, 2)]
        m.d.sync += [new.eq(old) for old, new in zip(loads[:-1], loads[1:], strict=True)]
        codes = Signal(8 * BLOCK, reset_less=True)
        scale1, minimum1 = Signal(16, reset_less=True), Signal(16, reset_less=True)
        with m.If(self.need):
            m.d.sync += [
                codes.eq(self.block_codes),
                scale1.eq(self.block_scale),
                minimum1.eq(self.block_minimum),
            ]
        with m.Elif(stages[1][0]):
            m.d.sync += codes.eq(codes >> 8)

        # Stage 2: code · m. What the block's next stages use follows the block by a cycle each.
        mant, shift = decode(scale1)
        minimum_mant, minimum_shift = decode(minimum1)
        product2 = Signal(signed(20), reset_less=True)
        shift2 = Signal(5, reset_less=True)
        minimum2 = Signal(signed(42), reset_less=True)
        with m.If(stages[1][0]):
            m.d.sync += product2.eq(codes[:8].as_signed() * mant)
        with m.If(loads[1]):
            m.d.sync += [shift2.eq(shift), minimum2.eq(minimum_mant << minimum_shift)]

        # Stages 3 and 4: << sw, + minimum.
        shifted3 = Signal(signed(50), reset_less=True)
        minimum3 = Signal(signed(42), reset_less=True)
        with m.If(stages[2][0]):
            m.d.sync += shifted3.eq(product2 << shift2)
        with m.If(loads[2]):
            m.d.sync += minimum3.eq(minimum2)
        with m.If(stages[3][0]):
            m.d.sync += self.out_acc.eq(shifted3 + minimum3)
        return m
