"""One array row's activations: blocks of codes with shift and sum, a beat of them at a time."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib.wiring import In, Out

from tokenloom.hw.array.dot_element import X_SHIFT_BITS
from tokenloom.hw.numbers.formats import ACTIVATION_BITS, BLOCK, SUM_BITS
from tokenloom.hw.verilog.addressed_memory import addressed_memory
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
    beat_blocks : int
        Blocks that are read at once, a power of two that divides both: block a is block
        a mod beat_blocks of beat a div beat_blocks.

    Members
    -------
    we, addr, codes, sx, sum : In, an operand block is written
    cfg_we, cfg_addr, cfg_data : In, one that stays is written before the first pass
        (`OPERAND_BITS`); never together with `we`
    p_we, p_addr, p_hi, p_lo, p_sx : In, a probability block is written
    read_addr, read_values, read_digit : In; x_codes, x_shift, x_sum : Out, two cycles later, the
        beat's blocks side by side. With `read_values` it is probability blocks' digit: 0 is the
        high one, whose shift is 8 more; the sum is given as 0 (no minima meet probabilities).
    read_mask : In(beat_blocks), blocks whose codes are shown; the others' are zeros

    Latency
    -------
    2 cycles from address to operand; a block can be read in the cycle after its write.
    """

    LATENCY = 2

    def __init__(self, *, blocks: int, p_blocks: int, beat_blocks: int = 1) -> None:
        for name, size in (("blocks", blocks), ("p_blocks", p_blocks)):
            if size < 1 or size % beat_blocks:
                raise ValueError(
                    f"{name} is {size}; allowed: multiples of beat_blocks = {beat_blocks}"
                )
        self._blocks, self._p_blocks, self._beat_blocks = blocks, p_blocks, beat_blocks
        # One block alone has an address, too: a port without bits is no Verilog.
        addr, p_addr = range(max(2, blocks)), range(max(2, p_blocks))
        width = max(1, (max(blocks, p_blocks) // beat_blocks - 1).bit_length())
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
                "read_mask": In(beat_blocks),
                "x_codes": Out(CODE_BITS * beat_blocks),
                "x_shift": Out(X_SHIFT_BITS * beat_blocks),
                "x_sum": Out(SUM_BITS * beat_blocks),
            },
            params=(blocks, p_blocks, beat_blocks),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        values, digit = Signal(), Signal()
        mask = Signal(self._beat_blocks)
        m.d.sync += [
            values.eq(self.read_values),
            digit.eq(self.read_digit),
            mask.eq(self.read_mask),
        ]
        for b in range(self._beat_blocks):
            self._block(m, b, values, digit, mask[b])
        return m

    def _block(self, m: Module, b: int, values: Signal, digit: Signal, shown: Value) -> None:
        """Block number `b` of every beat: its memories, and the beat's part at the output."""
        split = self._beat_blocks.bit_length() - 1
        mine = lambda addr: (addr[:split] == b) if split else Const(1, 1)  # noqa: E731
        operands = addressed_memory(
            shape=OPERAND_BITS,
            depth=self._blocks // self._beat_blocks,
        )
        probabilities = addressed_memory(
            shape=2 * DIGIT_BITS + X_SHIFT_BITS,
            depth=self._p_blocks // self._beat_blocks,
        )
        suffix = f"_of{b}" if split else ""
        m.submodules[f"operands{suffix}"] = operands
        m.submodules[f"probabilities{suffix}"] = probabilities
        write, read = operands.write_port(), operands.read_port()
        p_write, p_read = probabilities.write_port(), probabilities.read_port()
        m.d.comb += [
            write.en.eq((self.we & mine(self.addr)) | (self.cfg_we & mine(self.cfg_addr))),
            write.addr.eq(Mux(self.cfg_we, self.cfg_addr, self.addr)[split:]),
            write.data.eq(Mux(self.cfg_we, self.cfg_data, Cat(self.codes, self.sx, self.sum))),
            p_write.en.eq(self.p_we & mine(self.p_addr)),
            p_write.addr.eq(self.p_addr[split:]),
            p_write.data.eq(Cat(self.p_hi, self.p_lo, self.p_sx)),
            read.addr.eq(self.read_addr),
            read.en.eq(~self.read_values),
            p_read.addr.eq(self.read_addr),
            p_read.en.eq(self.read_values),
        ]
        p_hi, p_lo, p_sx = (
            p_read.data[:DIGIT_BITS],
            p_read.data[DIGIT_BITS : 2 * DIGIT_BITS],
            p_read.data[2 * DIGIT_BITS :],
        )
        digits = Mux(digit, p_lo, p_hi)
        wide = Cat(
            Cat(digits.word_select(i, 8), digits[8 * i + 7])[:ACTIVATION_BITS] for i in range(BLOCK)
        )
        codes = self.x_codes.word_select(b, CODE_BITS)
        shift = self.x_shift.word_select(b, X_SHIFT_BITS)
        total = self.x_sum.word_select(b, SUM_BITS)
        with m.If(values):
            m.d.sync += [
                codes.eq(wide),
                shift.eq(Mux(digit, p_sx, p_sx + 8)),
                total.eq(0),
            ]
        with m.Else():
            m.d.sync += Cat(codes, shift, total).eq(read.data)
        with m.If(~shown):
            m.d.sync += codes.eq(0)
