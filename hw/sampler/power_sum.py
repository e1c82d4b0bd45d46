"""Power sum: 2^(logit log2(e) / T) of every logit, and the exact sum of all."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.arith import round_shift
from tokenloom.hw.numbers.formats import PROB_FRAC, SCORE_FRAC
from tokenloom.hw.numbers.tables import exp2_table
from tokenloom.hw.sampler.candidates import BINS, DEPTH_BITS
from tokenloom.hw.sampler.noise import SAMPLING
from tokenloom.hw.sampler.sampling import NOISE_MANTISSA_BITS
from tokenloom.hw.verilog.block import Block

__all__ = ["MANTISSA_BITS", "OCTAVE_BITS", "PowerSum"]

MANTISSA_BITS = PROB_FRAC + 1
_DEPTH_BITS = 32 + NOISE_MANTISSA_BITS + 1  # signed; one more because its sign is turned
OCTAVE_BITS = _DEPTH_BITS - SCORE_FRAC
_PLACE_BITS = (BINS - 1).bit_length()


class PowerSum(Block):
    """Powers and their sum, docs/numbers.md, point 18.

    Every octave of powers has a bin, a word of a small memory, in which its mantissas are summed.
    The bins go round: bin i holds the latest octave with octave mod `BINS` = i, and the octave's
    upper bits tell whether that is the wanted one. So nothing is ever shifted or rounded, and the
    order of the logits cannot matter.

    Parameters
    ----------
    vocab_bits : int

    Members
    -------
    restart : In(1)
        Strobe: the sum is empty.
    sampling : In
        `SAMPLING`, stable.
    in_valid : In(1), in_logit : In(signed(32))
        A logit.
    in_candidate : In(1)
        With it: only its power is wanted. Behind the row's last logit, which then gives the top.
    out_valid : Out(1)
        The power of a candidate.
    out_mantissa : Out(18)
    out_depth : Out(24)
        Distance of the power's exponent from the top octave's upper end, 11 fraction bits, clamped.
    octave : Out(signed(38))
        The top octave, with the first candidate's power.
    read : In(1), read_place : In(5)
        Asks for the sum of the octave so many below the top one, not before `in_last`'s logit has
        been in for `LATENCY` cycles.
    read_sum : Out(vocab_bits + 18)
        A cycle later.

    Latency
    -------
    `LATENCY` = 5 belt cycles from a candidate to its power, and from a logit into its bin.

    Duration
    --------
    One logit per cycle.
    """

    LATENCY = 5

    def __init__(self, *, vocab_bits: int) -> None:
        self._sum_bits = vocab_bits + MANTISSA_BITS
        super().__init__(
            {
                "restart": In(1),
                "sampling": In(SAMPLING.size),
                "in_valid": In(1),
                "in_candidate": In(1),
                "in_logit": In(signed(32)),
                "out_valid": Out(1),
                "out_mantissa": Out(MANTISSA_BITS),
                "out_depth": Out(DEPTH_BITS),
                "octave": Out(signed(OCTAVE_BITS)),
                "read": In(1),
                "read_place": In(_PLACE_BITS),
                "read_sum": Out(self._sum_bits),
            },
            params=(vocab_bits,),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sampling = data.View(SAMPLING, self.sampling)
        valid = [self.in_valid, *(Signal(name=f"valid{i}") for i in range(1, self.LATENCY))]
        listed = [
            self.in_candidate,
            *(Signal(name=f"candidate{i}", reset_less=True) for i in range(1, self.LATENCY)),
        ]
        for i in range(1, self.LATENCY):
            m.d.sync += valid[i].eq(valid[i - 1])
            with m.If(valid[i - 1]):
                m.d.sync += listed[i].eq(listed[i - 1])

        # Stages 0 to 3: the logit, its product, the depth, the table and the bin.
        logit1 = Signal(signed(32), reset_less=True)
        product2 = Signal(signed(_DEPTH_BITS - 1), reset_less=True)
        depth3, depth4 = (
            Signal(signed(_DEPTH_BITS), name=f"depth{i}", reset_less=True) for i in (3, 4)
        )
        with m.If(valid[0]):
            m.d.sync += logit1.eq(self.in_logit)
        with m.If(valid[1]):
            m.d.sync += product2.eq(logit1 * sampling.power_mantissa)
        with m.If(valid[2]):
            m.d.sync += depth3.eq(-round_shift(product2, sampling.power_shift))
        with m.If(valid[3]):
            m.d.sync += depth4.eq(depth3)
        table = exp2_table()
        m.submodules.table = memory = Memory(shape=MANTISSA_BITS, depth=len(table), init=table)
        entry = memory.read_port()
        m.d.comb += [entry.en.eq(valid[3]), entry.addr.eq(depth3[:SCORE_FRAC])]

        tag_bits = OCTAVE_BITS - _PLACE_BITS
        m.submodules.bins = bins = Memory(shape=tag_bits + self._sum_bits, depth=BINS, init=[])
        write, read = bins.write_port(), bins.read_port()
        wanted, wanted4 = (Signal(signed(OCTAVE_BITS), name=name) for name in ("wanted", "wanted4"))
        m.d.comb += [
            wanted.eq(
                Mux(self.read, self.octave + self.read_place, depth3[SCORE_FRAC:].as_signed())
            ),
            read.addr.eq(wanted[:_PLACE_BITS]),
        ]
        m.d.sync += wanted4.eq(wanted)

        # Stage 4: the mantissa into its bin. The word of the cycle before has not arrived there yet
        # when this one's bin was read.
        used, chosen, any_logit = Signal(BINS), Signal(BINS), Signal()
        mantissa = entry.data
        place4 = wanted4[:_PLACE_BITS]
        late, late_place = Signal(), Signal(_PLACE_BITS, reset_less=True)
        late_word = Signal(tag_bits + self._sum_bits, reset_less=True)
        word, total = Signal.like(late_word), Signal(self._sum_bits)
        fits, adds, rises = Signal(), Signal(), Signal()
        below = Signal(signed(OCTAVE_BITS + 1))
        m.d.comb += [
            word.eq(Mux(late & (late_place == place4), late_word, read.data)),
            chosen.eq(1 << place4),
            fits.eq((used & chosen).any() & (word[self._sum_bits :] == wanted4[_PLACE_BITS:])),
            total.eq(Mux(fits, word[: self._sum_bits], 0)),
            below.eq(depth4[SCORE_FRAC:].as_signed() - self.octave),
            rises.eq(~any_logit | below[-1]),
            adds.eq(valid[4] & ~listed[4] & (rises | ~below[_PLACE_BITS:-1].any())),
            write.en.eq(adds),
            write.addr.eq(place4),
            write.data.eq(Cat((total + mantissa)[: self._sum_bits], wanted4[_PLACE_BITS:])),
            self.read_sum.eq(total),
        ]
        m.d.sync += [late.eq(adds), late_place.eq(place4), late_word.eq(write.data)]
        with m.If(self.restart):
            m.d.sync += [used.eq(0), any_logit.eq(0), self.octave.eq(0)]
        with m.Elif(adds):
            m.d.sync += [used.eq(used | chosen), any_logit.eq(1)]
            with m.If(rises):
                m.d.sync += self.octave.eq(depth4[SCORE_FRAC:])

        # A candidate's power; it is no larger than the largest.
        depth = Signal(_DEPTH_BITS)
        m.d.comb += depth.eq(depth4 - (self.octave << SCORE_FRAC))
        m.d.sync += self.out_valid.eq(valid[4] & listed[4])
        with m.If(valid[4]):
            m.d.sync += [
                self.out_mantissa.eq(mantissa),
                self.out_depth.eq(
                    Mux(depth[DEPTH_BITS:].any(), (1 << DEPTH_BITS) - 1, depth[:DEPTH_BITS])
                ),
            ]
        return m
