"""One array row's activations: blocks of codes with shift and sum."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.array.dot_element import X_SHIFT_BITS
from tokenloom.hw.numbers.formats import ACTIVATION_BITS, BLOCK, SUM_BITS
from tokenloom.hw.verilog.block import Block

__all__ = ["OPERAND_BITS", "OPERAND_SUM", "OperandBuffer"]

CODE_BITS = ACTIVATION_BITS * BLOCK
DIGIT_BITS = 8 * BLOCK
OPERAND_BITS = CODE_BITS + X_SHIFT_BITS + SUM_BITS  # of a block in memory: codes, shift, sum
OPERAND_SUM = CODE_BITS + X_SHIFT_BITS  # where the sum begins


class OperandBuffer(Block):
    """Operands (norm output, queries, context, hidden) and probabilities of one array row.

    Parameters
    ----------
    blocks : int
        Operand blocks that fit.
    p_blocks : int
        Probability blocks that fit (parity, slot, block of 32 tokens).

    Members
    -------
    we, addr, codes, sx, sum : In, an operand block is written
    cfg_we, cfg_addr, cfg_data : In, one that stays is written before the first pass
        (`OPERAND_BITS`); never together with `we`
    p_we, p_addr, p_hi, p_lo, p_sx : In, a probability block is written
    read_addr, read_values, read_digit : In; x_codes, x_shift, x_sum : Out, two cycles later.
        With `read_values` it is a probability block's digit: 0 is the high one, whose shift is 8
        more; its sum is given as 0 (no minima meet probabilities).

    Latency
    -------
    2 cycles from address to operand; a block can be read in the cycle after its write.
    """

    LATENCY = 2

    def __init__(self, *, blocks: int, p_blocks: int) -> None:
        self._blocks, self._p_blocks = blocks, p_blocks
        addr = range(blocks)
        p_addr = range(p_blocks)
        width = max(1, (max(blocks, p_blocks) - 1).bit_length())
        super().__init__(
            {
                "we": In(1),
                "addr": In(addr),
                "codes": In(CODE_BITS),
                "sx": In(X_SHIFT_BITS),
                "sum": In(SUM_BITS),
                "cfg_we": In(1),
                "cfg_addr": In(addr),
                "cfg_data": In(OPERAND_BITS),
                "p_we": In(1),
                "p_addr": In(p_addr),
                "p_hi": In(DIGIT_BITS),
                "p_lo": In(DIGIT_BITS),
                "p_sx": In(X_SHIFT_BITS),
                "read_addr": In(width),
                "read_values": In(1),
                "read_digit": In(1),
                "x_codes": Out(CODE_BITS),
                "x_shift": Out(X_SHIFT_BITS),
                "x_sum": Out(SUM_BITS),
            },
            params=(blocks, p_blocks),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.operands = operands = Memory(shape=OPERAND_BITS, depth=self._blocks, init=[])
        m.submodules.probabilities = probabilities = Memory(
            shape=2 * DIGIT_BITS + X_SHIFT_BITS, depth=self._p_blocks, init=[]
        )
        write, read = operands.write_port(), operands.read_port()
        p_write, p_read = probabilities.write_port(), probabilities.read_port()
        m.d.comb += [
            write.en.eq(self.we | self.cfg_we),
            write.addr.eq(Mux(self.cfg_we, self.cfg_addr, self.addr)),
            write.data.eq(Mux(self.cfg_we, self.cfg_data, Cat(self.codes, self.sx, self.sum))),
            p_write.en.eq(self.p_we),
            p_write.addr.eq(self.p_addr),
            p_write.data.eq(Cat(self.p_hi, self.p_lo, self.p_sx)),
            read.addr.eq(self.read_addr),
            read.en.eq(~self.read_values),
            p_read.addr.eq(self.read_addr),
            p_read.en.eq(self.read_values),
        ]
        values, digit = Signal(), Signal()
        m.d.sync += [values.eq(self.read_values), digit.eq(self.read_digit)]
        p_hi, p_lo, p_sx = (
            p_read.data[:DIGIT_BITS],
            p_read.data[DIGIT_BITS : 2 * DIGIT_BITS],
            p_read.data[2 * DIGIT_BITS :],
        )
        digits = Mux(digit, p_lo, p_hi)
        wide = Cat(
            Cat(digits.word_select(i, 8), digits[8 * i + 7])[:ACTIVATION_BITS] for i in range(BLOCK)
        )
        with m.If(values):
            m.d.sync += [
                self.x_codes.eq(wide),
                self.x_shift.eq(Mux(digit, p_sx, p_sx + 8)),
                self.x_sum.eq(0),
            ]
        with m.Else():
            m.d.sync += Cat(self.x_codes, self.x_shift, self.x_sum).eq(read.data)
        return m
