"""RoPE: one lane that rotates the pairs of q and k."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed, unsigned
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.arith import round_shift, sat32
from tokenloom.hw.numbers.tables import SINE_ENTRIES, sine_table
from tokenloom.hw.verilog.block import Block

__all__ = ["Rope"]

_SINE_FRAC = 16
_COEFFICIENT = signed(17)
_PHASE_SHIFT = 19  # of the phase's 32 bits the quadrant and 11 bits of index count


class Rope(Block):
    """The rounding point `rope`: rotates pairs (2i, 2i+1) by the phase of `pos` and `pair`.

    `y0 = sat32(rs(x0*c - x1*s, 16))`, `y1 = sat32(rs(x0*s + x1*c, 16))`, where c and s come from
    the sine table and, if `kappa` is not 0, are scaled by it: `rs(c*kappa, 16)`.

    A pair's two values need two coefficients and four products, and take two cycles: so one
    lookup, one scaling and two products per cycle serve the lane. Cosine and sine follow each
    other one cycle apart, in the slots of the even and of the odd value.

    Contract: of each pair with `in_rotate`, the odd value comes in the belt cycle right after the
    even one. Between pairs, and between values that are not rotated, gaps are free. The first
    rotated value after reset or after a value with `in_rotate` low is an even one.

    Parameters
    ----------
    pairs_max : int
        Entries of the frequency table: half of the largest head (1 or more).
    tag_bits : int
        Width of the tag that travels with each value (1 or more).

    Members
    -------
    in_valid : In(1)
        The other inputs hold a value.
    in_value : In(signed(32))
        The value; dims of one head come in order.
    in_tag : In(tag_bits)
        Handed on unchanged, value by value.
    in_rotate : In(1)
        Low: the value passes unchanged, with the same latency. The same for both of a pair.
    in_kappa : In(16)
        Scale of the coefficients, 0 for none. Read from the even value.
    in_pos : In(20)
        The token's position. Read from the even value.
    in_pair : In(pair_bits)
        The pair's index i in its head. Read from the even value.
    out_valid : Out(1)
        The outputs hold a value.
    out_value : Out(signed(32))
        The rotated value.
    out_tag : Out(tag_bits)
        The tag that came with the value.
    out_saturated : Out(1)
        Strobe: this value was clamped. Low without `out_valid`.
    cfg_we : In(1)
        Write the frequency table. Counts only in cycles with `en`, like everything on the belt.
    cfg_addr : In(pair_bits)
        Pair index.
    cfg_data : In(32)
        Turns per position, in 2^-32.

    Latency
    -------
    `LATENCY` = 9 belt cycles from each input value: the output has the input's spacing.

    Duration
    --------
    One value per cycle.

    Raises
    ------
    ValueError
        When `pairs_max` or `tag_bits` is less than 1.
    """

    LATENCY = 9

    def __init__(self, *, pairs_max: int, tag_bits: int) -> None:
        if pairs_max < 1:
            raise ValueError(f"pairs_max = {pairs_max} is impossible: allowed is 1 or more")
        if tag_bits < 1:
            raise ValueError(f"tag_bits = {tag_bits} is impossible: allowed is 1 or more")
        self._pairs_max = pairs_max
        self._tag_bits = tag_bits
        super().__init__(
            {
                "in_valid": In(1),
                "in_value": In(signed(32)),
                "in_tag": In(tag_bits),
                "in_rotate": In(1),
                "in_kappa": In(16),
                "in_pos": In(20),
                "in_pair": In(self.pair_bits),
                "out_valid": Out(1),
                "out_value": Out(signed(32)),
                "out_tag": Out(tag_bits),
                "out_saturated": Out(1),
                "cfg_we": In(1),
                "cfg_addr": In(self.pair_bits),
                "cfg_data": In(32),
            },
            params=(pairs_max, tag_bits),
        )

    @property
    def pairs_max(self) -> int:
        """Entries of the frequency table."""
        return self._pairs_max

    @property
    def tag_bits(self) -> int:
        """Width of the tag."""
        return self._tag_bits

    @property
    def pair_bits(self) -> int:
        """Width of a pair index."""
        return max(1, (self._pairs_max - 1).bit_length())

    def elaborate(self, platform: object) -> Module:
        """Stage k works in cycle k after the input; its registers end in k + 1."""
        m = Module()

        # The values' own way: stages 1..8. `even` and `odd` are strobes of rotated values.
        second = Signal()  # the next rotated value is the second of its pair
        valid: list[Signal] = [self.in_valid]
        value: list[Signal] = [self.in_value]
        tag: list[Signal] = [self.in_tag]
        even, odd = [Signal(name="even0")], [Signal(name="odd0")]
        m.d.comb += [
            even[0].eq(self.in_valid & self.in_rotate & ~second),
            odd[0].eq(self.in_valid & self.in_rotate & second),
        ]
        with m.If(self.in_valid):
            m.d.sync += second.eq(self.in_rotate & ~second)
        for k in range(1, 9):
            valid.append(Signal(name=f"valid{k}"))
            even.append(Signal(name=f"even{k}"))
            odd.append(Signal(name=f"odd{k}"))
            tag.append(Signal(self._tag_bits, name=f"tag{k}", reset_less=True))
            m.d.sync += [
                valid[k].eq(valid[k - 1]),
                even[k].eq(even[k - 1]),
                odd[k].eq(odd[k - 1]),
            ]
            with m.If(valid[k - 1]):
                m.d.sync += tag[k].eq(tag[k - 1])
            if k < 8:
                value.append(Signal(signed(32), name=f"value{k}", reset_less=True))
                with m.If(valid[k - 1]):
                    m.d.sync += value[k].eq(value[k - 1])

        # Stage 0: the pair's frequency, its position and scale (once per pair).
        m.submodules.frequency = frequency = Memory(
            shape=unsigned(32), depth=1 << self.pair_bits, init=[]
        )
        write, read = frequency.write_port(), frequency.read_port()
        m.d.comb += [
            write.en.eq(self.cfg_we),
            write.addr.eq(self.cfg_addr),
            write.data.eq(self.cfg_data),
            read.en.eq(even[0]),
            read.addr.eq(self.in_pair),
        ]
        pos1 = Signal(20, reset_less=True)
        kappa1, kappa3 = (Signal(16, name=f"kappa{k}", reset_less=True) for k in (1, 3))
        with m.If(even[0]):
            m.d.sync += [pos1.eq(self.in_pos), kappa1.eq(self.in_kappa)]

        # Stage 1: the phase (once per pair).
        phase2 = Signal(32 - _PHASE_SHIFT, reset_less=True)
        with m.If(even[1]):
            m.d.sync += phase2.eq((pos1 * read.data)[_PHASE_SHIFT:32])
        with m.If(even[2]):
            # The next pair is two cycles behind, so this scale is still there.
            m.d.sync += kappa3.eq(kappa1)

        # Stage 2: the sine table; cosine in the even slot, sine in the odd one.
        m.submodules.sine = sine = Memory(shape=unsigned(16), depth=SINE_ENTRIES, init=sine_table())
        table = sine.read_port()
        quadrant = phase2[-2:]
        falling = Signal()
        negative3 = Signal(reset_less=True)
        m.d.comb += [
            falling.eq(quadrant[0] ^ even[2]),
            table.en.eq(even[2] | odd[2]),
            table.addr.eq(phase2[:-2] ^ falling.replicate(len(phase2) - 2)),
        ]
        with m.If(table.en):
            m.d.sync += negative3.eq(quadrant[1] ^ (quadrant[0] & even[2]))

        # Stage 3: sign and scale. No scale is a scale of 2^16, which rounds to the same number.
        signed3 = Signal(_COEFFICIENT)
        scale3 = Signal(17)
        scaled4 = Signal(signed(34), reset_less=True)
        m.d.comb += [
            signed3.eq(Mux(negative3, -table.data, table.data)),
            scale3.eq(Mux(kappa3.any(), kappa3, 1 << 16)),
        ]
        with m.If(even[3] | odd[3]):
            m.d.sync += scaled4.eq(signed3 * scale3)

        # Stage 4: the coefficients. The cosine waits a cycle for the sine, then both stay for two.
        coefficient = Signal(_COEFFICIENT)
        cosine5, cosine6, sine6 = (
            Signal(_COEFFICIENT, name=name, reset_less=True)
            for name in ("cosine5", "cosine6", "sine6")
        )
        m.d.comb += coefficient.eq(round_shift(scaled4, _SINE_FRAC))
        with m.If(even[4]):
            m.d.sync += cosine5.eq(coefficient)
        with m.If(odd[4]):
            m.d.sync += [cosine6.eq(cosine5), sine6.eq(coefficient)]

        # Stage 6: two products. The partner is one stage behind an even value, one ahead of an
        # odd one.
        partner = Signal(signed(32))
        own7, cross7 = (
            Signal(signed(49), name=name, reset_less=True) for name in ("own7", "cross7")
        )
        m.d.comb += partner.eq(Mux(odd[6], value[7], value[5]))
        with m.If(even[6] | odd[6]):
            m.d.sync += [own7.eq(value[6] * cosine6), cross7.eq(partner * sine6)]

        # Stage 7: the sum; a value that is not rotated comes out of the rounding as it is.
        sum8 = Signal(signed(50), reset_less=True)
        with m.If(even[7]):
            m.d.sync += sum8.eq(own7 - cross7)
        with m.Elif(odd[7]):
            m.d.sync += sum8.eq(own7 + cross7)
        with m.Elif(valid[7]):
            m.d.sync += sum8.eq(value[7].shift_left(_SINE_FRAC))

        # Stage 8: round and clamp.
        result, saturated = sat32(round_shift(sum8, _SINE_FRAC))
        m.d.sync += [self.out_valid.eq(valid[8]), self.out_saturated.eq(valid[8] & saturated)]
        with m.If(valid[8]):
            m.d.sync += [self.out_value.eq(result), self.out_tag.eq(tag[8])]

        return m
