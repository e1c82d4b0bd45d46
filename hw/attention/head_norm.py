"""Head norm: RMSNorm over each head of q and k, between the drain and the rotation (Qwen3)."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.norm.rsqrt import Rsqrt
from tokenloom.hw.numbers.arith import round_shift, sat32
from tokenloom.hw.numbers.formats import EPS_BITS, EPS_FRAC, NORM_SHIFT, RSQRT_FRAC, SS_BITS
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["GAIN_BITS", "HeadNorm"]

GAIN_BITS = 16
INDEX_BITS = 20


class HeadNorm(Block):
    """The rounding points `rsqrt` and `norm` over the `head_size` values of every head.

    Values go into a ring while their squares are summed; a head's values leave it in one run as
    soon as its root is there, times gain and root. Values that are not normed (v) take the same
    way with a gain and a root of 1, so that all keep their order and their spacing.

    Contract: heads come whole and in order, their values at most one per cycle, gaps are free.

    Parameters
    ----------
    head_max : int
        Longest head (2 or more).
    tag_bits : int
        Width of what is the same for all values of a head (1 or more).

    Members
    -------
    head_size : In, the model's; eps : In(64), `hd·eps·2^(2f + 16)`
    in_valid, in_value : In, a value; in_index : In(20), its index in the operation
    in_last : In(1), it is the operation's last
    in_normed : In(1), in_tag : In(tag_bits), the same for all values of a head; the head's last
        value counts
    gain_read : Out(1), gain_dim : Out, gain_tag : Out(tag_bits)
        This dim's gain is wanted, in the next cycle.
    gain : In(signed(16))
    out_valid, out_value, out_index, out_last, out_tag : Out, values as they came, one per cycle
        within a head
    out_saturated : Out(1), low without `out_valid`

    Latency
    -------
    `latency(head_size)` belt cycles from a head's last value to the same value normed.

    Duration
    --------
    One value per cycle.

    Raises
    ------
    ValueError
        When a parameter is outside its range.
    """

    # The sum is complete 3 cycles after the last value and with epsilon after 4; the root is used
    # 3 cycles after the first value has been asked for.
    START = 4 + Rsqrt.LATENCY - 3
    PIPELINE = 7
    _HEADS = 16  # heads in flight: at most START / 2 + 2

    def __init__(self, *, head_max: int, tag_bits: int) -> None:
        if head_max < 2:
            raise ValueError(f"head_max = {head_max} is impossible: allowed is 2 or more")
        if tag_bits < 1:
            raise ValueError(f"tag_bits = {tag_bits} is impossible: allowed is 1 or more")
        self._head_max, self._tag_bits = head_max, tag_bits
        dim_bits = (head_max - 1).bit_length()
        super().__init__(
            {
                "head_size": In(9),
                "eps": In(EPS_BITS),
                "in_valid": In(1),
                "in_value": In(signed(32)),
                "in_index": In(INDEX_BITS),
                "in_last": In(1),
                "in_normed": In(1),
                "in_tag": In(tag_bits),
                "gain_read": Out(1),
                "gain_dim": Out(dim_bits),
                "gain_tag": Out(tag_bits),
                "gain": In(signed(GAIN_BITS)),
                "out_valid": Out(1),
                "out_value": Out(signed(32)),
                "out_index": Out(INDEX_BITS),
                "out_last": Out(1),
                "out_tag": Out(tag_bits),
                "out_saturated": Out(1),
            },
            params=(head_max, tag_bits),
        )

    @classmethod
    def latency(cls, head_size: int) -> int:
        """Belt cycles from a head's last value to its last normed one."""
        return cls.START + head_size - 1 + cls.PIPELINE

    def elaborate(self, platform: object) -> Module:
        """Ring and sum of squares, root, then the way out."""
        m = Module()
        ring_bits = (self._head_max + self.START).bit_length()
        m.submodules.ring = ring = Memory(shape=signed(32), depth=1 << ring_bits, init=[])
        about_size = INDEX_BITS + 2 + self._tag_bits
        m.submodules.heads = heads = Memory(shape=about_size, depth=self._HEADS, init=[])
        put, get = ring.write_port(), ring.read_port()
        note, look = heads.write_port(), heads.read_port(domain="comb")

        # In: a head ends with its head_size-th value.
        dim, write_at = Signal(9), Signal(ring_bits)
        head_at = Signal(range(self._HEADS))
        ends = Signal()
        m.d.comb += [
            ends.eq(self.in_valid & (dim + 1 == self.head_size)),
            put.en.eq(self.in_valid),
            put.addr.eq(write_at),
            put.data.eq(self.in_value),
            note.en.eq(ends),
            note.addr.eq(head_at),
            note.data.eq(Cat(self.in_index, self.in_last, self.in_normed, self.in_tag)),
        ]
        with m.If(self.in_valid):
            m.d.sync += [write_at.eq(write_at + 1), dim.eq(Mux(ends, 0, dim + 1))]
        with m.If(ends):
            m.d.sync += head_at.eq(head_at + 1)

        # Stages 1, 2: the square; 3: the sum; 4: with epsilon, to the root.
        square = [Signal(64, name=f"square{i}", reset_less=True) for i in (1, 2)]
        valid = [Signal(name=f"square_valid{i}") for i in (1, 2)]
        fresh = [Signal(name=f"square_first{i}", reset_less=True) for i in (1, 2)]
        ended = [Signal(name=f"ended{i}") for i in range(1, self.START + 1)]
        total = Signal(SS_BITS, reset_less=True)
        m.d.sync += [
            valid[0].eq(self.in_valid),
            valid[1].eq(valid[0]),
            square[0].eq(self.in_value * self.in_value),
            square[1].eq(square[0]),
            fresh[0].eq(dim == 0),
            fresh[1].eq(fresh[0]),
            ended[0].eq(ends),
            *(new.eq(old) for old, new in zip(ended[:-1], ended[1:], strict=True)),
        ]
        with m.If(valid[1]):
            m.d.sync += total.eq(Mux(fresh[1], 0, total) + square[1])
        m.submodules.rsqrt = instance(root := Rsqrt(), en=self.en)
        m.d.sync += [root.in_valid.eq(ended[2]), root.s.eq((total << EPS_FRAC) + self.eps)]

        # Out: START cycles after a head's last value its first one is asked for.
        asking, left = Signal(), Signal(9)
        read_at, reading = Signal(ring_bits), Signal(range(self._HEADS))
        first = Signal()
        m.d.comb += first.eq(ended[-1])
        ask = first | asking
        still = Signal(9)  # values behind the one that is asked for
        m.d.comb += [
            still.eq(Mux(first, self.head_size - 1, left)),
            look.addr.eq(reading),
            get.en.eq(ask),
            get.addr.eq(read_at),
        ]
        m.d.sync += asking.eq(ask & (still != 0))
        with m.If(ask):
            m.d.sync += [read_at.eq(read_at + 1), left.eq(still - 1)]
            with m.If(still == 0):
                m.d.sync += reading.eq(reading + 1)
        index = look.data[:INDEX_BITS]
        last, normed = look.data[INDEX_BITS], look.data[INDEX_BITS + 1]
        tag = look.data[INDEX_BITS + 2 :]
        m.d.comb += [
            self.gain_read.eq(ask),
            self.gain_dim.eq(self.head_size - 1 - still),
            self.gain_tag.eq(tag),
        ]

        # What goes along, stage by stage; stage 0 is the question.
        fields: list[Value] = [
            (index - still)[:INDEX_BITS], last & (still == 0), tag, normed, first,
        ]  # fmt: skip
        go: list[Value] = [ask]
        along: list[list[Value]] = [fields]
        for i in range(1, self.PIPELINE):
            held = [Signal(len(f), name=f"along{i}_{k}") for k, f in enumerate(fields)]
            step = Signal(name=f"go{i}")
            m.d.sync += step.eq(go[-1])
            with m.If(go[-1]):
                m.d.sync += [new.eq(old) for new, old in zip(held, along[-1], strict=True)]
            go.append(step)
            along.append(held)

        # Stages 1, 2: times the gain. 3, 4: times the root. 5: shift. 6: clamp.
        product = [
            Signal(signed(bits), name=f"product{i}", reset_less=True)
            for i, bits in enumerate((48, 48, 64, 64))
        ]
        shift = Signal(6, reset_less=True)
        rounded = Signal(signed(64), reset_less=True)
        one = Const(1, signed(GAIN_BITS))
        y = Signal(signed(RSQRT_FRAC + 1))
        m.d.comb += y.eq(Mux(along[3][3], root.y, 1))
        with m.If(go[1]):
            m.d.sync += product[0].eq(get.data * Mux(along[1][3], self.gain, one))
        with m.If(go[2]):
            m.d.sync += product[1].eq(product[0])
        with m.If(go[3]):
            m.d.sync += product[2].eq((product[1] * y)[:64].as_signed())
        with m.If(go[4]):
            m.d.sync += product[3].eq(product[2])
            with m.If(along[4][4]):  # the next head's root is not there yet
                m.d.sync += shift.eq(
                    Mux(~along[4][3] | (root.k < -NORM_SHIFT), 0, root.k + NORM_SHIFT)
                )
        with m.If(go[5]):
            m.d.sync += rounded.eq(round_shift(product[3], shift))
        value, saturated = sat32(rounded)
        m.d.sync += [self.out_valid.eq(go[6]), self.out_saturated.eq(go[6] & saturated)]
        with m.If(go[6]):
            m.d.sync += [
                self.out_value.eq(value),
                self.out_index.eq(along[6][0]),
                self.out_last.eq(along[6][1]),
                self.out_tag.eq(along[6][2]),
            ]
        return m
