"""The FFN on its own: gate, up, activation, down and residual, built of the chip's units."""

from __future__ import annotations

from amaranth.hdl import Array as Choice
from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data
from amaranth.lib.wiring import In, Out

from tokenloom.hw.array.array import Array
from tokenloom.hw.array.array_control import ArrayControl
from tokenloom.hw.array.collector import Collector
from tokenloom.hw.array.drain_lane import DrainLane
from tokenloom.hw.array.operand_buffer import OperandBuffer
from tokenloom.hw.array.quantiser import Quantiser
from tokenloom.hw.array.wiring import connect_control, connect_operands
from tokenloom.hw.ffn.activation import Activation
from tokenloom.hw.ffn.swiglu import Swiglu
from tokenloom.hw.norm.residual import Residual
from tokenloom.hw.numbers.formats import ACC_BITS, ACTIVATION_BITS, BLOCK, SUM_BITS
from tokenloom.hw.sequencer.isa import ARRAY_OP, OPERAND_BITS, Dest, Kind
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["FfnBlock"]

_EDGE = 1
# What travels with a sum through the drain, and with a hidden value to the quantiser.
_SUM = data.StructLayout({"down": 1, "last": 1, "index": 20})
_HIDDEN = data.StructLayout({"addr": OPERAND_BITS, "row": 5, "last": 1})


class FfnBlock(Block):
    """`r += down · mx(f(gate · x) ∘ (up · x))`, up to R rows, on an array of its own.

    The units are the chip's, and so are the rounding points: `drain`, `silu`, `swiglu`, `mx`,
    `drain`, `residual`. Inside is a belt that stands still while a weight beat is missing.

    Parameters
    ----------
    width, ffn : int
        Largest D and F.
    columns : int
        C, a power of two: weight rows at once.
    rows : int
        R, 1, 2, 4, ... 32: tokens that share the weights.
    norm_lanes : int
        Values per word of the residual's read port: 1, 2, 4, 8, 16 or 32.
    activation, stages, gated
        See `Swiglu`. Without a gate the first matrix has F rows instead of 2 F.

    Members
    -------
    used_width, used_ffn, rows_used : In
        D, F and the rows of this run. These, the shifts and the floor rest during a run.
    hidden_shift, product_shift, down_shift : In(6)
        Shift of the first `drain`, of `swiglu`, and of the second `drain`.
    floor : In(5)
        Floor of the hidden values' quantiser.
    x_valid, x_ready, x_row, x_block, x_codes, x_sx, x_sum : In, Out, In
        A quantised block of the operand: 32 codes of 9 bits, shift, sum. Not during a run.
    r_valid, r_ready, r_row, r_index, r_value : In, Out, In
        A value of the residual is set. Not during a run.
    start_valid, start_ready : In(1), Out(1)
        A run begins. After one whose last tile is not full, up to 2 C cycles pass until it can.
    done : Out(1)
        Strobe: the residual holds the result.
    w_valid, w_ready, w_codes, w_scale, w_minimum : In, Out, In
        A weight beat: for each column 32 int8 codes, rebased scale and minimum. First matrix, then
        second; tile by tile (row n in column n mod C), in a tile block by block. Gate row i is row
        2 i of the first matrix, up row i is row 2 i + 1. Rows of a last tile beyond the matrix are
        of no account.
    read_en, read_row, read_addr : In
        Read a word of the residual. Not during a run.
    read_data : Out(32 * norm_lanes)
        The word, one cycle later.
    saturated : Out(1)
        Strobe: a value was clamped.

    Latency
    -------
    The array takes its first beat `first_take` = 3 cycles after `start`.

    Duration
    --------
    `duration(...)` cycles from `start` to `done`, if every beat is there in time; a cycle more for
    each in which one is not.

    Raises
    ------
    ValueError
        When a parameter is out of its range.
    """

    belt = False

    FIRST_TAKE = 2 + _EDGE

    def __init__(
        self,
        *,
        width: int,
        ffn: int,
        columns: int,
        rows: int = 1,
        norm_lanes: int = 8,
        activation: str = "silu",
        stages: int = Activation.STAGES,
        gated: bool = True,
    ) -> None:
        for name, value, most in (("columns", columns, 256), ("rows", rows, 32)):
            if not 1 <= value <= most or value & (value - 1):
                raise ValueError(f"{name} = {value}: allowed are powers of two up to {most}")
        if columns < 2:
            raise ValueError(f"columns = {columns}: allowed are 2 or more")
        self._x_blocks, self._h_blocks = -(-width // BLOCK), -(-ffn // BLOCK)
        if width < 1 or ffn < 1 or self._x_blocks + self._h_blocks > 1 << OPERAND_BITS:
            raise ValueError(
                f"width = {width} and ffn = {ffn}: allowed are 1 or more and together "
                f"{1 << OPERAND_BITS} blocks of {BLOCK}"
            )
        self._c, self._r, self._gated = columns, rows, gated
        self._width, self._ffn = width, ffn
        self._norm_lanes = norm_lanes
        self._swiglu = {"activation": activation, "stages": stages, "gated": gated}
        self._residual = Residual(width=width, norm_lanes=norm_lanes)
        self._lane_latency = self._make_swiglu().latency
        row = range(max(2, rows))
        super().__init__(
            {
                "used_width": In(range(width + 1)),
                "used_ffn": In(range(ffn + 1)),
                "rows_used": In(range(rows + 1)),
                "hidden_shift": In(6),
                "product_shift": In(6),
                "down_shift": In(6),
                "floor": In(5),
                "x_valid": In(1),
                "x_ready": Out(1),
                "x_row": In(row),
                "x_block": In(range(max(2, self._x_blocks))),
                "x_codes": In(ACTIVATION_BITS * BLOCK),
                "x_sx": In(6),
                "x_sum": In(SUM_BITS),
                "r_valid": In(1),
                "r_ready": Out(1),
                "r_row": In(row),
                "r_index": In(range(max(2, width))),
                "r_value": In(32),
                "start_valid": In(1),
                "start_ready": Out(1),
                "done": Out(1),
                "w_valid": In(1),
                "w_ready": Out(1),
                "w_codes": In(8 * BLOCK * columns),
                "w_scale": In(16 * columns),
                "w_minimum": In(16 * columns),
                "read_en": In(1),
                "read_row": In(row),
                "read_addr": In(range(max(2, self._residual.words))),
                "read_data": Out(32 * norm_lanes),
                "saturated": Out(1),
            },
            params=(width, ffn, columns, rows, norm_lanes, activation, stages, gated),
        )

    def _make_swiglu(self) -> Swiglu:
        unit = Swiglu(tag_bits=_HIDDEN.size + 1, **self._swiglu)  # type: ignore[arg-type]
        unit.module_name = "ffn_activation"
        return unit

    def _operation(self, *, outputs: int, inputs: int) -> int:
        """Cycles from the issue of an operation to row 0's last sum at the drain's output."""
        tiles, beats = -(-outputs // self._c), -(-inputs // BLOCK)
        issue = (tiles - 1) * max(beats, self._c) + beats - 1
        return 1 + issue + _EDGE + ArrayControl.DRAIN + (outputs - 1) % self._c

    def _rest(self, *, outputs: int, inputs: int) -> int:
        """Cycles from the issue of an operation to the array's rest: all columns have drained."""
        tiles, beats = -(-outputs // self._c), -(-inputs // BLOCK)
        return (tiles - 1) * max(beats, self._c) + beats + self._c

    def _outputs(self, ffn: int) -> int:
        """Rows of the first matrix."""
        return 2 * ffn if self._gated else ffn

    def _wait(self, *, width: int, ffn: int, rows_used: int) -> int:
        """Cycles that a short last block waits for the other rows' blocks before it."""
        whole = (ffn - 1) // BLOCK * BLOCK
        if not whole:
            return 0
        span = max(-(-width // BLOCK), self._c)
        first, last = (
            output // self._c * span + output % self._c
            for output in (self._outputs(whole) - 1, self._outputs(ffn) - 1)
        )
        return max(0, rows_used - (last - first))

    def beats(self, *, width: int, ffn: int) -> int:
        """Weight beats of a run."""
        first = -(-self._outputs(ffn) // self._c) * -(-width // BLOCK)
        return first + -(-width // self._c) * -(-ffn // BLOCK)

    def duration(self, *, width: int, ffn: int, rows_used: int) -> int:
        """Cycles from `start` to `done`."""
        first = self._operation(outputs=self._outputs(ffn), inputs=width)
        hidden = DrainLane.LATENCY + self._lane_latency + Collector.LATENCY + Quantiser.LATENCY
        hidden += rows_used - 1 + self._wait(width=width, ffn=ffn, rows_used=rows_used)
        second = self._operation(outputs=width, inputs=ffn)
        down = DrainLane.LATENCY + Residual.LATENCY
        rest = self._rest(outputs=self._outputs(ffn), inputs=width)
        return 2 + max(first + hidden, rest) + second + down + rows_used - 1

    def elaborate(self, platform: object) -> Module:
        m = Module()
        enable = Signal()
        place = lambda name, block: m.submodules.__setitem__(name, instance(block, en=enable))  # noqa: E731
        control = ArrayControl(
            columns=self._c, drain=1, rows=self._r, slots=1, token_blocks=1, edge=_EDGE
        )
        array = Array(columns=self._c, lanes=BLOCK, rows=self._r, drain=1, slots=1)
        quantiser = Quantiser(tag_bits=_HIDDEN.size)
        for name, block in (("control", control), ("array", array), ("quantiser", quantiser)):
            place(name, block)
        busy, hidden_done, all_done = Signal(), Signal(), Signal()
        self._program(m, enable, control, busy, hidden_done, all_done)

        # The array: a cycle in which it takes a beat that is not there does not happen.
        m.d.comb += [
            enable.eq(~control.take | self.w_valid),
            self.w_ready.eq(control.take),
            control.rows_used.eq(self.rows_used),
            array.codes.eq(self.w_codes),
            array.scale.eq(self.w_scale),
            array.minimum.eq(self.w_minimum),
        ]
        connect_control(m, control, array)

        # Rows. Each is a cycle behind the one before, so of their whole blocks at most one comes in
        # a cycle. A row's last block can be shorter and come sooner: it waits in its collector,
        # where nothing follows it, until no whole block and no row before this one wants to go.
        collectors = []
        hidden = data.View(_HIDDEN, quantiser.out_tag)
        saturated: list[Value] = []
        residuals = []
        for r in range(self._r):
            drain, swiglu = DrainLane(tag_bits=_SUM.size), self._make_swiglu()
            drain.module_name, collector = "ffn_drain", Collector(tag_bits=_HIDDEN.size)
            collector.module_name = "ffn_collector"
            collectors.append(collector)
            residual = Residual(width=self._width, norm_lanes=self._norm_lanes)
            residuals.append(residual)
            buffer = OperandBuffer(
                blocks=self._x_blocks + self._h_blocks, p_blocks=1 << control.p_bits
            )
            for name, block in (("drain", drain), ("swiglu", swiglu), ("collector", collector),
                                ("residual", residual), ("operands", buffer)):  # fmt: skip
                place(f"{name}{r}", block)
            op = data.View(ARRAY_OP, control.out_op.word_select(r, ARRAY_OP.size))
            tag, back = Signal(_SUM, name=f"tag{r}"), data.View(_SUM, drain.out_tag)
            hidden_tag = Signal(_HIDDEN, name=f"hidden_tag{r}")
            index = back.index[1:] if self._gated else back.index
            to_swiglu = drain.out_valid & ~back.down
            loads = self.r_valid & self.r_ready & (self.r_row == r)
            m.d.comb += [
                tag.down.eq(op.dest == Dest.RESIDUAL),
                tag.last.eq(control.out_last[r]),
                tag.index.eq(control.out_index.word_select(r, 20)),
                drain.in_valid.eq(control.out_valid[r]),
                drain.in_acc.eq(array.acc.word_select(r, ACC_BITS)),
                drain.in_shift.eq(op.shift),
                drain.in_tag.eq(tag),
                hidden_tag.addr.eq(self._x_blocks + index[5:]),
                hidden_tag.row.eq(r),
                hidden_tag.last.eq(back.last),
                swiglu.in_valid.eq(to_swiglu),
                swiglu.in_value.eq(drain.out_value),
                swiglu.in_shift.eq(self.product_shift),
                swiglu.in_tag.eq(Cat(hidden_tag, index[:5].all() | back.last)),
                collector.in_valid.eq(swiglu.out_valid),
                collector.in_value.eq(swiglu.out_value),
                collector.in_tag.eq(swiglu.out_tag[: _HIDDEN.size]),
                collector.in_close.eq(swiglu.out_tag[_HIDDEN.size]),
                residual.in_valid.eq(loads | (drain.out_valid & back.down)),
                residual.in_value.eq(Mux(loads, self.r_value.as_signed(), drain.out_value)),
                residual.in_index.eq(Mux(loads, self.r_index, back.index)),
                residual.in_first.eq(loads),
                residual.in_start.eq(~loads & (back.index == 0)),
                residual.in_last.eq(~loads & back.last),
                residual.read_en.eq(self.read_en & (self.read_row == r)),
                residual.read_addr.eq(self.read_addr),
            ]
            if self._gated:
                m.d.comb += swiglu.in_is_up.eq(back.index[0])
            saturated += [drain.out_saturated, swiglu.out_saturated, residual.saturated]
            # The operand buffer: x from outside, hidden blocks from the quantiser.
            writes = quantiser.out_valid & (hidden.row == r)
            m.d.comb += [
                buffer.we.eq(writes | (self.x_valid & self.x_ready & (self.x_row == r))),
                buffer.addr.eq(Mux(writes, hidden.addr, self.x_block)),
                buffer.codes.eq(Mux(writes, quantiser.out_codes, self.x_codes)),
                buffer.sx.eq(Mux(writes, quantiser.out_sx, self.x_sx)),
                buffer.sum.eq(Mux(writes, quantiser.out_sum, self.x_sum)),
            ]
            connect_operands(m, control, buffer, array, row=r)

        def is_last(collector: Collector) -> Value:
            return data.View(_HIDDEN, collector.out_tag).last

        whole = [one.out_valid & ~is_last(one) for one in collectors]
        taken = Cat(whole).any()
        for r, collector in enumerate(collectors):
            waits = Signal(name=f"waits{r}")
            wants = waits | (collector.out_valid & is_last(collector))
            with m.If(enable):
                m.d.sync += waits.eq(wants & taken)
            with m.If(whole[r] | (wants & ~taken)):
                m.d.comb += [
                    quantiser.in_valid.eq(1),
                    quantiser.in_values.eq(collector.out_values),
                    quantiser.in_tag.eq(collector.out_tag),
                ]
            taken = taken | wants

        last_row = (self.rows_used - 1)[: len(self.x_row)]
        read_row = Signal.like(self.read_row)
        m.d.sync += read_row.eq(self.read_row)
        m.d.comb += [
            quantiser.in_floor.eq(self.floor),
            hidden_done.eq(quantiser.out_valid & hidden.last & (hidden.row == last_row)),
            all_done.eq(Choice(residual.done for residual in residuals)[last_row]),
            self.x_ready.eq(~busy),
            self.r_ready.eq(~busy),
            self.start_ready.eq(~busy & control.rests),
            self.read_data.eq(Choice(residual.read_data for residual in residuals)[read_row]),
            self.saturated.eq(enable & Cat(saturated).any()),
        ]
        return m

    def _program(
        self,
        m: Module,
        enable: Signal,
        control: ArrayControl,
        busy: Signal,
        hidden_done: Signal,
        all_done: Signal,
    ) -> None:
        """Two operations, the second when the last hidden block is written and the array rests."""
        column_bits = self._c.bit_length() - 1
        down, issue, hidden = Signal(), Signal(), Signal()
        op = data.View(ARRAY_OP, control.op)
        outputs = self.used_ffn << 1 if self._gated else self.used_ffn
        count = Mux(down, self.used_width, outputs)
        inputs = Mux(down, self.used_ffn, self.used_width)
        m.d.comb += [
            op.kind.eq(Kind.MATMUL),
            op.dest.eq(Mux(down, Dest.RESIDUAL, Dest.GATE_UP)),
            op.tiles.eq((count + (self._c - 1)) >> column_bits),
            op.beats.eq((inputs + (BLOCK - 1)) >> 5),
            op.count.eq(count),
            op.x_base.eq(Mux(down, self._x_blocks, 0)),
            op.shift.eq(Mux(down, self.down_shift, self.hidden_shift)),
            control.issue.eq(issue),
            self.done.eq(busy & down & enable & all_done),
        ]
        with m.If(enable):
            m.d.sync += issue.eq(0)
            with m.If(hidden_done):
                m.d.sync += hidden.eq(1)
            with m.If(self.start_valid & self.start_ready):
                m.d.sync += [busy.eq(1), down.eq(0), issue.eq(1), hidden.eq(0)]
            # A last tile that is not full still holds the array for the rest of its columns.
            with m.Elif(busy & ~down & (hidden | hidden_done) & control.rests):
                m.d.sync += [down.eq(1), issue.eq(1)]
            with m.Elif(self.done):
                m.d.sync += busy.eq(0)
