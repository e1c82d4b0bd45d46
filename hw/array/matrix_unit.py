"""The array as a block of its own: control, operand buffers, columns and drains."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Signal
from amaranth.lib.wiring import In, Out

from tokenloom.hw.array.array import Array
from tokenloom.hw.array.array_control import ArrayControl
from tokenloom.hw.array.dot_element import SLOTS_MAX, X_SHIFT_BITS
from tokenloom.hw.array.multiplier import Multiplier
from tokenloom.hw.array.operand_buffer import CODE_BITS, OperandBuffer
from tokenloom.hw.array.wiring import connect_control, connect_operands
from tokenloom.hw.numbers.formats import BLOCK, SUM_BITS
from tokenloom.hw.sequencer.isa import ARRAY_OP, OPERAND_BITS
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["MatrixUnit"]

_COUNTS = ("rows_used", "group_rows", "slot_groups", "key_tiles", "value_blocks", "key_blocks")
_BEAT = ("pow2", "codes", "scale", "minimum")


def _check(
    columns: int,
    lanes: int,
    rows: int,
    drain: int,
    slots: int,
    operand_blocks: int,
    token_blocks: int,
    packed: bool,
) -> None:
    """Refuse what a unit inside would refuse, or not stand, when it is too late."""
    least = BLOCK if packed else 1
    blocks_max = 1 << OPERAND_BITS
    for name, value, good, allowed in (
        ("columns", columns, columns >= 2, "2 or more"),
        # An address's low bits say which block of a beat it is.
        ("lanes", lanes, lanes >= least and not lanes & (lanes - 1),
         f"powers of two from {least} on" + (" with packed" if packed else "")),
        ("rows", rows, 1 <= rows <= BLOCK, f"1..{BLOCK}"),
        ("drain", drain, drain >= 1 and columns % drain == 0, f"divisors of columns = {columns}"),
        ("slots", slots, 1 <= slots <= SLOTS_MAX, f"1..{SLOTS_MAX}"),
        ("operand_blocks", operand_blocks, 1 <= operand_blocks <= blocks_max, f"1..{blocks_max}"),
        ("token_blocks", token_blocks, token_blocks >= 1, "1 or more"),
    ):  # fmt: skip
        if not good:
            raise ValueError(f"{name} is {value}; allowed: {allowed}")


class MatrixUnit(Block):
    """Multiplies streamed weight blocks by operands that were written before.

    Parameters
    ----------
    columns, lanes, rows, drain, slots : int
        C, K, R, W and the accumulators per bank, as `Array`. With K below 32 a beat is a block of
        32 and a step takes 32/K cycles.
    operand_blocks : int
        Blocks of 32 that each row's operand buffer holds.
    token_blocks : int
        Blocks of 32 probabilities per slot.
    packed : bool
        Two products per multiplier.
    groups, stages : int
        Column groups, and register stages between them.
    multiplier : Multiplier
        What multiplies the codes.

    Members
    -------
    issue : In(1), `op` begins, in a step in which `ready` is high; op : In, an instruction
        (`isa.ARRAY_OP`); ready : Out(1), the next one can be taken
    rows_used : In, rows of operands in this pass
    group_rows : In, of keys and values: query heads per KV head, times rows;
        slot_groups : In, of keys and values: group_rows / R, rounded up
    key_tiles : In, of keys: tiles of C tokens; value_blocks : In, of values: blocks of 32 tokens
    key_blocks : In, of keys: blocks of 32 in a head
    step : Out(1), the last cycle of a step: what is asked for and what leaves counts in it (always
        high with K of 32 and more)
    take : Out(1), the beat at the ports is taken in this step; will_take : Out(1), in the next
    codes : In, the beat of every column: int8 codes, 32 per block; scale, minimum : In, of every
        column and block a rebased fp16;
        pow2 : In(1), the scale's low five bits are a shift and its mantissa is 1
    we, row, addr, x_codes, x_shift, x_sum : In, a block of row `row`'s operands is written, in the
        step: 32 codes of 9 bits, their shift and their sum
    p_we, p_addr, p_hi, p_lo, p_sx : In, a block of probabilities of row `row`: 32 codes as two
        digits, and their shift
    out_valid, out_index, out_last : Out, of each row: a sum leaves, which one of the operation's it
        is, and whether the last;
        acc : Out, of each row the sum of a matmul;
        wide : Out, of each row W sums at once, of keys and values

    Latency
    -------
    Of the first value after the issue of the tile's last beat: `latency` steps, + r in row r.

    Duration
    --------
    A matmul of t tiles and b beats: t · max(b, C) steps from its issue to the next's.

    Raises
    ------
    ValueError
        When a parameter is out of its range.
    """

    EDGE = 1

    def __init__(
        self,
        *,
        columns: int,
        lanes: int,
        rows: int,
        drain: int,
        slots: int = 1,
        operand_blocks: int = 64,
        token_blocks: int = 2,
        packed: bool = False,
        groups: int = 1,
        stages: int = 0,
        multiplier: Multiplier | None = None,
    ) -> None:
        _check(columns, lanes, rows, drain, slots, operand_blocks, token_blocks, packed)
        self._rows, self._steps = rows, max(1, BLOCK // lanes)
        beat_blocks = max(1, lanes // BLOCK)
        self._array = Array(
            columns=columns,
            lanes=lanes,
            rows=rows,
            drain=drain,
            slots=slots,
            packed=packed,
            groups=groups,
            stages=stages,
            multiplier=multiplier,
        )
        self._control = ArrayControl(
            columns=columns,
            drain=drain,
            rows=rows,
            slots=slots,
            token_blocks=token_blocks,
            edge=self.EDGE,
            beat_blocks=beat_blocks,
            latency=self._array.element_latency,
            crossing=self._array.crossing,
        )
        self._buffer = {
            "blocks": -(-operand_blocks // beat_blocks) * beat_blocks,
            "p_blocks": beat_blocks << self._control.p_bits,
            "beat_blocks": beat_blocks,
        }
        one = OperandBuffer(**self._buffer)
        control, array = self._control, self._array
        self.latency = self.EDGE + control.drain_latency(array.element_latency, array.crossing)
        super().__init__(
            {
                "issue": In(1),
                "op": In(ARRAY_OP.size),
                "ready": Out(1),
                **{name: In(len(getattr(control, name))) for name in _COUNTS},
                "step": Out(1),
                "take": Out(1),
                "will_take": Out(self.EDGE),
                **{name: In(len(getattr(array, name))) for name in _BEAT},
                "we": In(1),
                "row": In(range(max(2, rows))),
                "addr": In(len(one.addr)),
                "x_codes": In(CODE_BITS),
                "x_shift": In(X_SHIFT_BITS),
                "x_sum": In(SUM_BITS),
                "p_we": In(1),
                "p_addr": In(len(one.p_addr)),
                "p_hi": In(8 * BLOCK),
                "p_lo": In(8 * BLOCK),
                "p_sx": In(X_SHIFT_BITS),
                "out_valid": Out(rows),
                "out_index": Out(len(control.out_index)),
                "out_last": Out(rows),
                "acc": Out(len(array.acc)),
                "wide": Out(len(array.wide)),
            },
            params=(*array.params, operand_blocks, token_blocks),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        control, array = self._control, self._array
        step = Const(1, 1)
        if self._steps > 1:
            phase = Signal(range(self._steps))
            m.d.sync += phase.eq(phase + 1)
            step = Signal(name="last_phase")
            m.d.comb += [
                step.eq(phase == self._steps - 1),
                array.phase.eq(phase),
                array.tick.eq(step),
            ]
        slow = self.en & step
        m.submodules.control = instance(control, en=slow)
        m.submodules.array = instance(array, en=self.en)
        for name in ("issue", "op", *_COUNTS):
            m.d.comb += getattr(control, name).eq(getattr(self, name))
        for name in _BEAT:
            m.d.comb += getattr(array, name).eq(getattr(self, name))
        connect_control(m, control, array)
        for r in range(self._rows):
            buffer = OperandBuffer(**self._buffer)
            m.submodules[f"operands{r}"] = instance(buffer, en=slow)
            m.d.comb += [
                buffer.we.eq(self.we & (self.row == r)),
                buffer.addr.eq(self.addr),
                buffer.codes.eq(self.x_codes),
                buffer.sx.eq(self.x_shift),
                buffer.sum.eq(self.x_sum),
                buffer.p_we.eq(self.p_we & (self.row == r)),
                buffer.p_addr.eq(self.p_addr),
                buffer.p_hi.eq(self.p_hi),
                buffer.p_lo.eq(self.p_lo),
                buffer.p_sx.eq(self.p_sx),
            ]
            connect_operands(m, control, buffer, array, row=r)
        m.d.comb += [
            self.step.eq(step),
            self.ready.eq(control.ready & step),
            self.take.eq(control.take & step),
            self.will_take.eq(control.will_take),
            self.out_valid.eq(control.out_valid & step.replicate(self._rows)),
            self.out_index.eq(control.out_index),
            self.out_last.eq(control.out_last & step.replicate(self._rows)),
            self.acc.eq(array.acc),
            self.wide.eq(array.wide),
        ]
        return m
