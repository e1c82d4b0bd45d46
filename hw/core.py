"""The belt: every unit between the elastic edges."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array as Choice
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data
from amaranth.lib.wiring import In, Out

from tokenloom.hw.array.array import Array
from tokenloom.hw.array.array_control import ArrayControl
from tokenloom.hw.array.operand_buffer import OperandBuffer
from tokenloom.hw.array.quantiser import Quantiser
from tokenloom.hw.array.row_lane import BLOCK_TAG, LANE_TAG, RowLane, Target
from tokenloom.hw.array.wiring import connect_control, connect_operands
from tokenloom.hw.attention.attention import Attention
from tokenloom.hw.attention.head_gains import HeadGains
from tokenloom.hw.attention.head_norm import GAIN_BITS
from tokenloom.hw.config import HardwareConfig
from tokenloom.hw.embedding.embedding import Embedding
from tokenloom.hw.norm.residual import Residual
from tokenloom.hw.norm.rmsnorm import RmsNorm
from tokenloom.hw.numbers.formats import ACC_BITS, ACTIVATION_BITS, BLOCK
from tokenloom.hw.numbers.words import ceil_to
from tokenloom.hw.sampler.noise import SAMPLING
from tokenloom.hw.sampler.sampler import Sampler, rule_ports
from tokenloom.hw.sequencer.in_flight import InFlight
from tokenloom.hw.sequencer.isa import (
    ARRAY_OP,
    CHUNK,
    CHUNK_LAYOUTS,
    CHUNKS_MAX,
    DONE_BITS,
    EMBED_OP,
    NORM_OP,
    OPERAND_BITS,
    Dest,
    Kind,
    Unit,
    chunk_runs,
    chunk_tokens,
)
from tokenloom.hw.sequencer.registers import BIAS, MODEL, Select
from tokenloom.hw.sequencer.unit_queue import UnitQueue
from tokenloom.hw.taps import BLOCK_TAP, CODE_BITS, ROW_TAP, pack_tap, tap_places, tap_words
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["CFG_BITS", "EDGE", "IN_FLIGHT", "PASSED_OVER", "Core"]

EDGE = 1  # E: stages between the announcement of a take and the take
CFG_BITS = 512
PASSED_OVER = frozenset({Unit.ARRAY, Unit.SOFTMAX})
"""Units whose instructions a context that does not reach their chunk passes over."""
IN_FLIGHT = 128
"""Operations that such a unit may have begun and not finished; `predict` refuses more."""

_TAG = data.StructLayout({"block": BLOCK_TAG, "row": 5, "unit": 3})


class Core(Block):
    """Queues, array, lanes, attention, norm, embedding and sampler on one clock enable.

    Parameters
    ----------
    hardware : HardwareConfig
    taps : bool
        With the ports `tap_valid` and `tap`.

    Members
    -------
    cfg_we, cfg_sel, cfg_addr, cfg_data : In, program memory (`registers.Select`), with `en` high
    model : In, `registers.MODEL`
    restart : In(1), a pass begins; rows_used, pos, sample : In, its descriptor, stable in the pass;
        first : In, the first token that windowed operations see (`window.first_token_value`)
    sampling : In, the sampler's settings (`noise.SAMPLING`), stable in the pass
    recent, recent_count : In, with `sampler.candidates`: the latest tokens (`LogitRules`), stable
        from the pass's last embedding row on
    over : Out(1), every queue has stopped and every operation is done
    will_take : Out(E), take : Out(1), pow2 : In(1), codes, scale, minimum, v_shifts : In, the
        channels' beats
    row_wanted : Out(1), embedding rows are missing; row_take : Out(1), a block is taken;
        row_codes, row_scale, row_minimum : In
    kv_valid, kv_is_v, kv_layer, kv_head, kv_block, kv_row, kv_codes, kv_shift : Out, a quantised
        K or V block
    logit_valid, logit : Out, per row, the logits in order of their id; token : Out, sampled from
        those of the pass's last row
    started, finished : Out(5), strobes per unit, for the trace; array_busy : Out(1), the array
        multiplies
    saturated : Out(1), strobe
    tap_valid : Out(1), tap : Out, with taps: a record of `taps.tap_places` that holds something
    """

    def __init__(self, *, hardware: HardwareConfig, taps: bool = False) -> None:
        self._hw, self._taps = hardware, taps
        tapped = {"tap_valid": Out(1), "tap": Out(32 * tap_words(hardware))}
        array, top = hardware.array, hardware.maxima
        self._c, self._k, self._r, self._w = (
            array.columns,
            array.lanes,
            array.rows,
            array.drain,
        )
        self._slots = max(1, hardware.max_group)
        self._beat_blocks = beat_blocks = hardware.blocks_per_beat
        self._tokens = hardware.attention_tokens
        self._vocab_bits = max(1, (top.vocab - 1).bit_length())
        c, r = self._c, self._r
        super().__init__(
            {
                "cfg_we": In(1),
                "cfg_sel": In(4),
                "cfg_addr": In(20),
                "cfg_data": In(CFG_BITS),
                "model": In(MODEL.size),
                "restart": In(1),
                "rows_used": In(6),
                "pos": In(20),
                "first": In(20),
                "sample": In(1),
                "sampling": In(SAMPLING.size),
                **(self._recent() if hardware.sampler.candidates else {}),
                "over": Out(1),
                "will_take": Out(EDGE),
                "take": Out(1),
                "pow2": In(1),
                "codes": In(8 * self._k * c),
                "scale": In(16 * beat_blocks * c),
                "minimum": In(16 * beat_blocks * c),
                "v_shifts": In(5 * beat_blocks * c),
                "row_wanted": Out(1),
                "row_take": Out(1),
                "row_codes": In(8 * BLOCK),
                "row_scale": In(16),
                "row_minimum": In(16),
                "kv_valid": Out(1),
                "kv_is_v": Out(1),
                "kv_layer": Out(8),
                "kv_head": Out(6),
                "kv_block": Out(3),
                "kv_row": Out(5),
                "kv_codes": Out(8 * BLOCK),
                "kv_shift": Out(6),
                "logit_valid": Out(r),
                "logit": Out(32 * r),
                "token": Out(self._vocab_bits),
                "started": Out(len(Unit)),
                "finished": Out(len(Unit)),
                "array_busy": Out(1),
                "saturated": Out(1),
                **(tapped if taps else {}),
            },
            params=(hardware.digest(), taps),
        )

    def _recent(self) -> dict[str, Any]:
        ports = rule_ports(self._vocab_bits)
        return {name: ports[name] for name in ("recent", "recent_count")}

    def elaborate(self, platform: object) -> Module:
        m = Module()
        hw, r_count = self._hw, self._r
        top = hw.maxima
        model = data.View(MODEL, self.model)
        place = lambda name, block: m.submodules.__setitem__(name, instance(block, en=self.en))  # noqa: E731

        # What the pass and the model make of each other.
        group_rows, slot_groups = Signal(10), Signal(self._slots.bit_length() + 1)
        length, attended, padded_key_blocks = Signal(20), Signal(20), Signal(4)
        row_bits = r_count.bit_length() - 1
        column_bits = self._c.bit_length() - 1
        m.d.comb += [
            group_rows.eq(model.group * self.rows_used),
            slot_groups.eq((group_rows + (r_count - 1)) >> row_bits),
            length.eq(self.pos + self.rows_used),
            padded_key_blocks.eq(ceil_to(model.key_blocks, self._beat_blocks)),
        ]

        # Queues.
        depths = {
            Unit.EMBED: 2,
            Unit.NORM: 2 * top.layers + 2,
            Unit.ARRAY: hw.array_operations + 1,
            Unit.SOFTMAX: hw.softmax_operations + 1,
            Unit.CONTEXT: top.layers * top.kv_heads + 1,
        }
        passing = PASSED_OVER if hw.chunked else frozenset()
        queues = {
            unit: UnitQueue(unit=unit, depth=depths[unit], chunks=unit in passing) for unit in Unit
        }
        done = [Signal(DONE_BITS, name=f"done_{unit.name.lower()}") for unit in Unit]
        issued = [Signal(DONE_BITS, name=f"issued_{unit.name.lower()}") for unit in Unit]
        finished = Signal(len(Unit))
        idle = [d == i for d, i in zip(done, issued, strict=True)]
        for unit, queue in queues.items():
            place(f"queue_{unit.name.lower()}", queue)
            m.d.comb += [
                queue.cfg_we.eq(self.cfg_we & (self.cfg_sel == unit)),
                queue.cfg_addr.eq(self.cfg_addr),
                queue.cfg_data.eq(self.cfg_data),
                queue.restart.eq(self.restart),
                queue.sample.eq(self.sample),
                queue.done.eq(Cat(done)),
                self.started[unit].eq(queue.issue),
            ]
            if unit in passing:
                flying = InFlight(depth=IN_FLIGHT)
                place(f"in_flight_{unit.name.lower()}", flying)
                m.d.comb += [
                    flying.restart.eq(self.restart),
                    flying.position.eq(queue.position),
                    flying.issue.eq(queue.issue),
                    flying.finished.eq(finished[unit]),
                    done[unit].eq(flying.done),
                ]
                idle[unit] = flying.idle
                continue
            with m.If(self.restart):
                m.d.sync += [done[unit].eq(0), issued[unit].eq(0)]
            with m.Else():
                with m.If(finished[unit]):
                    m.d.sync += done[unit].eq(done[unit] + 1)
                with m.If(queue.issue):
                    m.d.sync += issued[unit].eq(issued[unit] + 1)
        m.d.comb += [
            self.finished.eq(finished),
            self.over.eq(Cat(queue.stopped for queue in queues.values()).all() & Cat(idle).all()),
        ]

        # The context's last chunk, and the window's; instructions for others are passed over.
        chunk_last, chunk_last_windowed = Signal(range(CHUNKS_MAX)), Signal(range(CHUNKS_MAX))
        chunk_bits = self._tokens.bit_length() - 1
        if hw.chunked:
            m.d.sync += [
                chunk_last.eq((length - 1) >> chunk_bits),
                chunk_last_windowed.eq((length - self.first - 1) >> chunk_bits),
            ]
            for unit, in_attention, name in (
                (Unit.ARRAY, lambda op: op.kind != Kind.MATMUL, "y_base"),
                (Unit.SOFTMAX, lambda op: Const(1), "chunk"),
            ):
                head = data.View(CHUNK_LAYOUTS[unit], queues[unit].head)
                chunk = data.View(CHUNK, head[name][: CHUNK.size])
                last = Mux(head.windowed, chunk_last_windowed, chunk_last)
                runs = chunk_runs(chunk.number, chunk.when, last)
                m.d.comb += queues[unit].skip.eq(in_attention(head) & ~runs)

        # Array.
        array_op = data.View(ARRAY_OP, queues[Unit.ARRAY].op)
        array = Array(
            columns=self._c,
            lanes=self._k,
            rows=r_count,
            drain=self._w,
            slots=self._slots,
            packed=hw.array.packed,
            groups=hw.array.groups,
            stages=hw.array.stages,
        )
        control = ArrayControl(
            columns=self._c,
            drain=self._w,
            rows=r_count,
            slots=self._slots,
            token_blocks=self._tokens // BLOCK,
            edge=EDGE,
            beat_blocks=self._beat_blocks,
            latency=array.element_latency,
            crossing=array.crossing,
        )
        place("array_control", control)
        place("array", array)
        queue = queues[Unit.ARRAY]
        in_chunk = length - Mux(array_op.windowed, self.first, 0)
        if hw.chunked:
            chunk = data.View(CHUNK, array_op.y_base[: CHUNK.size])
            in_chunk = chunk_tokens(in_chunk, chunk.number, self._tokens)
        m.d.comb += [
            control.issue.eq(queue.issue),
            control.op.eq(queue.op),
            queue.ready.eq(control.ready),
            control.rows_used.eq(self.rows_used),
            control.group_rows.eq(group_rows),
            control.slot_groups.eq(slot_groups),
            attended.eq(in_chunk),
            control.key_tiles.eq((attended + (self._c - 1)) >> column_bits),
            control.value_blocks.eq((attended + (BLOCK - 1)) >> 5),
            control.key_blocks.eq(model.key_blocks),
            self.will_take.eq(control.will_take),
            self.take.eq(control.take),
            self.array_busy.eq(control.computes),
            array.pow2.eq(self.pow2),
            array.codes.eq(self.codes),
            array.scale.eq(self.scale),
            array.minimum.eq(self.minimum),
        ]
        connect_control(m, control, array)

        # Attention.
        attention = Attention(
            columns=self._c,
            drain=self._w,
            rows=r_count,
            slots=self._slots,
            tokens_max=self._tokens,
            dim_blocks=hw.head_blocks,
            width_max=top.heads * top.head_size,
            beat_blocks=self._beat_blocks,
            taps=self._taps,
            # A model's heads are whole words, whatever the largest may be.
            head_max=top.head_size // self._w * self._w if hw.chunked else 0,
        )
        place("attention", attention)
        if hw.chunked:
            m.d.comb += [
                attention.chunk_last.eq(chunk_last),
                attention.chunk_last_windowed.eq(chunk_last_windowed),
            ]
        m.d.comb += [
            attention.rows_used.eq(self.rows_used),
            attention.group.eq(model.group),
            attention.group_rows.eq(group_rows),
            attention.slot_groups.eq(slot_groups),
            attention.head_size.eq(model.head_size),
            attention.pos.eq(self.pos),
            attention.first.eq(self.first),
            attention.window.eq(model.window),
            attention.v_floor.eq(model.v_floor),
            attention.accs.eq(array.wide),
            attention.v_we.eq(control.take_keys),
            attention.v_bank.eq(control.take_parity),
            attention.v_tile.eq(control.take_tile),
            attention.v_block.eq(control.take_beat),
            attention.v_shifts.eq(self.v_shifts),
            attention.soft_issue.eq(queues[Unit.SOFTMAX].issue),
            attention.soft_op.eq(queues[Unit.SOFTMAX].op),
            queues[Unit.SOFTMAX].ready.eq(attention.soft_ready),
            attention.ctx_issue.eq(queues[Unit.CONTEXT].issue),
            attention.ctx_op.eq(queues[Unit.CONTEXT].op),
            queues[Unit.CONTEXT].ready.eq(attention.ctx_ready),
        ]
        for name in ("out_valid", "out_index", "out_slot", "out_last", "out_op"):
            m.d.comb += getattr(attention, name).eq(getattr(control, name))

        # Quantiser: at most one of its sources speaks in a cycle.
        quantiser = Quantiser(tag_bits=_TAG.size)
        place("quantiser", quantiser)
        q_tag = data.View(_TAG, quantiser.out_tag)

        # Rows.
        embedding = Embedding(width=top.width, rows=r_count)
        norm = RmsNorm(
            rows=r_count, width=top.width, norm_lanes=hw.norm_lanes, norms=2 * top.layers + 1
        )
        place("embedding", embedding)
        place("rmsnorm", norm)
        embed_op = data.View(EMBED_OP, queues[Unit.EMBED].op)
        embed_shift = Signal(6)
        with m.If(queues[Unit.EMBED].issue):
            m.d.sync += embed_shift.eq(embed_op.shift)
        lanes, residuals, saturated, sources = [], [], [attention.saturated], []
        tapped: list[dict[str, Value]] = []
        for r in range(r_count):
            lane = RowLane(
                rows=r_count,
                slots=self._slots,
                pairs_max=max(1, top.head_size // 2),
                head_norm=bool(top.qk_norm),
            )
            residual = Residual(width=top.width, norm_lanes=hw.norm_lanes, taps=self._taps)
            buffer = OperandBuffer(
                blocks=hw.operand_blocks,
                p_blocks=self._beat_blocks << control.p_bits,
                beat_blocks=self._beat_blocks,
            )
            lanes.append(lane)
            residuals.append(residual)
            for name, block in (("lane", lane), ("residual", residual), ("operands", buffer)):
                place(f"{name}{r}", block)

            op = data.View(ARRAY_OP, control.out_op.word_select(r, ARRAY_OP.size))
            embeds = embedding.out_valid & (embedding.out_row == r)
            tag = Signal(LANE_TAG, name=f"lane_tag{r}")
            with m.If(embeds):
                m.d.comb += [
                    tag.dest.eq(Dest.RESIDUAL),
                    tag.first.eq(1),
                    tag.last.eq(embedding.out_last),
                    tag.index.eq(embedding.out_index),
                ]
            with m.Else():
                m.d.comb += [
                    tag.dest.eq(op.dest),
                    tag.last.eq(control.out_last[r]),
                    tag.index.eq(control.out_index.word_select(r, 20)),
                    tag.floor.eq(op.floor),
                    tag.aux_shift.eq(op.aux_shift),
                    tag.kappa.eq(op.kappa),
                    tag.y_base.eq(op.y_base),
                    tag.layer.eq(op.layer),
                ]
            m.d.comb += [
                lane.row.eq(r),
                lane.head_size.eq(model.head_size),
                lane.group.eq(model.group),
                lane.key_blocks.eq(padded_key_blocks),
                lane.rows_used.eq(self.rows_used),
                lane.pos.eq(self.pos + r),
                lane.in_valid.eq(embeds | (control.out_valid[r] & (op.kind == Kind.MATMUL))),
                lane.in_acc.eq(
                    Mux(embeds, embedding.out_acc, array.acc.word_select(r, ACC_BITS).as_signed())
                ),
                lane.in_shift.eq(Mux(embeds, embed_shift, op.shift)),
                lane.in_tag.eq(tag),
                lane.cfg_we.eq(self.cfg_we & (self.cfg_sel == Select.FREQUENCIES)),
                lane.cfg_addr.eq(self.cfg_addr),
                lane.cfg_data.eq(self.cfg_data),
                residual.in_valid.eq(lane.res_valid),
                residual.in_value.eq(lane.res_value),
                residual.in_index.eq(lane.res_index),
                residual.in_first.eq(lane.res_first),
                residual.in_start.eq(lane.res_start),
                residual.in_last.eq(lane.res_last),
                residual.read_en.eq(norm.res_en & (norm.res_row == r)),
                residual.read_addr.eq(norm.res_addr),
                self.logit_valid[r].eq(lane.logit_valid),
                self.logit.word_select(r, 32).eq(lane.logit_value),
            ]

            # Operands in and out.
            p_width = len(attention.p_addr) // r_count
            m.d.comb += [
                buffer.we.eq(
                    quantiser.out_valid
                    & (q_tag.block.target == Target.OPERAND)
                    & (q_tag.block.bank == r)
                ),
                buffer.addr.eq(q_tag.block.addr),
                buffer.codes.eq(quantiser.out_codes),
                buffer.sx.eq(quantiser.out_sx),
                buffer.sum.eq(quantiser.out_sum),
                buffer.cfg_we.eq(self.cfg_we & (self.cfg_sel == Select.OPERANDS)),
                buffer.cfg_addr.eq(self.cfg_addr),
                buffer.cfg_data.eq(self.cfg_data),
                buffer.p_we.eq(attention.p_we[r]),
                buffer.p_addr.eq(attention.p_addr.word_select(r, p_width)),
                buffer.p_hi.eq(attention.p_hi.word_select(r, 256)),
                buffer.p_lo.eq(attention.p_lo.word_select(r, 256)),
                buffer.p_sx.eq(attention.p_sx.word_select(r, 6)),
            ]
            connect_operands(m, control, buffer, array, row=r)
            lane_block = data.View(BLOCK_TAG, lane.block_tag)
            lane_tag = Signal(_TAG, name=f"block_tag{r}")
            m.d.comb += [
                lane_tag.block.eq(lane.block_tag),
                lane_tag.row.eq(r),
                lane_tag.unit.eq(Unit.ARRAY),
            ]
            sources.append((lane.block_valid, lane.block_values, lane_block.floor, lane_tag))
            saturated += [lane.saturated, residual.saturated]
            if self._taps:
                tapped.append(
                    {
                        "residual_valid": residual.tap_valid,
                        "residual_index": residual.tap_index,
                        "residual_value": residual.tap_value,
                        "logit_valid": lane.logit_valid,
                        "logit": lane.logit_value,
                        "prob_valid": attention.p_we[r],
                        "prob_addr": attention.p_addr.word_select(r, p_width),
                        "prob_shift": attention.p_sx.word_select(r, 6),
                        "prob_high": attention.p_hi.word_select(r, 256),
                        "prob_low": attention.p_lo.word_select(r, 256),
                    }
                )

        if top.qk_norm:
            gains = HeadGains(rows=r_count, layers=top.layers, head_max=top.head_size)
            place("head_gains", gains)
            m.d.comb += [
                gains.read.eq(lanes[0].gain_read),
                gains.layer.eq(lanes[0].gain_layer),
                gains.is_query.eq(lanes[0].gain_query),
                gains.dim.eq(lanes[0].gain_dim),
                gains.cfg_we.eq(self.cfg_we & (self.cfg_sel == Select.HEAD_GAINS)),
                gains.cfg_addr.eq(self.cfg_addr),
                gains.cfg_data.eq(self.cfg_data),
            ]
            for r, lane in enumerate(lanes):
                m.d.comb += [
                    lane.norms.eq(model.qk_norm),
                    lane.eps.eq(model.head_eps),
                    lane.gain.eq(gains.gains.word_select(r, GAIN_BITS)),
                ]

        # Embedding and norm.
        last_row = self.rows_used - 1
        rows_missing = Signal(20)
        m.d.comb += [
            queues[Unit.EMBED].ready.eq(1),
            embedding.start.eq(queues[Unit.EMBED].issue),
            embedding.rows_count.eq(self.rows_used),
            embedding.blocks.eq(model.embedding_blocks),
            embedding.last_values.eq(model.width - ((model.embedding_blocks - 1) << 5)),
            embedding.block_codes.eq(self.row_codes),
            embedding.block_scale.eq(self.row_scale),
            embedding.block_minimum.eq(self.row_minimum),
            self.row_take.eq(embedding.need),
            self.row_wanted.eq(queues[Unit.EMBED].issue | (rows_missing != 0)),
        ]
        with m.If(queues[Unit.EMBED].issue):
            m.d.sync += rows_missing.eq(model.embedding_blocks * self.rows_used)
        with m.Elif(embedding.need):
            m.d.sync += rows_missing.eq(rows_missing - 1)
        norm_op = data.View(NORM_OP, queues[Unit.NORM].op)
        norm_busy, norm_base = Signal(), Signal(OPERAND_BITS)
        with m.If(queues[Unit.NORM].issue):
            m.d.sync += [norm_busy.eq(1), norm_base.eq(norm_op.x_base)]
        with m.Elif(norm.q_last):
            m.d.sync += norm_busy.eq(0)
        norm_tag = Signal(_TAG)
        m.d.comb += [
            queues[Unit.NORM].ready.eq(~norm_busy),
            norm.start.eq(queues[Unit.NORM].issue),
            norm.rows_count.eq(self.rows_used),
            norm.words.eq(norm_op.words),
            norm.gain_base.eq(norm_op.gain_base),
            norm.eps.eq(model.eps),
            norm.floor.eq(norm_op.floor),
            norm.ss.eq(Cat(residual.ss for residual in residuals)),
            norm.res_data.eq(Choice(residual.read_data for residual in residuals)[norm.data_row]),
            norm.cfg_we.eq(self.cfg_we & (self.cfg_sel == Select.GAINS)),
            norm.cfg_addr.eq(self.cfg_addr),
            norm.cfg_data.eq(self.cfg_data),
            norm_tag.block.target.eq(Target.OPERAND),
            norm_tag.block.bank.eq(norm.q_row),
            norm_tag.block.addr.eq(norm_base + norm.q_block),
            norm_tag.block.last.eq(norm.q_last),
            norm_tag.unit.eq(Unit.NORM),
        ]
        context_block = data.View(BLOCK_TAG, attention.block_tag)
        context_tag = Signal(_TAG)
        m.d.comb += [
            context_tag.block.eq(attention.block_tag),
            context_tag.unit.eq(Unit.CONTEXT),
        ]
        sources += [
            (norm.q_valid, norm.q_values, norm.q_floor, norm_tag),
            (attention.block_valid, attention.block_values, context_block.floor, context_tag),
        ]
        saturated.append(norm.saturated)
        for valid, values, floor, tag in sources:
            with m.If(valid):
                m.d.comb += [
                    quantiser.in_valid.eq(1),
                    quantiser.in_values.eq(values),
                    quantiser.in_floor.eq(floor),
                    quantiser.in_narrow.eq(tag.block.target != Target.OPERAND),
                    quantiser.in_tag.eq(tag),
                ]

        # One request at a time: only what follows the pass's last row is a new token.
        sampler = Sampler(vocab_bits=self._vocab_bits, candidates=hw.sampler.candidates)
        place("sampler", sampler)
        logits = Choice(
            Cat(lane.logit_valid, lane.logit_start, lane.logit_last, lane.logit_value)
            for lane in lanes
        )
        m.d.comb += [
            sampler.restart.eq(self.restart),
            sampler.sampling.eq(self.sampling),
            sampler.position.eq(self.pos + last_row),
            Cat(sampler.in_valid, sampler.in_start, sampler.in_last, sampler.in_logit).eq(
                logits[last_row]
            ),
            self.token.eq(sampler.token),
        ]
        if hw.sampler.candidates:
            bias = data.View(BIAS, self.cfg_data[: BIAS.size])
            m.d.comb += [
                sampler.recent.eq(self.recent),
                sampler.recent_count.eq(self.recent_count),
                sampler.bias_we.eq(self.cfg_we & (self.cfg_sel == Select.BIASES)),
                sampler.bias_addr.eq(self.cfg_addr),
                sampler.bias_id.eq(bias.id),
                sampler.bias_value.eq(bias.value),
            ]

        # What has finished.
        embedded = Signal()
        for r, lane in enumerate(lanes):
            with m.If(lane.res_valid & (last_row == r)):
                m.d.sync += embedded.eq(lane.res_first)
        residual_done = Choice(residual.done for residual in residuals)[last_row]
        q_over = quantiser.out_valid & q_tag.block.last
        operand_done = q_over & (q_tag.unit == Unit.ARRAY) & (q_tag.row == last_row)
        m.d.comb += [
            finished[Unit.EMBED].eq(residual_done & embedded),
            finished[Unit.NORM].eq(q_over & (q_tag.unit == Unit.NORM)),
            finished[Unit.ARRAY].eq(
                (residual_done & ~embedded)
                | operand_done
                | sampler.token_valid
                | attention.keys_done
                | attention.values_done
            ),
            finished[Unit.SOFTMAX].eq(attention.soft_done),
            finished[Unit.CONTEXT].eq(q_over & (q_tag.unit == Unit.CONTEXT)),
            self.kv_valid.eq(quantiser.out_valid & (q_tag.block.target != Target.OPERAND)),
            self.kv_is_v.eq(q_tag.block.target == Target.VALUE),
            self.kv_layer.eq(q_tag.block.layer),
            self.kv_head.eq(q_tag.block.head),
            self.kv_block.eq(q_tag.block.block),
            self.kv_row.eq(q_tag.block.bank),
            self.kv_codes.eq(quantiser.narrow_codes),
            self.kv_shift.eq(quantiser.out_sx),
            self.saturated.eq(Cat(saturated).any()),
        ]
        if self._taps:
            codes = [quantiser.out_codes.word_select(i, ACTIVATION_BITS) for i in range(BLOCK)]
            tags = {
                "block_valid": quantiser.out_valid,
                "block_unit": q_tag.unit,
                "block_row": q_tag.row,
                "block_shift": quantiser.out_sx,
                "block_codes": Cat(
                    Cat(code, code[-1].replicate(CODE_BITS - ACTIVATION_BITS)) for code in codes
                ),
            }
            for name in ("target", "bank", "addr", "last", "layer", "head", "block"):
                tags[f"block_{name}"] = q_tag.block[name]
            shown = [pack_tap(BLOCK_TAP, tags), *(pack_tap(ROW_TAP, row) for row in tapped)]
            m.d.comb += self.tap.eq(Cat(*shown, attention.tap))
            places = tap_places(hw).items()
            valid = [self.tap[32 * p.start] for (name, _), p in places if name.endswith("_valid")]
            m.d.comb += self.tap_valid.eq(Cat(valid).any())
        return m
