"""Cut-off: reads the list of candidates, cuts it by top-k, top-p and min-p, and draws."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, ValueLike, signed
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.formats import SCORE_FRAC
from tokenloom.hw.numbers.tables import LOG2_FRAC
from tokenloom.hw.sampler.candidates import BINS, DEPTH_BITS
from tokenloom.hw.sampler.log_total import LogTotal
from tokenloom.hw.sampler.noise import NOISE_BITS, SAMPLING, Noise
from tokenloom.hw.sampler.power_sum import MANTISSA_BITS, PowerSum
from tokenloom.hw.sampler.sampling import GUARD_BITS
from tokenloom.hw.sampler.settings import SHARE_FRAC
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["SCORE_BITS", "CutOff"]

SCORE_BITS = 1 + NOISE_BITS
_WIDE_BITS = MANTISSA_BITS + BINS - 1  # of a power in units of 2^-48
_PLACE_BITS = (BINS - 1).bit_length()

# In cycles after `ends`, from 0 on. The list moves once a cycle from tick 0 on; its powers and the
# bins' sums come side by side from _FIRST on, and the limit is complete _READ after the last one.
_FIRST = PowerSum.LATENCY
_READ = 9  # the second look at candidate 0 begins at max(count, BINS) + _READ


class CutOff(Block):
    """The sequential part of the sampler, docs/numbers.md, points 18 and 19.

    First look: every candidate's power and noise are made, by the units that served the logits, and
    kept in small memories; meanwhile the bins are added up. Second look: candidate by candidate,
    what is left of the limit decides whether it stays; the largest score of those that stay wins.

    Parameters
    ----------
    entries : int
        Candidates at most.
    vocab_bits : int

    Members
    -------
    sampling : In
        `SAMPLING`, stable; `count` is at most `entries`.
    ends : In(1)
        Strobe: the row's last logit goes into list and sum.
    shift : Out(1), first_valid, first_logit, first_id : In
        The list; its first entry goes into the sum of powers as a candidate, too.
    power_mantissa, power_depth : In
        Of the candidate `PowerSum.LATENCY` cycles ago.
    read : Out(1), read_place : Out(5), read_sum : In
        The sum's bins.
    jump : Out(1), jump_id : Out, noise : In
        The noise of a candidate.
    token : Out(vocab_bits)
        From `token_valid` on, until the next `ends`; 0 when there is no candidate.
    token_valid : Out(1)
        Strobe.
    list_valid : Out(1)
        A candidate; the first one has the largest logit. The last comes with `token_valid`.
    list_id, list_logit : Out
    list_log : Out(signed(32))
        Base-2 logarithm of its probability among all ids, 16 fraction bits.
    list_kept : Out(1)
        It was not cut off.
    total : Out(vocab_bits + 49)
        The sum of all powers, from the first `list_valid` on.

    Latency
    -------
    `latency(count)` = 12 + max(count, 32) + count cycles from `ends` to `token_valid`.
    """

    def __init__(self, *, entries: int, vocab_bits: int) -> None:
        self._entries, self._vocab_bits = entries, vocab_bits
        self._sum_bits = vocab_bits + MANTISSA_BITS
        super().__init__(
            {
                "sampling": In(SAMPLING.size),
                "ends": In(1),
                "shift": Out(1),
                "first_valid": In(1),
                "first_logit": In(signed(32)),
                "first_id": In(vocab_bits),
                "power_mantissa": In(MANTISSA_BITS),
                "power_depth": In(DEPTH_BITS),
                "read": Out(1),
                "read_place": Out(_PLACE_BITS),
                "read_sum": In(self._sum_bits),
                "jump": Out(1),
                "jump_id": Out(vocab_bits),
                "noise": In(signed(NOISE_BITS)),
                "token": Out(vocab_bits),
                "token_valid": Out(1),
                "list_valid": Out(1),
                "list_id": Out(vocab_bits),
                "list_logit": Out(signed(32)),
                "list_log": Out(signed(32)),
                "list_kept": Out(1),
                "total": Out(self._sum_bits + BINS - 1),
            },
            params=(entries, vocab_bits),
        )

    @staticmethod
    def latency(count: int) -> int:
        """Cycles from `ends` to `token_valid`."""
        return 1 + max(count, BINS) + _READ + count + 2

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sampling = data.View(SAMPLING, self.sampling)
        count = sampling.count

        # Time: `tick` counts from the cycle after `ends`.
        active = Signal()
        tick = Signal(range(self.latency(self._entries) + 1))
        first_look, second, over = Signal.like(tick), Signal.like(tick), Signal.like(tick)
        m.d.comb += [
            first_look.eq(Mux(count > BINS, count, BINS)),
            second.eq(first_look + _READ),
            over.eq(second + count + 1),
        ]
        with m.If(self.ends):
            m.d.sync += [active.eq(count != 0), tick.eq(0)]
        with m.Elif(active):
            m.d.sync += [tick.eq(tick + 1), active.eq(tick != over)]

        def runs(start: ValueLike | None, length: ValueLike) -> tuple[Signal, Signal]:
            """Whether it is one of these ticks (`start` None: from 0 on), and which."""
            on, which = Signal(), Signal.like(tick)
            begun = 1 if start is None else tick >= start
            m.d.comb += [
                which.eq(tick if start is None else tick - start),
                on.eq(active & begun & (which < length)),
            ]
            return on, which

        # First look: the list leaves the network; candidates go to the sum of powers and, with
        # `LEAD` more ids behind them, to the noise.
        moves, place = runs(None, count)
        powers, power_place = runs(_FIRST, count)
        jumps, _ = runs(None, count + Noise.LEAD)
        noises, noise_place = runs(Noise.LEAD, count)
        bins, bin_place = runs(_FIRST - 1, BINS)
        sums, _ = runs(_FIRST, BINS)
        m.d.comb += [
            self.shift.eq(moves),
            self.jump.eq(jumps),
            self.jump_id.eq(self.first_id),
            self.read.eq(bins),
            self.read_place.eq(bin_place),
        ]
        there = Signal(_FIRST)  # whether there was a candidate, as long as its power takes
        m.d.sync += there.eq(Cat(self.first_valid, there))
        mantissa = Signal(MANTISSA_BITS)
        m.d.comb += mantissa.eq(Mux(there[-1], self.power_mantissa, 0))
        entry = data.StructLayout({"valid": 1, "id": self._vocab_bits, "logit": signed(32)})
        power = data.StructLayout({"mantissa": MANTISSA_BITS, "depth": DEPTH_BITS})

        def kept(name: str, width: int, on: Signal, at: Signal, value: ValueLike) -> Signal:
            """A memory with a word per candidate; what the second look reads."""
            memory = Memory(shape=width, depth=self._entries, init=[])
            m.submodules[name] = memory
            write, read = memory.write_port(), memory.read_port()
            m.d.comb += [
                write.en.eq(on),
                write.addr.eq(at[: len(write.addr)]),
                write.data.eq(value),
                read.addr.eq(look[: len(read.addr)]),
            ]
            return read.data

        looks, look = runs(second, count)
        entry1 = data.View(
            entry,
            kept("entries", entry.size, moves, place,
                 Cat(self.first_valid, self.first_id, self.first_logit)),
        )  # fmt: skip
        power1 = data.View(
            power,
            kept("powers", power.size, powers, power_place, Cat(mantissa, self.power_depth)),
        )
        noise1 = kept("noises", NOISE_BITS, noises, noise_place, self.noise).as_signed()

        # The limit: top-p's share of the bins' sum, or of the candidates' powers.
        limit_bits = SHARE_FRAC + len(self.total)
        limit = Signal(signed(limit_bits + 1), reset_less=True)
        product = Signal(SHARE_FRAC + self._sum_bits, reset_less=True)
        least = Signal(SHARE_FRAC + MANTISSA_BITS, reset_less=True)
        power_octave = Signal(DEPTH_BITS - SCORE_FRAC)
        left, sums_product, powers_product = Signal(_PLACE_BITS), Signal(), Signal()
        m.d.comb += power_octave.eq(self.power_depth[SCORE_FRAC:])
        m.d.sync += [
            product.eq(sampling.top_p * Mux(sampling.limited, mantissa, self.read_sum)),
            left.eq(~power_octave[:_PLACE_BITS]),  # 31 - octave
            sums_product.eq(sums & ~sampling.limited),
            powers_product.eq(powers & sampling.limited & ~power_octave[_PLACE_BITS:].any()),
        ]
        with m.If(powers & (power_place == 0)):
            m.d.sync += least.eq(sampling.min_p * mantissa)
        with m.If(sums):
            m.d.sync += self.total.eq((self.total << 1) + self.read_sum)
        wide2 = Signal(_WIDE_BITS, reset_less=True)
        valid1, valid2 = Signal(), Signal()
        with m.If(self.ends):
            m.d.sync += [limit.eq(0), self.total.eq(0)]
        with m.Elif(sums_product):
            m.d.sync += limit.eq((limit << 1) + product)
        with m.Elif(powers_product):
            m.d.sync += limit.eq(limit + (product[: SHARE_FRAC + MANTISSA_BITS] << left))
        with m.Elif(valid2):
            m.d.sync += limit.eq(limit - Cat(Const(0, SHARE_FRAC), wide2))

        logarithm = LogTotal(total_bits=len(self.total))
        m.submodules.log_total = instance(logarithm, en=self.en)
        m.d.comb += logarithm.total.eq(self.total)

        # Second look: read, score, decide.
        score2 = Signal(signed(SCORE_BITS), reset_less=True)
        there2 = Signal()
        octave1 = Signal.like(power_octave)
        small, stays = Signal(), Signal()
        m.d.comb += [
            octave1.eq(power1.depth[SCORE_FRAC:]),
            # As a share of the first one's power, whose octave is the top one.
            small.eq(wide2[BINS - 1 - SHARE_FRAC :] < least),
            stays.eq(
                there2
                & ((sampling.top_p == 0) | (~limit[-1] & limit.any()))
                & ((sampling.min_p == 0) | ~small)
            ),
            self.list_valid.eq(valid2 & there2),
            self.list_kept.eq(stays),
        ]
        m.d.sync += [valid1.eq(looks), valid2.eq(valid1)]
        with m.If(valid1):
            m.d.sync += [
                there2.eq(entry1.valid),
                self.list_id.eq(entry1.id),
                self.list_logit.eq(entry1.logit),
                self.list_log.eq(
                    -Cat(Const(0, LOG2_FRAC - SCORE_FRAC), power1.depth) - logarithm.log
                ),
                score2.eq(Cat(Const(0, GUARD_BITS), entry1.logit).as_signed() + noise1),
                wide2.eq(
                    Mux(
                        octave1[_PLACE_BITS:].any(),
                        0,
                        power1.mantissa << ~octave1[:_PLACE_BITS],
                    )
                ),
            ]
        best = Signal.like(score2)
        any_best = Signal()
        with m.If(self.ends):
            m.d.sync += [any_best.eq(0), self.token.eq(0)]
        with m.Elif(
            valid2
            & stays
            & (~any_best | (score2 > best) | ((score2 == best) & (self.list_id < self.token)))
        ):
            m.d.sync += [any_best.eq(1), best.eq(score2), self.token.eq(self.list_id)]
        m.d.sync += self.token_valid.eq(active & (tick == over))
        return m
