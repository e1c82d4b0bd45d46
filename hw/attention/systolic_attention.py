"""Systolic attention: the attention of one KV head as a block of its own, array and buffers in it.

Composed of the chip's units. The chip never holds this block: there the one array serves attention
and matrices alike, and the compiler's program takes this block's place.
"""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.wiring import In, Out

from tokenloom.hw.array.array import Array
from tokenloom.hw.array.array_control import ArrayControl
from tokenloom.hw.array.dot_element import SLOTS_MAX, X_SHIFT_BITS
from tokenloom.hw.array.operand_buffer import OperandBuffer
from tokenloom.hw.array.row_lane import BLOCK_TAG
from tokenloom.hw.array.wiring import connect_control, connect_operands
from tokenloom.hw.attention.attention import Attention
from tokenloom.hw.attention.softmax import Softmax
from tokenloom.hw.numbers.formats import ACTIVATION_BITS, BLOCK, TOKENS_MAX
from tokenloom.hw.sequencer.isa import (
    ARRAY_OP,
    CHUNKS_MAX,
    CONTEXT_OP,
    OPERAND_BITS,
    SOFTMAX_CHUNK_OP,
    SOFTMAX_OP,
    Kind,
    When,
    chunk_tokens,
)
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["AttentionTiming", "SystolicAttention"]

_EDGE = 1
# The context's last chunk, the one in work, the next to be looked at.
_CHUNK_NUMBERS = ("chunk_last", "chunk", "chunk_looked")


@dataclass(frozen=True, kw_only=True)
class AttentionTiming:
    """Belt cycles, counted from `start`.

    Attributes
    ----------
    keys, softmax, values : int
        Last cycle of the scores, of the last block of probabilities, of the last values.
    first_block, last : int
        Cycle of the first context block, and of the last.
    beats : int
        Beats that each column takes.
    """

    keys: int
    softmax: int
    values: int
    first_block: int
    last: int
    beats: int


class SystolicAttention(Block):
    """`softmax(q·kᵀ)·v` of a group of query heads over one KV head, causal, perhaps windowed.

    Slot s = j·rows_used + i (head j of the group, row i of the pass) is slot group s div R of array
    row s mod R; its query's blocks lie at `(s div R)·key_blocks + block` there.

    Parameters
    ----------
    columns, rows, drain, slots : int
        C, R (powers of two, R up to 32), W, slot groups (up to 64).
    tokens_max, head_max : int
        Longest context, longest head.
    score_tokens : int
        Tokens whose scores are held at a time, a power of two; 0: all. A longer context comes in
        chunks of so many (decision 26), all but the last of whose keys are streamed twice.

    Members
    -------
    q_we, q_row, q_addr, q_codes, q_shift : In, a block of a query (9-bit codes)
    start : In(1), with the next ports as they stay until `ready`; ready : Out(1), low from `start`
        to the last block
    rows_used, group, head_size, pos : In, rows of the pass, heads, dims, first row's position
    first, window : In, the first token that is streamed (a multiple of 32 and C), tokens that a row
        sees (0: all); `window.first_token`
    score_shift, v_floor : In, shift that leaves 11 fraction bits; see docs/numbers.md
    will_take : Out(1), a beat is taken in the next cycle; take : Out(1),
        the beat at the ports is taken
    codes : In(8·32·C), k_shift, v_shift : In(5·C), with `take`
        Beats of K, tile by tile (C tokens), block by block: column c has token `tile·C + c`, K's
        shift of this block, and V's. Then per block of dims and tile of C dims those of V: 32
        tokens of dim `32·block + tile·C + c`. With several chunks the keys of all of them, then
        from the last chunk down its keys (not the last chunk's again) and values.
    block_valid, block_row, block_index, block_values, block_last : Out
        Blocks of 32 fixed32 values of a row's concatenated heads.
    saturated : Out(1), strobe

    Latency
    -------
    `timing(...)`: exact.

    Duration
    --------
    From `start` to the last block; the next `start` may follow in the next cycle.

    Raises
    ------
    ValueError
        When a parameter is outside its range.
    """

    def __init__(
        self,
        *,
        columns: int,
        rows: int,
        drain: int,
        slots: int,
        tokens_max: int,
        head_max: int,
        score_tokens: int = 0,
    ) -> None:
        for name, value in (("columns", columns), ("rows", rows), ("drain", drain)):
            if value < 1 or value & (value - 1):
                raise ValueError(f"{name} = {value} is impossible: allowed are powers of two")
        if columns % drain or columns < 2:
            raise ValueError(
                f"columns = {columns} is impossible: allowed are multiples of drain = {drain}, "
                "from 2 on"
            )
        if rows > BLOCK:
            raise ValueError(
                f"rows = {rows} is impossible: allowed are powers of two up to {BLOCK}"
            )
        if not 1 <= slots <= SLOTS_MAX:
            raise ValueError(f"slots = {slots} is impossible: allowed is 1 to {SLOTS_MAX}")
        chunked = 0 < score_tokens < tokens_max
        if not 1 <= tokens_max <= TOKENS_MAX or (tokens_max % BLOCK and not chunked):
            raise ValueError(
                f"tokens_max = {tokens_max} is impossible: allowed are multiples of {BLOCK} up to "
                f"{TOKENS_MAX}, in chunks of score_tokens any number"
            )
        if head_max < drain or head_max > 8 * BLOCK or head_max % drain:
            raise ValueError(
                f"head_max = {head_max} is impossible: allowed are multiples of drain = {drain} "
                f"up to {8 * BLOCK}"
            )
        least = max(BLOCK, columns, tokens_max // CHUNKS_MAX)
        if score_tokens and (score_tokens & (score_tokens - 1) or score_tokens < least):
            raise ValueError(
                f"score_tokens = {score_tokens} is impossible: allowed are 0 and powers of two "
                f"from {least} on, a block, a tile and at most {CHUNKS_MAX} chunks"
            )
        self._c, self._r, self._w, self._slots = columns, rows, drain, slots
        self._chunked = chunked
        self._tokens, self._head = score_tokens if self._chunked else tokens_max, head_max
        self._head_blocks = -(-head_max // BLOCK)
        super().__init__(
            {
                "q_we": In(1),
                "q_row": In(range(max(2, rows))),
                "q_addr": In(range(max(2, slots * self._head_blocks))),
                "q_codes": In(ACTIVATION_BITS * BLOCK),
                "q_shift": In(X_SHIFT_BITS),
                "start": In(1),
                "ready": Out(1),
                "rows_used": In(6),
                "group": In(6),
                "head_size": In(9),
                "pos": In(20),
                "first": In(20),
                "window": In(20),
                "score_shift": In(6),
                "v_floor": In(5),
                "will_take": Out(1),
                "take": Out(1),
                "codes": In(8 * BLOCK * columns),
                "k_shift": In(5 * columns),
                "v_shift": In(5 * columns),
                "block_valid": Out(1),
                "block_row": Out(5),
                "block_index": Out(OPERAND_BITS),
                "block_values": Out(32 * BLOCK),
                "block_last": Out(1),
                "saturated": Out(1),
            },
            params=(columns, rows, drain, slots, tokens_max, head_max, score_tokens),
        )

    def timing(self, *, rows_used: int, group: int, head_size: int, tokens: int) -> AttentionTiming:
        """When it is done.

        Parameters
        ----------
        rows_used, group, head_size : int
            As the ports.
        tokens : int
            Tokens that are streamed: `pos + rows_used - first`.
        """
        c, w, r = self._c, self._w, self._r
        groups, blocks = -(-group * rows_used // r), -(-head_size // BLOCK)
        drain = c // w
        end_tail = _EDGE + ArrayControl.DRAIN + groups * drain - 1 + r - 1

        def tile(beats: int) -> int:
            return groups * max(beats, drain)

        size = self._tokens if self._chunked else tokens
        chunks = -(-tokens // size)
        array_free = drained = beats = 0

        def play(begin: int, tiles: int, length: int) -> int:
            """Issue an operation of so many beats per tile; its last cycle."""
            nonlocal array_free, drained
            lead = 1 + (length - 1) * groups
            first = max(begin, array_free)
            first += max(0, drained - first - lead)
            array_free = first + tiles * tile(length)
            issued = first + lead + (tiles - 1) * tile(length)
            drained = issued + groups * drain
            return issued + end_tail

        def keys_of(chunk: int) -> int:
            nonlocal beats
            tiles = -(-min(size, tokens - chunk * size) // c)
            beats += tiles * blocks
            return play(0, tiles, blocks) + Attention.KEYS_DONE

        keys = max(keys_of(chunk) for chunk in range(chunks))
        soft_free, soft, values = 0, [0] * blocks, [0] * blocks
        for chunk in reversed(range(chunks)):
            held = -(-min(size, tokens - chunk * size) // BLOCK)
            words = held * BLOCK // w
            if chunk + 1 < chunks:
                keys = keys_of(chunk)
            for b in range(blocks):
                begin = max(keys + 1, soft_free, values[b - 2] + 1 if b >= 2 else 0)
                soft_free = begin + Softmax.duration(groups, words)
                soft[b] = begin + Softmax.latency(groups, words)
                tiles = -(-min(BLOCK, head_size - BLOCK * b) // c)
                values[b] = play(soft[b] + 1, tiles, 2 * held) + Attention.VALUES_DONE
                beats += tiles * held
        out = rows_used * -(-group * head_size // BLOCK)
        first_block = values[-1] + 1 + Attention.CONTEXT_BLOCK
        return AttentionTiming(
            keys=keys,
            softmax=soft[-1],
            values=values[-1],
            first_block=first_block,
            last=first_block + out - 1,
            beats=beats,
        )

    def elaborate(self, platform: object) -> Module:
        """Units, and who may begin when."""
        m = Module()
        slots, rows = self._slots, self._r
        control = ArrayControl(
            columns=self._c, drain=self._w, rows=rows, slots=slots,
            token_blocks=self._tokens // BLOCK, edge=_EDGE,
        )  # fmt: skip
        array = Array(columns=self._c, lanes=BLOCK, rows=rows, drain=self._w, slots=slots)
        attention = Attention(
            columns=self._c, drain=self._w, rows=rows, slots=slots, tokens_max=self._tokens,
            dim_blocks=self._head_blocks, width_max=slots * rows * self._head,
            head_max=self._head if self._chunked else 0,
        )  # fmt: skip
        m.submodules.array_control = instance(control, en=self.en)
        m.submodules.array = instance(array, en=self.en)
        m.submodules.attention = instance(attention, en=self.en)

        # What pass and head make of each other.
        group_rows, tokens = Signal(10), Signal(20)
        slot_groups = Signal(slots.bit_length() + 1)
        key_blocks, width = Signal(4), Signal(16)
        m.d.comb += [
            group_rows.eq(self.group * self.rows_used),
            slot_groups.eq((group_rows + (rows - 1)) >> (rows.bit_length() - 1)),
            tokens.eq(self.pos + self.rows_used - self.first),
            key_blocks.eq((self.head_size + (BLOCK - 1)) >> 5),
            width.eq(self.group * self.head_size),
        ]

        tag = data.View(BLOCK_TAG, attention.block_tag)

        # Scores, then per block of dims softmax and values, then the context.
        soft_begun, soft_over, begun, over = (Signal(4, name=f"count{i}") for i in range(4))
        scored, done = Signal(), Signal(init=1)
        array_op = Signal(ARRAY_OP)
        soft_op = Signal(SOFTMAX_CHUNK_OP if self._chunked else SOFTMAX_OP)
        ctx_op = Signal(CONTEXT_OP)
        dims_left = Signal(9)
        values_now, soft_now, out_now, out_sent = Signal(), Signal(), Signal(), Signal()
        all_over, all_scored, in_chunk = over == key_blocks, Const(1), tokens
        issues = self.start | values_now
        last, chunk, looked = (Signal(range(CHUNKS_MAX), name=name) for name in _CHUNK_NUMBERS)
        owed, looking, keys_now = Signal(range(CHUNKS_MAX + 1)), Signal(), Signal()
        if self._chunked:
            bits = self._tokens.bit_length() - 1
            here = Mux(values_now, chunk, Mux(looking, looked, chunk - 1))
            number, again = Signal.like(chunk), Signal()
            in_chunk = chunk_tokens(tokens, number, self._tokens)
            all_over &= scored & (chunk == 0)
            all_scored = ~looking & (owed == 1)
            issues |= keys_now
            m.d.comb += [
                last.eq((tokens - 1) >> bits),
                keys_now.eq(
                    ~done & control.ready & (looking | ((begun == key_blocks) & (chunk != 0)))
                ),
                number.eq(Mux(self.start, 0, here)),
                again.eq(keys_now & ~looking),
                array_op.y_base.eq(Cat(number, Mux(again, When.EARLIER, When.ANY))),
                soft_op.chunk.eq(Cat(chunk, Mux(chunk == last, When.ANY, When.EARLIER))),
                attention.chunk_last.eq(last),
                attention.chunk_last_windowed.eq(last),
            ]
        m.d.comb += [
            self.ready.eq(done),
            values_now.eq(~done & (begun != soft_over) & control.ready),
            soft_now.eq(
                ~done & scored & (soft_begun != key_blocks) & attention.soft_ready
                & (soft_begun < over + 2)
            ),
            out_now.eq(~done & all_over & ~out_sent & attention.ctx_ready),
            dims_left.eq(self.head_size - (begun << 5)),
            array_op.shift.eq(self.score_shift),
            array_op.windowed.eq(1),
            soft_op.windowed.eq(1),
            soft_op.block.eq(soft_begun),
            soft_op.parity.eq(soft_begun[0]),
            ctx_op.blocks.eq((width + (BLOCK - 1)) >> 5),
            ctx_op.tail.eq(((width - 1)[:5]) + 1),
        ]  # fmt: skip
        count = Mux(dims_left > BLOCK, BLOCK, dims_left)
        tiles = (count + (self._c - 1)) >> (self._c.bit_length() - 1)
        # Muxes: a field that is constant beside others in an `If` is a process without a trigger.
        m.d.comb += [
            array_op.kind.eq(Mux(values_now, Kind.VALUES, Kind.KEYS)),
            array_op.tiles.eq(Mux(values_now, tiles, 0)),
            array_op.count.eq(Mux(values_now, count, 0)),
            array_op.block.eq(Mux(values_now, begun, 0)),
            array_op.parity.eq(values_now & begun[0]),
            array_op.beats.eq(Mux(values_now, 0, key_blocks)),
        ]
        with m.If(self.start):
            m.d.sync += [
                done.eq(0), scored.eq(0), out_sent.eq(0), soft_begun.eq(0), soft_over.eq(0),
                begun.eq(0), over.eq(0),
            ]  # fmt: skip
        with m.Else():
            m.d.sync += [
                soft_begun.eq(soft_begun + soft_now),
                soft_over.eq(soft_over + attention.soft_done),
                begun.eq(begun + values_now),
                over.eq(over + attention.values_done),
            ]
            with m.If(attention.keys_done):
                m.d.sync += scored.eq(all_scored)
            with m.If(out_now):
                m.d.sync += out_sent.eq(1)
            with m.If(attention.block_valid & tag.last):
                m.d.sync += done.eq(1)

        if self._chunked:
            # Chunks to look at for the maximum; then the one whose values are summed.
            with m.If(self.start):
                m.d.sync += [chunk.eq(last), looked.eq(1), looking.eq(last != 0), owed.eq(1)]
            with m.Else():
                m.d.sync += owed.eq(owed + keys_now - attention.keys_done)
                with m.If(keys_now & looking):
                    m.d.sync += [looked.eq(looked + 1), looking.eq(looked != last)]
                with m.Elif(keys_now):
                    m.d.sync += [
                        chunk.eq(chunk - 1), scored.eq(0), soft_begun.eq(0), soft_over.eq(0),
                        begun.eq(0),
                    ]  # fmt: skip
                # In the array's order the values of the chunk before are all done.
                with m.If(attention.keys_done):
                    m.d.sync += over.eq(0)

        zeros = Const(0, 11)
        m.d.comb += [
            control.issue.eq(issues),
            control.op.eq(array_op),
            control.rows_used.eq(self.rows_used),
            control.group_rows.eq(group_rows),
            control.slot_groups.eq(slot_groups),
            control.key_tiles.eq((in_chunk + (self._c - 1)) >> (self._c.bit_length() - 1)),
            control.value_blocks.eq((in_chunk + (BLOCK - 1)) >> 5),
            control.key_blocks.eq(key_blocks),
            self.will_take.eq(control.will_take),
            self.take.eq(control.take),
            array.pow2.eq(1),
            array.codes.eq(self.codes),
            array.scale.eq(
                Cat(
                    # K's shift; V's is in the probabilities.
                    Cat(self.k_shift.word_select(c, 5) & control.take_keys.replicate(5), zeros)
                    for c in range(self._c)
                )
            ),
            attention.rows_used.eq(self.rows_used),
            attention.group.eq(self.group),
            attention.group_rows.eq(group_rows),
            attention.slot_groups.eq(slot_groups),
            attention.head_size.eq(self.head_size),
            attention.pos.eq(self.pos),
            attention.first.eq(self.first),
            attention.window.eq(self.window),
            attention.v_floor.eq(self.v_floor),
            attention.accs.eq(array.wide),
            attention.v_we.eq(control.take_keys),
            attention.v_bank.eq(control.take_parity),
            attention.v_tile.eq(control.take_tile),
            attention.v_block.eq(control.take_beat),
            attention.v_shifts.eq(self.v_shift),
            attention.soft_issue.eq(soft_now),
            attention.soft_op.eq(soft_op),
            attention.ctx_issue.eq(out_now),
            attention.ctx_op.eq(ctx_op),
            self.block_valid.eq(attention.block_valid),
            self.block_row.eq(tag.bank),
            self.block_index.eq(tag.addr),
            self.block_values.eq(attention.block_values),
            self.block_last.eq(attention.block_valid & tag.last),
            self.saturated.eq(attention.saturated),
        ]
        connect_control(m, control, array)
        for name in ("out_valid", "out_index", "out_slot", "out_last", "out_op"):
            m.d.comb += getattr(attention, name).eq(getattr(control, name))

        p_width = len(attention.p_addr) // rows
        for r in range(rows):
            buffer = OperandBuffer(blocks=slots * self._head_blocks, p_blocks=1 << control.p_bits)
            m.submodules[f"operands{r}"] = instance(buffer, en=self.en)
            m.d.comb += [
                buffer.we.eq(self.q_we & (self.q_row == r)),
                buffer.addr.eq(self.q_addr),
                buffer.codes.eq(self.q_codes),
                buffer.sx.eq(self.q_shift),
                buffer.p_we.eq(attention.p_we[r]),
                buffer.p_addr.eq(attention.p_addr.word_select(r, p_width)),
                buffer.p_hi.eq(attention.p_hi.word_select(r, 8 * BLOCK)),
                buffer.p_lo.eq(attention.p_lo.word_select(r, 8 * BLOCK)),
                buffer.p_sx.eq(attention.p_sx.word_select(r, X_SHIFT_BITS)),
            ]
            connect_operands(m, control, buffer, array, row=r)
        return m
