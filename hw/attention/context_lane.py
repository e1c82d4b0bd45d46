"""Context: one attention lane's last step, sums over V divided by the denominator."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.attention.reciprocal import ND_BITS, Reciprocal
from tokenloom.hw.numbers.arith import round_shift, sat32
from tokenloom.hw.numbers.formats import ACC_BITS, DEN_BITS
from tokenloom.hw.verilog.addressed_memory import addressed_memory
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["ContextLane"]

_RM_BITS = 17


class ContextLane(Block):
    """The rounding point `context` for W drained accumulators per cycle.

    `t = sat32(rs(acc, nd - floor_v))`, `out = sat32(rs(t * rm, 16))`; nd and rm of every
    (bank, slot) come from the denominators that the softmax delivers.

    With chunks the sums of a context's chunks are added up exactly and divided with the last one.

    Parameters
    ----------
    drain : int
        W, accumulators per cycle (1 or more).
    slot_groups : int
        Slots of the lane (1 or more).
    width_max : int
        Dims of the longest row (2 or more).
    acc_bits : int
        Width of an accumulator, 40 to 64.
    head_max : int
        Dims of the longest head, a multiple of W, where contexts come in chunks: with the ports
        `in_place`, `in_opens` and `in_closes`. 0 without.

    Members
    -------
    den_valid : In(1), den_bank : In(1), den_slot : In, den : In(35)
        A slot's denominator, at least 2^17.
    in_valid : In(1)
        The other `in_` ports hold W consecutive dims.
    in_accs : In(acc_bits * W)
        Signed accumulators; dim `in_dim` + i at bits acc_bits * i.
    in_bank : In(1), in_slot : In
        Whose denominator.
    in_dim : In
        First dim; handed on.
    in_floor_v : In(5)
        The operation's floor of V, 0..17.
    in_place : In, in_opens, in_closes : In(1), with chunks
        First dim in its head; the sums are the context's first ones, and its last ones: only then
        does anything leave.
    out_valid : Out(1)
        The other `out_` ports hold values.
    out_values : Out(32 * W)
        Signed fixed32; dim `out_dim` + i at bits 32i.
    out_slot, out_dim : Out
        As they came.
    out_saturated : Out(1)
        One of these values saturated; only together with `out_valid`.

    Latency
    -------
    `LATENCY` = 5 belt cycles. `DEN_LATENCY` = 7: accumulators that many cycles after their
    denominator are divided by it.

    Duration
    --------
    W accumulators and one denominator per cycle, with or without gaps; with chunks the same dims
    of a slot come again after two cycles at least.

    Raises
    ------
    ValueError
        When a parameter is outside its range.
    """

    LATENCY = 5
    DEN_LATENCY = Reciprocal.LATENCY + 1

    def __init__(
        self,
        *,
        drain: int,
        slot_groups: int,
        width_max: int,
        acc_bits: int = ACC_BITS,
        head_max: int = 0,
    ) -> None:
        if drain < 1:
            raise ValueError(f"drain = {drain} is impossible: allowed is 1 or more")
        if slot_groups < 1:
            raise ValueError(f"slot_groups = {slot_groups} is impossible: allowed is 1 or more")
        if width_max < 2:
            raise ValueError(f"width_max = {width_max} is impossible: allowed is 2 or more")
        if not 40 <= acc_bits <= ACC_BITS:
            raise ValueError(f"acc_bits = {acc_bits} is impossible: allowed is 40 to 64")
        if head_max % drain or not 0 <= head_max <= width_max:
            raise ValueError(
                f"head_max = {head_max} is impossible: allowed are multiples of drain = {drain} up "
                f"to width_max = {width_max}"
            )
        if head_max and drain & (drain - 1):
            raise ValueError(f"drain = {drain} is impossible: allowed with chunks: powers of two")
        self._drain, self._slot_groups, self._acc_bits = drain, slot_groups, acc_bits
        self._head_max = head_max
        chunk_ports = {
            "in_place": In(range(max(2, head_max))),
            "in_opens": In(1),
            "in_closes": In(1),
        }
        slot_bits = max(1, (slot_groups - 1).bit_length())
        dim_bits = (width_max - 1).bit_length()
        super().__init__(
            {
                "den_valid": In(1),
                "den_bank": In(1),
                "den_slot": In(slot_bits),
                "den": In(DEN_BITS),
                "in_valid": In(1),
                "in_accs": In(acc_bits * drain),
                "in_bank": In(1),
                "in_slot": In(slot_bits),
                "in_dim": In(dim_bits),
                "in_floor_v": In(5),
                "out_valid": Out(1),
                "out_values": Out(32 * drain),
                "out_slot": Out(slot_bits),
                "out_dim": Out(dim_bits),
                "out_saturated": Out(1),
                **(chunk_ports if head_max else {}),
            },
            params=(drain, slot_groups, width_max, acc_bits, head_max),
        )

    def elaborate(self, platform: object) -> Module:
        """Keep the reciprocals; shift, round, saturate, multiply, round."""
        m = Module()
        lanes, bits = self._drain, self._acc_bits
        slots = 2 * self._slot_groups

        m.submodules.kept = kept = Memory(shape=ND_BITS + _RM_BITS, depth=slots, init=[])
        keep, look = kept.write_port(), kept.read_port(domain="comb")
        reciprocal = Reciprocal(tag_bits=(slots - 1).bit_length())
        m.submodules.reciprocal = instance(reciprocal, en=self.en)
        m.d.comb += [
            reciprocal.in_valid.eq(self.den_valid),
            reciprocal.in_den.eq(self.den),
            reciprocal.in_tag.eq(
                Mux(self.den_bank, self.den_slot + self._slot_groups, self.den_slot)
            ),
            keep.en.eq(reciprocal.out_valid),
            keep.addr.eq(reciprocal.out_tag),
            keep.data.eq(Cat(reciprocal.out_nd, reciprocal.out_rm)),
            look.addr.eq(Mux(self.in_bank, self.in_slot + self._slot_groups, self.in_slot)),
        ]

        leaves = self.in_valid & self.in_closes if self._head_max else self.in_valid
        valid = [leaves, *(Signal(name=f"valid{i}") for i in range(1, self.LATENCY))]
        along = [Cat(self.in_slot, self.in_dim)]
        for i in range(1, self.LATENCY):
            held = Signal(len(along[0]), name=f"along{i}")
            m.d.sync += valid[i].eq(valid[i - 1])
            with m.If(valid[i - 1]):
                m.d.sync += held.eq(along[-1])
            along.append(held)

        # Stage 1: the shift, with what belongs to the slot.
        shift1 = Signal(ND_BITS)
        rm = [Signal(_RM_BITS, name=f"rm{i}") for i in range(1, 4)]
        acc1 = [Signal(signed(ACC_BITS), name=f"acc{i}") for i in range(lanes)]
        with m.If(valid[0]):
            m.d.sync += [
                shift1.eq(look.data[:ND_BITS] - self.in_floor_v),
                rm[0].eq(look.data[ND_BITS:]),
            ]
            accs = [self.in_accs[bits * i : bits * (i + 1)].as_signed() for i in range(lanes)]
            if not self._head_max:
                m.d.sync += [acc.eq(value) for acc, value in zip(acc1, accs, strict=True)]
        if self._head_max:
            self._add_up(m, accs, acc1)

        # Stage 2: round.
        rounded2 = [Signal(signed(ACC_BITS), name=f"rounded{i}") for i in range(lanes)]
        with m.If(valid[1]):
            m.d.sync += rm[1].eq(rm[0])
            m.d.sync += [
                r.eq(round_shift(value, shift1)) for r, value in zip(rounded2, acc1, strict=True)
            ]

        # Stage 3: saturate.
        t3 = [Signal(signed(32), name=f"t{i}") for i in range(lanes)]
        over3, over4 = Signal(), Signal()
        with m.If(valid[2]):
            clamped = [sat32(value) for value in rounded2]
            m.d.sync += rm[2].eq(rm[1])
            m.d.sync += [t.eq(value) for t, (value, _) in zip(t3, clamped, strict=True)]
            m.d.sync += over3.eq(Cat(*(flag for _, flag in clamped)).any())

        # Stage 4: multiply.
        product4 = [Signal(signed(32 + _RM_BITS), name=f"product{i}") for i in range(lanes)]
        with m.If(valid[3]):
            m.d.sync += over4.eq(over3)
            m.d.sync += [p.eq(t * rm[2]) for p, t in zip(product4, t3, strict=True)]

        # Stage 5: round, saturate.
        final = [sat32(round_shift(product, 16)) for product in product4]
        m.d.sync += [
            self.out_valid.eq(valid[4]),
            self.out_saturated.eq(valid[4] & (over4 | Cat(*(flag for _, flag in final)).any())),
        ]
        with m.If(valid[4]):
            m.d.sync += [
                self.out_values.eq(Cat(*(value for value, _ in final))),
                Cat(self.out_slot, self.out_dim).eq(along[4]),
            ]

        return m

    def _add_up(self, m: Module, accs: list[Value], sums: list[Signal]) -> None:
        """`sums` are `accs` with those of the chunks before, one cycle later; kept per slot."""
        words = self._head_max // self._drain
        m.submodules.chunks = memory = addressed_memory(
            shape=ACC_BITS * self._drain, depth=self._slot_groups * words
        )
        # Read without a clock: so the latency is the same with and without chunks.
        keep, kept = memory.write_port(), memory.read_port(domain="comb")
        m.d.comb += kept.addr.eq(
            self.in_slot * words + self.in_place[self._drain.bit_length() - 1 :]
        )
        m.d.sync += keep.en.eq(self.in_valid & ~self.in_closes)
        m.d.comb += keep.data.eq(Cat(*sums))
        with m.If(self.in_valid):
            m.d.sync += keep.addr.eq(kept.addr)
            for i, (total, acc) in enumerate(zip(sums, accs, strict=True)):
                before = kept.data.word_select(i, ACC_BITS).as_signed()
                m.d.sync += total.eq(Mux(self.in_opens, 0, before) + acc)
