"""One row's way out of the array: shift, then residual, rotation, SwiGLU or logits."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data
from amaranth.lib.wiring import In, Out

from tokenloom.hw.array.collector import Collector
from tokenloom.hw.array.drain_lane import DrainLane
from tokenloom.hw.attention.head_norm import GAIN_BITS, HeadNorm
from tokenloom.hw.attention.rope import Rope
from tokenloom.hw.ffn.swiglu import Swiglu
from tokenloom.hw.numbers.formats import EPS_BITS
from tokenloom.hw.sequencer.isa import OPERAND_BITS, Dest
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["BLOCK_TAG", "LANE_TAG", "RowLane", "Target"]

LANE_TAG = data.StructLayout(
    {
        "dest": 3,
        "first": 1,  # residual: write instead of add
        "last": 1,  # last value of the operation in this row
        "index": 20,
        "floor": 5,
        "aux_shift": 6,
        "kappa": 16,
        "y_base": OPERAND_BITS,
        "layer": 8,
    }
)


class Target:
    """Where a quantised block goes."""

    OPERAND = 0
    KEY = 1
    VALUE = 2


BLOCK_TAG = data.StructLayout(
    {
        "target": 2,
        "bank": 5,  # operand buffer; K and V: the row in the pass
        "addr": OPERAND_BITS,
        "last": 1,  # last block of the operation in this row
        "floor": 5,
        "layer": 8,
        "head": 6,
        "block": 3,
    }
)


class RowLane(Block):
    """Drains one row's matmul sums and hands each to its destination.

    Parameters
    ----------
    rows : int
        R, a power of two.
    slots : int
        Slot groups that the operand buffer reserves per kv head.
    pairs_max : int
        Half the largest head size.
    head_norm : bool
        With the norm of every head of q and k, and its ports.

    Members
    -------
    row : In(5), this lane's row
    head_size, group, key_blocks : In, the model's head size, heads per kv head, blocks per head
    rows_used : In, rows in the pass; pos : In(20), this row's position
    in_valid, in_acc, in_shift, in_tag : In, sums in order of their index (`LANE_TAG`)
    res_valid, res_value, res_index, res_first, res_start, res_last : Out, to `Residual`
    logit_valid, logit_value, logit_start, logit_last : Out, to `Sampler`
    block_valid, block_values, block_tag : Out, to the quantiser (`BLOCK_TAG`)
    saturated : Out(1), strobe
    cfg_we, cfg_addr, cfg_data : In, RoPE's frequencies
    norms : In(1), the model has norms of q and k; eps : In; gain_read, gain_layer, gain_query,
        gain_dim : Out, gain : In, the next cycle; with `head_norm` (`HeadNorm`)

    Latency
    -------
    RESIDUAL cycles to the residual and the sampler; BLOCK_ROPE and BLOCK_SWIGLU from the value that
    closes a block to the block; q, k and v of a model with norms `HeadNorm.latency` later.
    """

    RESIDUAL = DrainLane.LATENCY
    BLOCK_ROPE = DrainLane.LATENCY + Rope.LATENCY + Collector.LATENCY
    BLOCK_SWIGLU = DrainLane.LATENCY + Swiglu.LATENCY + Collector.LATENCY

    def __init__(self, *, rows: int, slots: int, pairs_max: int, head_norm: bool = False) -> None:
        if rows < 1 or rows & (rows - 1):
            raise ValueError(f"rows is {rows}; allowed: powers of two")
        self._rows, self._slots, self._pairs = rows, slots, pairs_max
        self._head_norm = head_norm
        normed = {
            "norms": In(1),
            "eps": In(EPS_BITS),
            "gain_read": Out(1),
            "gain_layer": Out(8),
            "gain_query": Out(1),
            "gain_dim": Out((2 * pairs_max - 1).bit_length()),
            "gain": In(signed(GAIN_BITS)),
        }
        super().__init__(
            {
                "row": In(5),
                "head_size": In(9),
                "group": In(6),
                "key_blocks": In(4),
                "rows_used": In(6),
                "pos": In(20),
                "in_valid": In(1),
                "in_acc": In(signed(64)),
                "in_shift": In(6),
                "in_tag": In(LANE_TAG.size),
                "res_valid": Out(1),
                "res_value": Out(signed(32)),
                "res_index": Out(20),
                "res_first": Out(1),
                "res_start": Out(1),
                "res_last": Out(1),
                "logit_valid": Out(1),
                "logit_value": Out(signed(32)),
                "logit_start": Out(1),
                "logit_last": Out(1),
                "block_valid": Out(1),
                "block_values": Out(1024),
                "block_tag": Out(BLOCK_TAG.size),
                "saturated": Out(1),
                "cfg_we": In(1),
                "cfg_addr": In(max(1, (pairs_max - 1).bit_length())),
                "cfg_data": In(32),
                **(normed if head_norm else {}),
            },
            params=(rows, slots, pairs_max, head_norm),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        drain = DrainLane(tag_bits=LANE_TAG.size)
        rope = Rope(pairs_max=self._pairs, tag_bits=BLOCK_TAG.size + 1)
        swiglu = Swiglu(tag_bits=BLOCK_TAG.size + 1)
        swiglu.module_name = "swiglu"
        collector = Collector(tag_bits=BLOCK_TAG.size)
        for name, block in (("drain", drain), ("rope", rope), ("swiglu", swiglu),
                            ("collector", collector)):  # fmt: skip
            m.submodules[name] = instance(block, en=self.en)

        m.d.comb += [
            drain.in_valid.eq(self.in_valid),
            drain.in_acc.eq(self.in_acc),
            drain.in_shift.eq(self.in_shift),
            drain.in_tag.eq(self.in_tag),
        ]
        tag = data.View(LANE_TAG, drain.out_tag)
        value, valid = drain.out_value, drain.out_valid
        start = tag.index == 0
        to_residual = tag.dest == Dest.RESIDUAL
        to_logits = tag.dest == Dest.LOGITS
        to_swiglu = tag.dest == Dest.GATE_UP
        is_query, is_key = tag.dest == Dest.QUERY, tag.dest == Dest.KEY
        to_rope = is_query | is_key | (tag.dest == Dest.VALUE)
        m.d.comb += [
            self.res_valid.eq(valid & to_residual),
            self.res_value.eq(value),
            self.res_index.eq(tag.index),
            self.res_first.eq(tag.first),
            self.res_start.eq(start),
            self.res_last.eq(tag.last),
            self.logit_valid.eq(valid & to_logits),
            self.logit_value.eq(value),
            self.logit_start.eq(start),
            self.logit_last.eq(tag.last),
        ]

        if self._head_norm:
            value, valid, tag, norm_saturated = self._norm_heads(m, drain)
            start = tag.index == 0
            is_query, is_key = tag.dest == Dest.QUERY, tag.dest == Dest.KEY
            to_rope = is_query | is_key | (tag.dest == Dest.VALUE)
        else:
            norm_saturated = Const(0, 1)

        # Which head and dim a q, k or v value is.
        dim_next, head_next = Signal(9), Signal(9)
        group_next, in_group_next = Signal(6), Signal(6)
        dim, head = Signal(9), Signal(9)
        group, in_group = Signal(6), Signal(6)
        m.d.comb += [
            dim.eq(Mux(start, 0, dim_next)),
            head.eq(Mux(start, 0, head_next)),
            group.eq(Mux(start, 0, group_next)),
            in_group.eq(Mux(start, 0, in_group_next)),
        ]
        head_ends = dim + 1 == self.head_size
        group_ends = in_group + 1 == self.group
        with m.If(valid & to_rope):
            m.d.sync += [
                dim_next.eq(Mux(head_ends, 0, dim + 1)),
                head_next.eq(head + head_ends),
                group_next.eq(group + (head_ends & group_ends)),
                in_group_next.eq(Mux(head_ends, Mux(group_ends, 0, in_group + 1), in_group)),
            ]
        slot = in_group * self.rows_used + self.row
        row_bits = self._rows.bit_length() - 1
        rope_tag, swiglu_tag = Signal(BLOCK_TAG), Signal(BLOCK_TAG)
        m.d.comb += [
            rope_tag.target.eq(
                Mux(is_query, Target.OPERAND, Mux(is_key, Target.KEY, Target.VALUE))
            ),
            rope_tag.bank.eq(Mux(is_query, slot[:row_bits] if row_bits else 0, self.row)),
            rope_tag.addr.eq(
                tag.y_base + (group * self._slots + (slot >> row_bits)) * self.key_blocks + dim[5:]
            ),
            rope_tag.last.eq(tag.last),
            rope_tag.floor.eq(tag.floor),
            rope_tag.layer.eq(tag.layer),
            rope_tag.head.eq(head),
            rope_tag.block.eq(dim[5:]),
            rope.in_valid.eq(valid & to_rope),
            rope.in_value.eq(value),
            rope.in_rotate.eq(is_query | is_key),
            rope.in_kappa.eq(Mux(is_query, tag.kappa, 0)),
            rope.in_pos.eq(self.pos),
            rope.in_pair.eq(dim[1:]),
            rope.in_tag.eq(Cat(rope_tag, dim[:5].all() | head_ends)),
            rope.cfg_we.eq(self.cfg_we),
            rope.cfg_addr.eq(self.cfg_addr),
            rope.cfg_data.eq(self.cfg_data),
        ]

        tag, value, valid = data.View(LANE_TAG, drain.out_tag), drain.out_value, drain.out_valid
        hidden = tag.index[1:]
        m.d.comb += [
            swiglu_tag.target.eq(Target.OPERAND),
            swiglu_tag.bank.eq(self.row),
            swiglu_tag.addr.eq(tag.y_base + hidden[5:]),
            swiglu_tag.last.eq(tag.last),
            swiglu_tag.floor.eq(tag.floor),
            swiglu.in_valid.eq(valid & to_swiglu),
            swiglu.in_value.eq(value),
            swiglu.in_is_up.eq(tag.index[0]),
            swiglu.in_shift.eq(tag.aux_shift),
            swiglu.in_tag.eq(Cat(swiglu_tag, hidden[:5].all() | tag.last)),
        ]

        # Never both in one cycle: the schedule keeps a layer's q, k, v and gate, up apart.
        source = Mux(rope.out_valid, Cat(rope.out_tag), Cat(swiglu.out_tag))
        m.d.comb += [
            collector.in_valid.eq(rope.out_valid | swiglu.out_valid),
            collector.in_value.eq(Mux(rope.out_valid, rope.out_value, swiglu.out_value)),
            collector.in_tag.eq(source[: BLOCK_TAG.size]),
            collector.in_close.eq(source[BLOCK_TAG.size]),
            self.block_valid.eq(collector.out_valid),
            self.block_values.eq(collector.out_values),
            self.block_tag.eq(collector.out_tag),
            self.saturated.eq(
                drain.out_saturated | rope.out_saturated | swiglu.out_saturated | norm_saturated
            ),
        ]
        return m

    def _norm_heads(self, m: Module, drain: DrainLane) -> tuple[Value, Value, data.View, Value]:
        """q, k and v on their way to the rotation: value, valid, tag, saturated."""
        norm = HeadNorm(head_max=2 * self._pairs, tag_bits=LANE_TAG.size)
        m.submodules.head_norm = instance(norm, en=self.en)
        came, wants = data.View(LANE_TAG, drain.out_tag), data.View(LANE_TAG, norm.gain_tag)
        heads = (came.dest == Dest.QUERY) | (came.dest == Dest.KEY) | (came.dest == Dest.VALUE)
        tag, value, valid = Signal(LANE_TAG), Signal(signed(32)), Signal()
        m.d.comb += [
            norm.head_size.eq(self.head_size),
            norm.eps.eq(self.eps),
            norm.in_valid.eq(drain.out_valid & heads & self.norms),
            norm.in_value.eq(drain.out_value),
            norm.in_index.eq(came.index),
            norm.in_last.eq(came.last),
            norm.in_normed.eq(came.dest != Dest.VALUE),
            norm.in_tag.eq(drain.out_tag),
            self.gain_read.eq(norm.gain_read),
            self.gain_layer.eq(wants.layer),
            self.gain_query.eq(wants.dest == Dest.QUERY),
            self.gain_dim.eq(norm.gain_dim),
            norm.gain.eq(self.gain),
        ]
        with m.If(self.norms):
            m.d.comb += [
                valid.eq(norm.out_valid),
                value.eq(norm.out_value),
                tag.eq(norm.out_tag),
                tag.index.eq(norm.out_index),
                tag.last.eq(norm.out_last),
            ]
        with m.Else():
            m.d.comb += [
                valid.eq(drain.out_valid),
                value.eq(drain.out_value),
                tag.eq(drain.out_tag),
            ]
        return value, valid, tag, norm.out_saturated
