"""Softmax: one attention lane's second scan, from scores to quantised probabilities."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.attention.prob_quantiser import ProbQuantiser
from tokenloom.hw.numbers.arith import round_shift, sum_tree
from tokenloom.hw.numbers.formats import (
    BLOCK,
    DEN_BITS,
    EXP2_SHIFT_MAX,
    PROB_FRAC,
    SCORE_FRAC,
    TOKENS_MAX,
)
from tokenloom.hw.numbers.tables import exp2_table
from tokenloom.hw.verilog.addressed_memory import addressed_memory
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["Softmax"]

_P_BITS = PROB_FRAC + 1
_W_BITS = 42
_SHIFT_BITS = 5
# Cycles from a word's turn (its scores are asked for) to its place in the block of 32.
_TO_BLOCK = 6


class Softmax(Block):
    """Scans the scores of every slot and delivers probability blocks for one block of dims.

    Per token `p = exp2(max - score)`, `w = p << v_shift`; 32 tokens form a block for the
    `ProbQuantiser`. With dim block 0 the sum of p, the denominator, leaves too. The lanes of all
    array rows run in lockstep and share the V shifts.

    A context longer than the scores' buffer comes in chunks, each an operation per dim block whose
    tokens count from the chunk's first; the denominator grows from chunk to chunk and leaves with
    the last one.

    Parameters
    ----------
    drain : int
        W, tokens per cycle: a power of two up to 32.
    slot_groups : int
        Slots of the lane (1 or more).
    tokens_max : int
        Tokens per slot: a multiple of 32 up to `TOKENS_MAX`.
    dim_blocks : int
        Blocks of 32 dims per head (1 or more).
    chunks : bool
        With the ports `start_opens` and `start_closes`.

    Members
    -------
    start : In(1)
        Begin an operation with the other `start_` ports; allowed when idle and in the last cycle
        of the operation before.
    start_bank : In(1)
        Bank of the scores and of the V shifts.
    start_out_bank : In(1)
        Bank of the probability buffer.
    start_groups : In
        Slots to scan, 1..slot_groups.
    start_words : In
        Words per slot: the longest length in whole blocks of 32, times 32/W.
    start_block : In
        Block of dims.
    start_opens, start_closes : In(1), with chunks
        The context's first chunk to be scanned: denominators restart; the last one: they leave.
    slot : Out; first_token, length : In; used : In(1)
        First token of the slot's window, its causal length, and whether it has a query,
        combinational from `slot`.
    scores_read, scores_bank, scores_slot, scores_word : Out
        To `Scores.read...`.
    scores : In(32 * W); scores_max : In(signed(32))
        From `Scores`, one cycle later.
    v_read, v_bank, v_token, v_block : Out
        To `VExponents.read...`.
    v_shift : In(5 * W)
        From `VExponents`, one cycle later.
    den_valid : Out(1), den_bank : Out(1), den_slot : Out, den : Out(35)
        Denominator of a used slot, only with dim block 0; the bank is `start_bank`.
    out_valid : Out(1)
        The other `out_` ports hold a block. Unused slots have blocks of zeros.
    out_bank : Out(1), out_slot : Out, out_block : Out
        Where it goes: `start_out_bank`, the slot, the block of 32 tokens.
    out_hi, out_lo : Out(256)
        Digits; token i of the block at bits 8i.
    out_sx : Out(6)
        Shift of the low digit (the high one's is 8 more).
    out_last : Out(1)
        Last block of the operation.

    Latency
    -------
    `latency(groups, words)` from `start` to `out_last`, `den_latency(groups, words)` from `start`
    to the last `den_valid`.

    Duration
    --------
    `duration(groups, words)` from one `start` to the earliest next one.

    Raises
    ------
    ValueError
        When a parameter is outside its range.
    """

    def __init__(
        self,
        *,
        drain: int,
        slot_groups: int,
        tokens_max: int,
        dim_blocks: int,
        chunks: bool = False,
    ) -> None:
        if drain not in (1, 2, 4, 8, 16, 32):
            raise ValueError(f"drain = {drain} is impossible: allowed is a power of two up to 32")
        if slot_groups < 1:
            raise ValueError(f"slot_groups = {slot_groups} is impossible: allowed is 1 or more")
        if tokens_max % BLOCK or not BLOCK <= tokens_max <= TOKENS_MAX:
            raise ValueError(
                f"tokens_max = {tokens_max}: allowed is a multiple of 32 up to {TOKENS_MAX}"
            )
        if dim_blocks < 1:
            raise ValueError(f"dim_blocks = {dim_blocks} is impossible: allowed is 1 or more")
        self._drain, self._slot_groups, self._chunks = drain, slot_groups, chunks
        words = tokens_max // drain
        slot_bits = max(1, (slot_groups - 1).bit_length())
        word_bits = max(1, (words - 1).bit_length())
        block_bits = max(1, (dim_blocks - 1).bit_length())
        super().__init__(
            {
                "start": In(1),
                "start_bank": In(1),
                "start_out_bank": In(1),
                "start_groups": In(slot_groups.bit_length()),
                "start_words": In(words.bit_length()),
                "start_block": In(block_bits),
                "slot": Out(slot_bits),
                "first_token": In(tokens_max.bit_length()),
                "length": In(tokens_max.bit_length()),
                "used": In(1),
                "scores_read": Out(1),
                "scores_bank": Out(1),
                "scores_slot": Out(slot_bits),
                "scores_word": Out(word_bits),
                "scores": In(32 * drain),
                "scores_max": In(signed(32)),
                "v_read": Out(1),
                "v_bank": Out(1),
                "v_token": Out((tokens_max - 1).bit_length()),
                "v_block": Out(block_bits),
                "v_shift": In(_SHIFT_BITS * drain),
                "den_valid": Out(1),
                "den_bank": Out(1),
                "den_slot": Out(slot_bits),
                "den": Out(DEN_BITS),
                "out_valid": Out(1),
                "out_bank": Out(1),
                "out_slot": Out(slot_bits),
                "out_block": Out(max(1, (tokens_max // BLOCK - 1).bit_length())),
                "out_hi": Out(8 * BLOCK),
                "out_lo": Out(8 * BLOCK),
                "out_sx": Out(6),
                "out_last": Out(1),
                **({"start_opens": In(1), "start_closes": In(1)} if chunks else {}),
            },
            params=(drain, slot_groups, tokens_max, dim_blocks, chunks),
        )

    @staticmethod
    def duration(groups: int, words: int) -> int:
        """Cycles from `start` to the earliest next `start`."""
        return groups * words

    @staticmethod
    def latency(groups: int, words: int) -> int:
        """Cycles from `start` to the last block (`out_last`)."""
        return groups * words + _TO_BLOCK + ProbQuantiser.LATENCY

    @staticmethod
    def den_latency(groups: int, words: int) -> int:
        """Cycles from `start` to the last slot's denominator (`den_valid`)."""
        return groups * words + _TO_BLOCK

    def elaborate(self, platform: object) -> Module:
        """Issue a word per cycle; distance, power, weight, block, quantiser behind it."""
        m = Module()
        lanes = self._drain
        parts = BLOCK // lanes
        drop = lanes.bit_length() - 1

        # The operation in progress and the word whose turn it is.
        active, first_of_op = Signal(), Signal()
        bank, out_bank = Signal(), Signal()
        block = Signal.like(self.start_block)
        slots_left = Signal.like(self.start_groups)
        words = Signal.like(self.start_words)
        words_left = Signal.like(self.start_words)
        slot = Signal.like(self.slot)
        word = Signal.like(self.scores_word)
        last_word, last_slot = Signal(), Signal()
        m.d.comb += [
            first_of_op.eq(~block.any()),
            last_word.eq(words_left == 1),
            last_slot.eq(slots_left == 1),
        ]
        opens, closes = Signal(), Signal()
        if self._chunks:
            with m.If(self.start):
                m.d.sync += [opens.eq(self.start_opens), closes.eq(self.start_closes)]
        with m.If(self.start):
            m.d.sync += [
                active.eq(1),
                bank.eq(self.start_bank),
                out_bank.eq(self.start_out_bank),
                block.eq(self.start_block),
                slots_left.eq(self.start_groups),
                words.eq(self.start_words),
                words_left.eq(self.start_words),
                slot.eq(0),
                word.eq(0),
            ]
        with m.Elif(active):
            with m.If(last_word):
                m.d.sync += [
                    active.eq(~last_slot),
                    slots_left.eq(slots_left - 1),
                    words_left.eq(words),
                    slot.eq(slot + 1),
                    word.eq(0),
                ]
            with m.Else():
                m.d.sync += [words_left.eq(words_left - 1), word.eq(word + 1)]
        m.d.comb += [
            self.slot.eq(slot),
            self.scores_read.eq(active),
            self.scores_bank.eq(bank),
            self.scores_slot.eq(slot),
            self.scores_word.eq(word),
        ]

        # What goes along with a word, stage by stage; stage 0 is the word's turn.
        first_word = Signal()
        wants_den = Signal()
        leaves = first_of_op & last_word & self.used
        if self._chunks:
            leaves &= closes
        m.d.comb += [
            first_word.eq(~word.any()),
            wants_den.eq(leaves),
        ]
        fields = [
            word,
            slot,
            bank,
            out_bank,
            block,
            first_word,
            wants_den,
            last_word & last_slot,
        ]
        if self._chunks:
            fields += [opens, first_of_op & last_word]
        valid = [active, *(Signal(name=f"valid{i}") for i in range(1, _TO_BLOCK + 1))]
        along = [fields]
        for i in range(1, _TO_BLOCK + 1):
            held = [Signal(len(f), name=f"field{i}_{k}") for k, f in enumerate(fields)]
            m.d.sync += valid[i].eq(valid[i - 1])
            with m.If(valid[i - 1]):
                m.d.sync += [h.eq(f) for h, f in zip(held, along[-1], strict=True)]
            along.append(held)

        # Stage 0: which tokens count.
        counts = [Signal(lanes, name=f"counts{i}") for i in range(1, 4)]
        token = Signal.like(self.v_token)
        m.d.comb += token.eq(word << drop)
        with m.If(valid[0]):
            for i in range(lanes):
                inside = ((token | i) >= self.first_token) & ((token | i) < self.length)
                m.d.sync += counts[0][i].eq(self.used & inside)
        for i in (1, 2):
            with m.If(valid[i]):
                m.d.sync += counts[i].eq(counts[i - 1])

        # Stage 1: distance from the maximum; it cannot be negative where a token counts.
        distance2 = [Signal(32, name=f"distance{i}") for i in range(lanes)]
        with m.If(valid[1]):
            m.d.sync += [
                d.eq(self.scores_max - self.scores[32 * i : 32 * i + 32].as_signed())
                for i, d in enumerate(distance2)
            ]

        # Stage 2: the table; and the V shifts, asked for one stage later.
        table = exp2_table()
        m.submodules.table = memory = Memory(shape=_P_BITS, depth=len(table), init=table)
        powers3 = []
        shift3 = [Signal(_SHIFT_BITS, name=f"shift{i}") for i in range(lanes)]
        for i, d in enumerate(distance2):
            port = memory.read_port()
            m.d.comb += [port.en.eq(valid[2]), port.addr.eq(d[:SCORE_FRAC])]
            powers3.append(port.data)
            top = d[SCORE_FRAC:]
            with m.If(valid[2]):
                m.d.sync += shift3[i].eq(
                    Mux(top[_SHIFT_BITS:].any(), EXP2_SHIFT_MAX, top[:_SHIFT_BITS])
                )
        m.d.comb += [
            self.v_read.eq(valid[3]),
            self.v_bank.eq(along[3][2]),
            self.v_token.eq(along[3][0] << drop),
            self.v_block.eq(along[3][4]),
        ]

        # Stage 3: p.
        p4 = [Signal(_P_BITS, name=f"p{i}") for i in range(lanes)]
        with m.If(valid[3]):
            m.d.sync += [
                p.eq(Mux(counts[2][i], round_shift(powers3[i], shift3[i]), 0))
                for i, p in enumerate(p4)
            ]

        # Stage 4: w, and the word's sum.
        w5 = Signal(_W_BITS * lanes)
        sum5 = Signal(_P_BITS + drop)
        with m.If(valid[4]):
            shifts = [self.v_shift[_SHIFT_BITS * i : _SHIFT_BITS * (i + 1)] for i in range(lanes)]
            m.d.sync += [
                w5.eq(Cat(*((p << s)[:_W_BITS] for p, s in zip(p4, shifts, strict=True)))),
                sum5.eq(sum_tree(p4)),
            ]

        # Stage 5: into the block, and into the denominator.
        pieces = [Signal(_W_BITS * lanes, name=f"piece{k}") for k in range(parts)]
        full = Signal()
        if parts == 1:
            m.d.comb += full.eq(1)
            with m.If(valid[5]):
                m.d.sync += pieces[0].eq(w5)
        else:
            place = along[5][0][: parts.bit_length() - 1]
            for k, piece in enumerate(pieces):
                with m.If(valid[5] & (place == k if k else ~place.any())):
                    m.d.sync += piece.eq(w5)
            m.d.comb += full.eq(along[6][0][: parts.bit_length() - 1] == parts - 1)
        m.d.sync += self.den_valid.eq(valid[5] & along[5][6])
        if self._chunks:
            total = Signal(DEN_BITS)
            # What earlier chunks have added up, per slot; one head at a time.
            m.submodules.sums = sums = addressed_memory(shape=DEN_BITS, depth=self._slot_groups)
            keep, kept = sums.write_port(), sums.read_port(domain="comb")
            m.d.comb += [
                kept.addr.eq(along[5][1]),
                keep.addr.eq(along[5][1]),
                keep.data.eq(total),
                keep.en.eq(valid[5] & along[5][9]),
            ]
            before = Mux(along[5][8], 0, kept.data)
            m.d.comb += total.eq(Mux(along[5][5], before, self.den) + sum5)
        else:
            total = Mux(along[5][5], 0, self.den) + sum5
        with m.If(valid[5]):
            m.d.sync += self.den.eq(total)
        m.d.comb += [self.den_slot.eq(along[6][1]), self.den_bank.eq(along[6][2])]

        # Stage 6: the quantiser.
        last = along[6]
        tag = Cat(last[7], last[3], last[1], last[0][parts.bit_length() - 1 :])
        quantiser = ProbQuantiser(tag_bits=len(tag))
        m.submodules.quantiser = instance(quantiser, en=self.en)
        m.d.comb += [
            quantiser.in_valid.eq(valid[6] & full),
            quantiser.in_values.eq(Cat(*pieces)),
            quantiser.in_tag.eq(tag),
            self.out_valid.eq(quantiser.out_valid),
            self.out_hi.eq(quantiser.out_hi),
            self.out_lo.eq(quantiser.out_lo),
            self.out_sx.eq(quantiser.out_s),
            self.out_last.eq(quantiser.out_valid & quantiser.out_tag[0]),
            self.out_bank.eq(quantiser.out_tag[1]),
            Cat(self.out_slot, self.out_block).eq(quantiser.out_tag[2:]),
        ]

        return m
