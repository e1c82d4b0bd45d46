"""Attention around the array: scores, softmax and context of every array row."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data
from amaranth.lib.wiring import In, Out

from tokenloom.hw.array.row_lane import BLOCK_TAG, Target
from tokenloom.hw.attention.context_buffer import ContextBuffer
from tokenloom.hw.attention.context_lane import ContextLane
from tokenloom.hw.attention.scores import Scores
from tokenloom.hw.attention.softmax import Softmax
from tokenloom.hw.attention.v_exponents import VExponents
from tokenloom.hw.numbers.formats import ACC_BITS, BLOCK
from tokenloom.hw.sequencer.isa import (
    ARRAY_OP,
    CHUNK,
    CHUNKS_MAX,
    CONTEXT_OP,
    OPERAND_BITS,
    SOFTMAX_CHUNK_OP,
    SOFTMAX_OP,
    Kind,
    When,
)
from tokenloom.hw.taps import attention_tap, pack_tap
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["Attention"]


class Attention(Block):
    """One lane of `Scores`, `Softmax`, `Context` and `ContextBuffer` per array row.

    Slot s = j·rows + i (head j of the group, row i of the pass) is slot group s div R of lane
    s mod R, so a lane never holds one head of two rows.

    Parameters
    ----------
    columns, drain, rows, slots : int
        C, W, R (a power of two), slot groups.
    tokens_max, dim_blocks, width_max : int
        Longest context, blocks of 32 dims per head, longest concatenation of heads.
    beat_blocks : int
        Blocks of dims that a K beat brings (K / 32).
    head_max : int
        Dims of the longest head, where a context may be longer than `tokens_max` (a power of two):
        it comes in chunks of so many tokens (decision 26). 0 where none is longer.
    taps : bool
        With the port `tap`.

    Members
    -------
    rows_used, group, group_rows, slot_groups, head_size, pos, v_floor : In, pass and model
    chunk_last, chunk_last_windowed : In, with chunks: number of the context's last chunk, and that
        of the window's
    window : In, 0 for none; first : In, windowed operations count their tokens from it on
        (`window.first_token`)
    accs : In(64·W·R), out_valid, out_index, out_slot, out_last, out_op : In, per row, the drains'
    v_we, v_bank, v_tile, v_block, v_shifts : In, V shifts of a K beat
    soft_issue, soft_op : In, soft_ready : Out; ctx_issue, ctx_op : In, ctx_ready : Out
    p_we, p_addr, p_hi, p_lo, p_sx : Out, per row, to the operand buffer; address
        (parity, slot, block)
    block_valid, block_values, block_tag : Out, context blocks to the quantiser (`BLOCK_TAG`)
    keys_done, values_done, soft_done : Out, strobes: the operation's results can be used from the
        next cycle on
    saturated : Out(1)
    tap : Out, with taps: `taps.attention_tap` of every lane

    Latency
    -------
    KEYS_DONE, VALUES_DONE cycles from the last lane's last value to the strobe; a softmax
    `Softmax.latency`; the context's first block CONTEXT_BLOCK cycles after its issue, then one per
    cycle.
    """

    # One delay for both: the array's operations must end in the order of their queue.
    KEYS_DONE = VALUES_DONE = max(Scores.WRITE_LATENCY - 1, ContextLane.LATENCY)
    CONTEXT_BLOCK = 2

    def __init__(
        self,
        *,
        columns: int,
        drain: int,
        rows: int,
        slots: int,
        tokens_max: int,
        dim_blocks: int,
        width_max: int,
        beat_blocks: int = 1,
        taps: bool = False,
        head_max: int = 0,
    ) -> None:
        if head_max and tokens_max & (tokens_max - 1):
            raise ValueError(f"tokens_max = {tokens_max}: allowed with chunks are powers of two")
        self._head_max = head_max
        self._soft_op = SOFTMAX_CHUNK_OP if head_max else SOFTMAX_OP
        chunk = (CHUNKS_MAX - 1).bit_length()
        chunk_ports = {"chunk_last": In(chunk), "chunk_last_windowed": In(chunk)}
        self._c, self._w, self._r, self._slots = columns, drain, rows, slots
        self._tokens, self._dim_blocks = tokens_max, dim_blocks
        self._width = -(-width_max // BLOCK) * BLOCK
        self._beat_blocks, self._taps = beat_blocks, taps
        tapped = {"tap": Out(32 * sum(attention_tap(drain).values()) * rows)}
        self._slot_bits = max(1, (slots - 1).bit_length())
        self._block_bits = max(1, (tokens_max // BLOCK - 1).bit_length())
        p_bits = 1 + self._slot_bits + self._block_bits
        tiles = -(-tokens_max // columns)
        super().__init__(
            {
                "rows_used": In(6),
                "group": In(6),
                "group_rows": In(10),
                "slot_groups": In(self._slot_bits + 1),
                "head_size": In(9),
                "pos": In(20),
                "first": In(20),
                "window": In(20),
                "v_floor": In(5),
                "accs": In(ACC_BITS * drain * rows),
                "out_valid": In(rows),
                "out_index": In(20 * rows),
                "out_slot": In(self._slot_bits * rows),
                "out_last": In(rows),
                "out_op": In(ARRAY_OP.size * rows),
                "v_we": In(1),
                "v_bank": In(1),
                "v_tile": In(max(1, (tiles - 1).bit_length())),
                "v_block": In(max(1, (dim_blocks - 1).bit_length())),
                "v_shifts": In(5 * beat_blocks * columns),
                "soft_issue": In(1),
                "soft_op": In(self._soft_op.size),
                "soft_ready": Out(1),
                "ctx_issue": In(1),
                "ctx_op": In(CONTEXT_OP.size),
                "ctx_ready": Out(1),
                "p_we": Out(rows),
                "p_addr": Out(p_bits * rows),
                "p_hi": Out(256 * rows),
                "p_lo": Out(256 * rows),
                "p_sx": Out(6 * rows),
                "block_valid": Out(1),
                "block_values": Out(32 * BLOCK),
                "block_tag": Out(BLOCK_TAG.size),
                "keys_done": Out(1),
                "values_done": Out(1),
                "soft_done": Out(1),
                "saturated": Out(1),
                **(chunk_ports if head_max else {}),
                **(tapped if taps else {}),
            },
            params=(
                columns, drain, rows, slots, tokens_max, dim_blocks, width_max, beat_blocks, taps,
                head_max,
            ),
        )  # fmt: skip

    def _in_chunk(self, token: Value, number: Value) -> Value:
        """A token's place in a chunk: 0 if it lies before, the chunk's length if behind."""
        place = token - (number << self._tokens.bit_length() - 1)
        return Mux(place < 0, 0, Mux(place > self._tokens, self._tokens, place))

    def _row_of(self, lane: int, slot: Signal) -> tuple[Signal, Signal]:
        """Row i and head j of slot group `slot` in `lane`, for the rows of this pass."""
        depth = 1 << self._slot_bits
        rows, heads = [], []
        for used in range(1, self._r + 1):
            for group in range(depth):
                s = group * self._r + lane
                rows.append(Const(s % used, 5))
                heads.append(Const(s // used, 10))
        index = ((self.rows_used - 1) << self._slot_bits) | slot
        return Array(rows)[index], Array(heads)[index]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shifts = VExponents(
            columns=self._c,
            drain=self._w,
            tokens_max=self._tokens,
            dim_blocks=self._dim_blocks,
            beat_blocks=self._beat_blocks,
        )
        m.submodules.v_exponents = instance(shifts, en=self.en)
        m.d.comb += [
            shifts.we.eq(self.v_we),
            shifts.write_bank.eq(self.v_bank),
            shifts.write_tile.eq(self.v_tile),
            shifts.write_block.eq(self.v_block),
            shifts.write_shifts.eq(self.v_shifts),
        ]

        # The softmax's pace: one word per cycle and slot group, whole blocks of tokens.
        op = data.View(self._soft_op, self.soft_op)
        words_per_block = BLOCK // self._w
        # Where row 0 ends, and where its window begins: windowed operations count from `first` on.
        end, windowed_end, offset = Signal(20), Signal(20), Signal(signed(21))
        m.d.sync += [
            end.eq(self.pos),
            windowed_end.eq(self.pos - self.first),
            offset.eq(self.pos + 1 - self.window - self.first),
        ]

        def bounds(windowed: Value, row: Value, chunk: Value) -> tuple[Value, Value]:
            """First token that counts for a row, and its length; both from the chunk's first on."""
            begin = offset + row
            masked = windowed & (self.window != 0) & (begin >= 0)
            ends = Mux(masked, begin, 0), Mux(windowed, windowed_end, end) + row + 1
            if not self._head_max:
                return ends
            return tuple(self._in_chunk(value, chunk) for value in ends)

        chunk = data.View(CHUNK, op.chunk if self._head_max else Const(0, CHUNK.size))
        number = chunk.number
        blocks = (bounds(op.windowed, self.rows_used - 1, number)[1] + (BLOCK - 1)) >> 5
        words = blocks * words_per_block
        most_words = self._tokens // self._w * self._slots
        left, windowed = Signal(range(most_words)), Signal()
        scanned = Signal.like(number)
        if self._head_max:
            with m.If(self.soft_issue):
                m.d.sync += scanned.eq(number)
        m.d.comb += self.soft_ready.eq(left == 0)
        with m.If(self.soft_issue):
            m.d.sync += [left.eq(words * self.slot_groups - 1), windowed.eq(op.windowed)]
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)

        buffers, saturated = [], []
        for r in range(self._r):
            scores = Scores(drain=self._w, slot_groups=self._slots, tokens_max=self._tokens)
            softmax = Softmax(
                drain=self._w,
                slot_groups=self._slots,
                tokens_max=self._tokens,
                dim_blocks=self._dim_blocks,
                chunks=bool(self._head_max),
            )
            context = ContextLane(
                drain=self._w,
                slot_groups=self._slots,
                width_max=self._width,
                head_max=self._head_max,
            )
            buffer = ContextBuffer(width_max=self._width, drain=self._w)
            buffers.append(buffer)
            for name, block in (("scores", scores), ("softmax", softmax), ("context", context),
                                ("buffer", buffer)):  # fmt: skip
                m.submodules[f"{name}{r}"] = instance(block, en=self.en)

            out_op = data.View(ARRAY_OP, self.out_op.word_select(r, ARRAY_OP.size))
            index = self.out_index.word_select(r, 20)
            slot = self.out_slot.word_select(r, self._slot_bits)
            accs = self.accs.word_select(r, ACC_BITS * self._w)
            row, head = self._row_of(r, slot)
            used = slot * self._r + r < self.group_rows
            out_chunk = data.View(CHUNK, out_op.y_base[: CHUNK.size])
            begin, length = bounds(out_op.windowed, row, out_chunk.number)
            valid = self.out_valid[r]
            starts = index == 0
            if self._head_max:
                # The maximum goes on from chunk to chunk, and when a chunk is scored again.
                starts &= (out_chunk.number == 0) & (out_chunk.when == When.ANY)
                last = Mux(out_op.windowed, self.chunk_last_windowed, self.chunk_last)
                m.d.comb += [
                    softmax.start_opens.eq(chunk.when != When.EARLIER),
                    softmax.start_closes.eq(chunk.number == 0),
                    context.in_place.eq((out_op.block << 5) + index),
                    context.in_opens.eq(out_chunk.number == last),
                    context.in_closes.eq(out_chunk.number == 0),
                ]
            m.d.comb += [
                scores.in_valid.eq(valid & (out_op.kind == Kind.KEYS)),
                scores.in_used.eq(used),
                scores.in_accs.eq(accs),
                scores.in_shift.eq(out_op.shift),
                scores.in_bank.eq(out_op.parity),
                scores.in_slot.eq(slot),
                scores.in_token.eq(index),
                scores.in_begin.eq(begin),
                scores.in_length.eq(length),
                scores.in_start.eq(starts),
                scores.read.eq(softmax.scores_read),
                scores.read_bank.eq(softmax.scores_bank),
                scores.read_slot.eq(softmax.scores_slot),
                scores.read_word.eq(softmax.scores_word),
            ]
            scan_row, _ = self._row_of(r, softmax.slot)
            begin, length = bounds(windowed, scan_row, scanned)
            m.d.comb += [
                softmax.start.eq(self.soft_issue),
                softmax.start_bank.eq(op.scores),
                softmax.start_out_bank.eq(op.parity),
                softmax.start_groups.eq(self.slot_groups),
                softmax.start_words.eq(words),
                softmax.start_block.eq(op.block),
                softmax.first_token.eq(begin),
                softmax.length.eq(length),
                softmax.used.eq(softmax.slot * self._r + r < self.group_rows),
                softmax.scores.eq(scores.read_scores),
                softmax.scores_max.eq(scores.read_max),
                softmax.v_shift.eq(shifts.read_shifts),
                self.p_we[r].eq(softmax.out_valid),
                self.p_addr.word_select(r, len(self.p_addr) // self._r).eq(
                    Cat(softmax.out_block, softmax.out_slot, softmax.out_bank)
                ),
                self.p_hi.word_select(r, 256).eq(softmax.out_hi),
                self.p_lo.word_select(r, 256).eq(softmax.out_lo),
                self.p_sx.word_select(r, 6).eq(softmax.out_sx),
            ]
            if r == 0:
                m.d.comb += [
                    shifts.read.eq(softmax.v_read),
                    shifts.read_bank.eq(softmax.v_bank),
                    shifts.read_token.eq(softmax.v_token),
                    shifts.read_block.eq(softmax.v_block),
                    self.soft_done.eq(softmax.out_last),
                ]
            query_head = out_op.kv_head * self.group + head
            m.d.comb += [
                context.den_valid.eq(softmax.den_valid),
                context.den_bank.eq(softmax.den_bank),
                context.den_slot.eq(softmax.den_slot),
                context.den.eq(softmax.den),
                context.in_valid.eq(valid & (out_op.kind == Kind.VALUES) & used),
                context.in_accs.eq(accs),
                context.in_bank.eq(out_op.aux_shift[0]),
                context.in_slot.eq(slot),
                context.in_dim.eq(query_head * self.head_size + (out_op.block << 5) + index),
                context.in_floor_v.eq(self.v_floor),
                buffer.in_valid.eq(context.out_valid),
                buffer.in_index.eq(context.out_dim),
                buffer.in_values.eq(context.out_values),
            ]
            saturated += [scores.saturated, context.out_saturated]
            if self._taps:
                self._show(m, r, scores, softmax, context)
        m.d.comb += self.saturated.eq(Cat(saturated).any())

        # Lane R-1 is the last; the operation is over when its last value has landed.
        last = data.View(ARRAY_OP, self.out_op.word_select(self._r - 1, ARRAY_OP.size))
        over = self.out_last[self._r - 1]
        for strobe, kind, delay in (
            (self.keys_done, Kind.KEYS, self.KEYS_DONE),
            (self.values_done, Kind.VALUES, self.VALUES_DONE),
        ):
            line = over & (last.kind == kind)
            for k in range(delay):
                register = Signal(name=f"{kind.name.lower()}_over{k}")
                m.d.sync += register.eq(line)
                line = register
            m.d.comb += strobe.eq(line)
        self._context_scan(m, buffers)
        return m

    def _show(
        self, m: Module, lane: int, scores: Scores, softmax: Softmax, context: ContextLane
    ) -> None:
        """A lane's scores as the softmax reads them, its denominators and its output."""
        fields = attention_tap(self._w)
        values = {
            "score_valid": Signal(name=f"tap_score_valid{lane}"),
            "score_slot": Signal.like(softmax.scores_slot, name=f"tap_score_slot{lane}"),
            "score_word": Signal.like(softmax.scores_word, name=f"tap_score_word{lane}"),
            "scores": scores.read_scores,
            "den_valid": softmax.den_valid,
            "den_slot": softmax.den_slot,
            "den": softmax.den,
            "context_valid": context.out_valid,
            "context_slot": context.out_slot,
            "context_dim": context.out_dim,
            "context_values": context.out_values,
        }
        m.d.sync += [
            values["score_valid"].eq(softmax.scores_read),
            values["score_slot"].eq(softmax.scores_slot),
            values["score_word"].eq(softmax.scores_word),
        ]
        size = 32 * sum(fields.values())
        m.d.comb += self.tap.word_select(lane, size).eq(pack_tap(fields, values))

    def _context_scan(self, m: Module, buffers: list[ContextBuffer]) -> None:
        """Reads finished context blocks row by row and hands them to the quantiser."""
        op = data.View(CONTEXT_OP, self.ctx_op)
        active, row, block = Signal(), Signal(5), Signal(OPERAND_BITS)
        first, count, base = (Signal(OPERAND_BITS) for _ in range(3))
        floor, tail = Signal(5), Signal(6)
        # Head in its group and dim of the block's first value; of the operation's first block.
        head, dim = Signal(6), Signal(9)
        head_start, dim_start = Signal(6), Signal(9)
        last_block = block + 1 == first + count
        last_row = row + 1 == self.rows_used
        m.d.comb += self.ctx_ready.eq(~active | (last_block & last_row))

        # Which lane holds each word of the block.
        lane_bits = max(1, (self._r - 1).bit_length())
        lanes = []
        at_head, at_dim = head, dim
        for w in range(BLOCK // self._w):
            lanes.append((at_head * self.rows_used + row)[:lane_bits] if self._r > 1 else Const(0))
            next_head, next_dim = Signal(6, name=f"head_{w}"), Signal(9, name=f"dim_{w}")
            wraps = at_dim + self._w == self.head_size
            m.d.comb += [
                next_dim.eq(Mux(wraps, 0, at_dim + self._w)),
                next_head.eq(Mux(wraps, Mux(at_head + 1 == self.group, 0, at_head + 1), at_head)),
            ]
            at_head, at_dim = next_head, next_dim

        tag, tag_next = Signal(BLOCK_TAG), Signal(BLOCK_TAG)
        chosen = Signal(lane_bits * len(lanes))
        # What lies behind the last head in the buffers is another model's, or noise.
        kept = Signal(len(lanes))
        valid = Signal()
        m.d.comb += [
            tag_next.target.eq(Target.OPERAND),
            tag_next.bank.eq(row),
            tag_next.addr.eq(base + block),
            tag_next.last.eq(last_block & last_row),
            tag_next.floor.eq(floor),
        ]
        m.d.sync += valid.eq(active)
        with m.If(active):
            m.d.sync += [tag.eq(tag_next), chosen.eq(Cat(lanes)), block.eq(block + 1)]
            m.d.sync += [kept[w].eq(~last_block | (tail > w * self._w)) for w in range(len(lanes))]
            m.d.sync += [head.eq(at_head), dim.eq(at_dim)]
            with m.If(last_block):
                m.d.sync += [
                    block.eq(first),
                    row.eq(row + 1),
                    head.eq(head_start),
                    dim.eq(dim_start),
                ]
                with m.If(last_row):
                    # The next operation goes on where this one ended.
                    m.d.sync += [active.eq(0), head_start.eq(at_head), dim_start.eq(at_dim)]
                    m.d.sync += [head.eq(at_head), dim.eq(at_dim)]
        with m.If(self.ctx_issue):
            m.d.sync += [
                active.eq(1),
                row.eq(0),
                block.eq(op.first),
                first.eq(op.first),
                count.eq(op.blocks),
                tail.eq(op.tail),
                base.eq(op.x_base),
                floor.eq(op.floor),
            ]
            with m.If(op.first == 0):
                m.d.sync += [head.eq(0), dim.eq(0), head_start.eq(0), dim_start.eq(0)]
        for buffer in buffers:
            m.d.comb += [buffer.read.eq(active), buffer.read_block.eq(block)]
        size = 32 * self._w
        for w in range(len(lanes)):
            choice = Array(buffer.read_values.word_select(w, size) for buffer in buffers)
            m.d.comb += self.block_values.word_select(w, size).eq(
                Mux(kept[w], choice[chosen.word_select(w, lane_bits)], 0)
            )
        m.d.comb += [self.block_valid.eq(valid), self.block_tag.eq(tag)]
