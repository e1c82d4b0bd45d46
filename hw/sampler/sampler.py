"""Sampler: the token after a row, from its logits."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data
from amaranth.lib.wiring import In, Out

from tokenloom.hw.sampler.candidates import BINS
from tokenloom.hw.sampler.cut_off import SCORE_BITS, CutOff
from tokenloom.hw.sampler.logit_rules import LogitRules
from tokenloom.hw.sampler.noise import SAMPLING, Noise
from tokenloom.hw.sampler.power_sum import MANTISSA_BITS, OCTAVE_BITS, PowerSum
from tokenloom.hw.sampler.sampling import GUARD_BITS
from tokenloom.hw.sampler.settings import (
    BIASES_MAX,
    CANDIDATES_MAX,
    FIELDS,
    VOCAB_BITS_MAX,
    WINDOW_MAX,
    Settings,
)
from tokenloom.hw.sampler.top_list import TopList
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["RULES", "Sampler", "rule_ports"]


def rule_ports(vocab_bits: int) -> dict[str, Any]:
    """Inputs of a sampler with candidates, for its rules."""
    return {
        "recent": In(WINDOW_MAX * vocab_bits),
        "recent_count": In(FIELDS["window"]),
        "bias_we": In(1),
        "bias_addr": In((BIASES_MAX - 1).bit_length()),
        "bias_id": In(vocab_bits),
        "bias_value": In(signed(32)),
    }


RULES = tuple(rule_ports(1))


class Sampler(Block):
    """Finds the largest score of a row; the lowest id wins among equals.

    A score is the logit, and with a temperature noise on top (docs/numbers.md, point 16). That is
    the whole sampler without candidates. With them, rules adjust the logits first (point 17), and
    the largest `count` of them go into a list, in which top-k, top-p and min-p cut (points 18, 19);
    the winner then is the largest score of what they leave. Requests that use none of this see the
    sampler without candidates, cycle by cycle.

    Parameters
    ----------
    vocab_bits : int
        Width of a token id, 1..32; with candidates 1..20.
    candidates : int
        Ids that the list holds: 0 (no list, no rules) or 2..64.

    Members
    -------
    restart : In(1)
        Strobe: a pass begins; the row's first logit comes more than `Noise.LEAD` cycles later.
    sampling : In
        The settings, `noise.SAMPLING`; stable from `restart` on.
    position : In(20)
        Position of the row's token; stable from `restart` on.
    in_valid : In(1)
        The other inputs hold a logit.
    in_logit : In(signed(32))
        The logit of the next id; ids count from 0 at `in_start`.
    in_start : In(1)
        Id 0.
    in_last : In(1)
        The last id (it may be id 0).
    token : Out(vocab_bits)
        The winner so far; from `token_valid` on the result, until the next logit arrives.
    token_valid : Out(1)
        Strobe.
    in_masked : In(1)
        Only with candidates, as all that follow. With `in_valid`: this id is out, if
        `sampling.masked`. When all are, the token is 0.
    recent : In(64 * vocab_bits)
        The sequence's latest tokens, that at `position` lowest; stable while logits pass.
    recent_count : In(7)
        How many of them count for the repetition penalty, 0 to 64; stable like them.
    bias_we : In(1)
        Strobe, between rows: writes an entry of the table of biases.
    bias_addr : In(5)
        Which; the first `sampling.biases` count, and their ids ascend.
    bias_id : In(vocab_bits)
        The entry's id.
    bias_value : In(signed(32))
        What is added to its logit, in the logits' format.
    list_valid : Out(1)
        Strobe: one of the `sampling.count` largest logits, the largest first, in successive cycles,
        the last one with `token_valid`'s predecessor; fewer when there are fewer ids.
    list_id : Out(vocab_bits)
        Its id.
    list_logit : Out(signed(32))
        Its logit behind penalty and bias.
    list_log : Out(signed(32))
        Base-2 logarithm of its probability among all ids, 16 fraction bits.
    list_kept : Out(1)
        Whether the cut-offs leave it.
    total : Out(vocab_bits + 49)
        Sum of the powers of all ids, unit 2^-48 of the top octave; from the first `list_valid` on.
    octave : Out(signed(38))
        The top octave: that sum is total 2^(-48 - octave).

    Latency
    -------
    `latency(settings)` belt cycles from `in_last` to `token_valid`: `LATENCY` = 2 without rules and
    list, 8 with rules, 18 + max(count, 32) + count with a list.

    Duration
    --------
    One logit per cycle, with or without gaps.

    Raises
    ------
    ValueError
        When a parameter is not allowed.
    """

    LATENCY = 2

    def __init__(self, *, vocab_bits: int, candidates: int = 0) -> None:
        most = VOCAB_BITS_MAX if candidates else 32
        if not 1 <= vocab_bits <= most:
            raise ValueError(f"vocab_bits = {vocab_bits} is impossible: allowed is 1..{most}")
        if candidates and not 2 <= candidates <= CANDIDATES_MAX:
            raise ValueError(
                f"candidates = {candidates} is impossible: allowed is 0, or 2..{CANDIDATES_MAX}"
            )
        self._vocab_bits, self._candidates = vocab_bits, candidates
        ports = {
            "restart": In(1),
            "sampling": In(SAMPLING.size),
            "position": In(20),
            "in_valid": In(1),
            "in_logit": In(signed(32)),
            "in_start": In(1),
            "in_last": In(1),
            "token": Out(vocab_bits),
            "token_valid": Out(1),
        }
        if candidates:
            ports |= {
                "in_masked": In(1),
                **rule_ports(vocab_bits),
                "list_valid": Out(1),
                "list_id": Out(vocab_bits),
                "list_logit": Out(signed(32)),
                "list_log": Out(signed(32)),
                "list_kept": Out(1),
                "total": Out(vocab_bits + MANTISSA_BITS + BINS - 1),
                "octave": Out(signed(OCTAVE_BITS)),
            }
        super().__init__(ports, params=(vocab_bits, candidates))

    @property
    def vocab_bits(self) -> int:
        """Width of a token id."""
        return self._vocab_bits

    @classmethod
    def latency(cls, settings: Settings) -> int:
        """Belt cycles from `in_last` to `token_valid` with these settings."""
        if not settings.adjusts:
            return cls.LATENCY
        behind = CutOff.latency(settings.count) if settings.count else cls.LATENCY
        return LogitRules.LATENCY + behind

    def elaborate(self, platform: object) -> Module:
        """Rules on the way, then the largest score; the list beside it."""
        m = Module()
        sampling = data.View(SAMPLING, self.sampling)
        noise = Noise(vocab_bits=self._vocab_bits, jumps=bool(self._candidates))
        m.submodules.noise = instance(noise, en=self.en)
        offered, start_in, last_in = Signal(), Signal(), Signal()
        masked_in = Signal()
        logit_in = Signal(signed(32))
        m.d.comb += [
            noise.restart.eq(self.restart),
            noise.sampling.eq(self.sampling),
            noise.position.eq(self.position),
            noise.take.eq(offered),
            offered.eq(self.in_valid),
            start_in.eq(self.in_start),
            last_in.eq(self.in_last),
            logit_in.eq(self.in_logit),
        ]
        rules = LogitRules(vocab_bits=self._vocab_bits)
        adjusts = Signal()
        if self._candidates:
            m.submodules.logit_rules = instance(rules, en=self.en)
            m.d.comb += adjusts.eq(
                Cat(sampling.window, sampling.biases, sampling.masked, sampling.count).any()
            )
            for name in ("restart", "sampling", "in_logit", "in_start", "in_last", "in_masked",
                         *RULES):  # fmt: skip
                m.d.comb += getattr(rules, name).eq(getattr(self, name))
            m.d.comb += rules.in_valid.eq(self.in_valid & adjusts)
            with m.If(adjusts):
                m.d.comb += [
                    offered.eq(rules.out_valid),
                    start_in.eq(rules.out_start),
                    last_in.eq(rules.out_last),
                    logit_in.eq(rules.out_logit),
                    masked_in.eq(rules.out_masked),
                ]

        # Register the score, then compare it with the best.
        valid, start, last = Signal(), Signal(reset_less=True), Signal(reset_less=True)
        masked, none = Signal(reset_less=True), Signal(reset_less=True)
        score, best = (
            Signal(signed(SCORE_BITS), name=name, reset_less=True) for name in ("score", "best")
        )
        index = Signal(self._vocab_bits, reset_less=True)
        token = Signal(self._vocab_bits)
        token_valid = Signal()
        guarded = Cat(Const(0, GUARD_BITS), logit_in).as_signed()
        m.d.sync += valid.eq(offered)
        with m.If(offered):
            m.d.sync += [
                score.eq(guarded + noise.value),
                start.eq(start_in),
                last.eq(last_in),
                masked.eq(masked_in),
                index.eq(Mux(start_in, 0, index + 1)),
            ]

        # `none`: every id so far is out.
        with m.If(valid & ~masked & (start | none | (score > best))):
            m.d.sync += [best.eq(score), token.eq(index), none.eq(0)]
        with m.Elif(valid & start):
            m.d.sync += [token.eq(0), none.eq(1)]
        m.d.sync += token_valid.eq(valid & last)

        if not self._candidates:
            m.d.comb += [self.token.eq(token), self.token_valid.eq(token_valid)]
            return m
        self._look_at_list(m, sampling, rules, noise, token, token_valid)
        return m

    def _look_at_list(
        self,
        m: Module,
        sampling: Any,
        rules: LogitRules,
        noise: Noise,
        token: Signal,
        token_valid: Signal,
    ) -> None:
        """The list, the sum of powers, and what cuts."""
        top = TopList(entries=self._candidates, value_bits=32, tag_bits=self._vocab_bits)
        powers = PowerSum(vocab_bits=self._vocab_bits)
        cut = CutOff(entries=self._candidates, vocab_bits=self._vocab_bits)
        for name, block in (("top_list", top), ("power_sum", powers), ("cut_off", cut)):
            m.submodules[name] = instance(block, en=self.en)
        lists, counts, cuts = Signal(), Signal(), Signal()
        m.d.comb += [
            lists.eq(sampling.count != 0),
            counts.eq(rules.out_valid & lists & ~rules.out_masked),
            cuts.eq(Cat(sampling.limited, sampling.top_p, sampling.min_p).any()),
            top.clear.eq(self.restart),
            top.insert.eq(counts),
            top.value.eq(rules.out_logit),
            top.tag.eq(rules.out_id),
            top.shift.eq(cut.shift),
            powers.restart.eq(self.restart),
            powers.sampling.eq(self.sampling),
            powers.in_valid.eq(counts | cut.shift),
            powers.in_candidate.eq(cut.shift),
            powers.in_logit.eq(Mux(cut.shift, top.first_value, rules.out_logit)),
            powers.read.eq(cut.read),
            powers.read_place.eq(cut.read_place),
            cut.sampling.eq(self.sampling),
            cut.ends.eq(rules.out_valid & rules.out_last),
            cut.first_valid.eq(top.first_valid),
            cut.first_logit.eq(top.first_value),
            cut.first_id.eq(top.first_tag),
            cut.power_mantissa.eq(powers.out_mantissa),
            cut.power_depth.eq(powers.out_depth),
            cut.read_sum.eq(powers.read_sum),
            cut.noise.eq(noise.value),
            noise.jump.eq(cut.jump),
            noise.jump_id.eq(cut.jump_id),
            self.octave.eq(powers.octave),
            # What cuts draws by itself; without cuts the list is only looked at.
            self.token.eq(Mux(cuts & lists, cut.token, token)),
            self.token_valid.eq(Mux(lists, cut.token_valid, token_valid)),
        ]
        for name in ("list_valid", "list_id", "list_logit", "list_log", "list_kept", "total"):
            m.d.comb += getattr(self, name).eq(getattr(cut, name))
