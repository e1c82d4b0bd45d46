"""Beam step: from the candidates of up to eight beams to the beams that go on."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.arith import sum_tree
from tokenloom.hw.sampler.beams import BEAM_SCORE_BITS, BEAMS_MAX, PENALTY_BITS
from tokenloom.hw.sampler.top_list import TopList
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["BeamStep"]

_BEAM_BITS = (BEAMS_MAX - 1).bit_length()


class BeamStep(Block):
    """`beams.beam_step`, docs/numbers.md, point 20; its candidates come as `CutOff` lists them.

    Group by group, beam by beam, one candidate per cycle; behind a group's last one its new beams
    leave, and their tokens are remembered for the penalty of the next group.

    Parameters
    ----------
    vocab_bits : int

    Members
    -------
    restart : In(1)
        Strobe: a step begins with its first group.
    width : In(4)
        Beams of a group, 1 to 8, stable in a step.
    penalty : In(24)
        Diversity penalty, 16 fraction bits, stable in a step.
    in_valid : In(1)
        A candidate; not from a group's last one to its last `out_valid`.
    in_beam : In(3), in_token : In(vocab_bits), in_log : In(signed(32))
        Its beam, its id and its logarithm; beams ascending, each one's largest first.
    in_score : In(signed(48))
        Its beam's score.
    in_last : In(1)
        The last one of the group.
    out_valid : Out(1)
        A beam that goes on, the largest score first: `width` in successive cycles, or as many as
        the group had candidates.
    out_beam, out_token, out_score : Out
        Its parent, its token, its score.

    Latency
    -------
    `LATENCY` = 4 belt cycles from `in_last` to the group's first `out_valid`.

    Duration
    --------
    A cycle per candidate, and `LATENCY` + width - 1 per group.
    """

    LATENCY = 4

    def __init__(self, *, vocab_bits: int) -> None:
        self._vocab_bits = vocab_bits
        super().__init__(
            {
                "restart": In(1),
                "width": In(BEAMS_MAX.bit_length()),
                "penalty": In(PENALTY_BITS),
                "in_valid": In(1),
                "in_beam": In(_BEAM_BITS),
                "in_token": In(vocab_bits),
                "in_log": In(signed(32)),
                "in_score": In(signed(BEAM_SCORE_BITS)),
                "in_last": In(1),
                "out_valid": Out(1),
                "out_beam": Out(_BEAM_BITS),
                "out_token": Out(vocab_bits),
                "out_score": Out(signed(BEAM_SCORE_BITS)),
            },
            params=(vocab_bits,),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self._vocab_bits
        # Tokens that this step's earlier groups took.
        taken = [Signal(bits, name=f"taken{i}", reset_less=True) for i in range(BEAMS_MAX)]
        used = Signal(BEAMS_MAX)

        # Stage 1: the sum, and how often the token was taken. Stage 2: the score.
        valid1, valid2, last1, last2 = (
            Signal(name=n) for n in ("valid1", "valid2", "last1", "last2")
        )
        sum1, score2 = (
            Signal(signed(BEAM_SCORE_BITS), name=name, reset_less=True)
            for name in ("sum1", "score2")
        )
        times1 = Signal(range(BEAMS_MAX + 1), reset_less=True)
        tag1, tag2 = (Signal(_BEAM_BITS + bits, name=f"tag{i}", reset_less=True) for i in (1, 2))
        hits = Signal(BEAMS_MAX)
        m.d.comb += hits.eq(Cat(used[i] & (taken[i] == self.in_token) for i in range(BEAMS_MAX)))
        m.d.sync += [
            valid1.eq(self.in_valid),
            last1.eq(self.in_valid & self.in_last),
            valid2.eq(valid1),
            last2.eq(last1),
        ]
        with m.If(self.in_valid):
            m.d.sync += [
                sum1.eq(self.in_score + self.in_log),
                times1.eq(sum_tree(hits[i] for i in range(BEAMS_MAX))),
                tag1.eq(Cat(self.in_token, self.in_beam)),
            ]
        with m.If(valid1):
            m.d.sync += [score2.eq(sum1 - times1 * self.penalty), tag2.eq(tag1)]

        # Stage 3: the list; then its first ones leave.
        best = TopList(entries=BEAMS_MAX, value_bits=BEAM_SCORE_BITS, tag_bits=_BEAM_BITS + bits)
        m.submodules.best = instance(best, en=self.en)
        left = Signal.like(self.width)
        leaves, ends = Signal(), Signal()
        m.d.comb += [
            leaves.eq((left != 0) & best.first_valid),
            ends.eq((left == 1) | ((left != 0) & ~best.first_valid)),
            best.insert.eq(valid2),
            best.value.eq(score2),
            best.tag.eq(tag2),
            best.shift.eq(leaves),
            # What the group leaves over.
            best.clear.eq(self.restart | (ends & ~leaves) | (self.out_valid & (left == 0))),
        ]
        with m.If(self.restart):
            m.d.sync += [left.eq(0), used.eq(0)]
        with m.Elif(last2):
            m.d.sync += left.eq(self.width)
        with m.Elif(left != 0):
            m.d.sync += left.eq(Mux(ends, 0, left - 1))
        with m.If(leaves & ~self.restart):
            m.d.sync += [
                used.eq(Cat(1, used)),
                *(a.eq(b) for a, b in zip(taken[1:], taken, strict=False)),
            ]
            m.d.sync += taken[0].eq(best.first_tag[:bits])
        m.d.sync += [
            self.out_valid.eq(leaves),
            self.out_score.eq(best.first_value),
            Cat(self.out_token, self.out_beam).eq(best.first_tag),
        ]
        return m
