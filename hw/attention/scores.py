"""Scores: one attention lane's drained scores and their running maxima."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.arith import round_shift, sat32
from tokenloom.hw.numbers.formats import TOKENS_MAX
from tokenloom.hw.verilog.block import Block

__all__ = ["Scores"]

_LOWEST = -(1 << 31)


class Scores(Block):
    """One lane's score buffer: drain, store, and the maximum over the causal tokens.

    Each accumulator becomes `sat32(rs(acc, shift))`. Two banks, so that one kv head's scores are
    written while the softmax reads the other's. Of a context in chunks the scores of one chunk are
    held, its tokens counted from its first one, and the maximum goes on from chunk to chunk.

    Parameters
    ----------
    drain : int
        W, accumulators per cycle: a power of two up to 32.
    slot_groups : int
        Slots of the lane (1 or more).
    tokens_max : int
        Tokens per slot: a multiple of 32 up to `TOKENS_MAX`.
    acc_bits : int
        Width of an accumulator, 40 to 64.

    Members
    -------
    in_valid : In(1)
        The other `in_` ports hold a word of W consecutive tokens.
    in_used : In(1)
        The slot has a query; without it the word is dropped.
    in_accs : In(acc_bits * W)
        Signed accumulators; token `in_token` + i at bits acc_bits * i.
    in_shift : In(6)
        The operation's drain shift.
    in_bank : In(1), in_slot : In
        Where the word belongs.
    in_token : In
        First token of the word, a multiple of W.
    in_length : In
        The slot's causal length: tokens from there on do not count for the maximum.
    in_begin : In
        First token of the slot's window: those before it do not count, either.
    in_start : In(1)
        The slot's first word, of the first chunk if there are several: its maximum restarts.
    saturated : Out(1)
        A counting token of a word saturated; `SATURATED_LATENCY` cycles after the word.
    read : In(1), read_bank : In(1), read_slot : In, read_word : In
        Ask for word `read_word` (tokens from `read_word` * W on) of a slot, and for its maximum.
    read_scores : Out(32 * W)
        Signed scores, one cycle after `read`; kept until the next.
    read_max : Out(signed(32))
        The slot's maximum, at the same time.

    Latency
    -------
    `WRITE_LATENCY` = 4: a `read` that many cycles after a word sees it, and its maximum.
    `READ_LATENCY` = 1.

    Duration
    --------
    A word and a read per cycle.

    Raises
    ------
    ValueError
        When a parameter is outside its range.
    """

    WRITE_LATENCY = 4
    READ_LATENCY = 1
    SATURATED_LATENCY = 2

    def __init__(
        self, *, drain: int, slot_groups: int, tokens_max: int, acc_bits: int = 64
    ) -> None:
        if drain not in (1, 2, 4, 8, 16, 32):
            raise ValueError(f"drain = {drain} is impossible: allowed is a power of two up to 32")
        if slot_groups < 1:
            raise ValueError(f"slot_groups = {slot_groups} is impossible: allowed is 1 or more")
        if tokens_max % 32 or not 32 <= tokens_max <= TOKENS_MAX:
            raise ValueError(
                f"tokens_max = {tokens_max}: allowed is a multiple of 32 up to {TOKENS_MAX}"
            )
        if not 40 <= acc_bits <= 64:
            raise ValueError(f"acc_bits = {acc_bits} is impossible: allowed is 40 to 64")
        self._drain, self._slot_groups = drain, slot_groups
        self._tokens_max, self._acc_bits = tokens_max, acc_bits
        words = tokens_max // drain
        slot_bits = max(1, (slot_groups - 1).bit_length())
        super().__init__(
            {
                "in_valid": In(1),
                "in_used": In(1),
                "in_accs": In(acc_bits * drain),
                "in_shift": In(6),
                "in_bank": In(1),
                "in_slot": In(slot_bits),
                "in_token": In((tokens_max - 1).bit_length()),
                "in_length": In(tokens_max.bit_length()),
                "in_begin": In(tokens_max.bit_length()),
                "in_start": In(1),
                "saturated": Out(1),
                "read": In(1),
                "read_bank": In(1),
                "read_slot": In(slot_bits),
                "read_word": In(max(1, (words - 1).bit_length())),
                "read_scores": Out(32 * drain),
                "read_max": Out(signed(32)),
            },
            params=(drain, slot_groups, tokens_max, acc_bits),
        )

    def elaborate(self, platform: object) -> Module:
        """Shift, saturate, store and compare, keep the maximum."""
        m = Module()
        lanes, bits = self._drain, self._acc_bits
        words = self._tokens_max // lanes
        slots = 2 * self._slot_groups
        word_bits = len(self.read_word)
        drop = lanes.bit_length() - 1

        m.submodules.store = scores = Memory(shape=32 * lanes, depth=slots * words, init=[])
        m.submodules.maxima = maxima = Memory(shape=signed(32), depth=slots, init=[])
        store, fetch = scores.write_port(), scores.read_port()
        keep = maxima.write_port()
        before = maxima.read_port(domain="comb")
        asked = maxima.read_port(domain="comb")

        def row(bank: Signal, slot: Signal) -> Signal:
            index = Signal(range(slots), name="row")
            m.d.comb += index.eq(Mux(bank, slot + self._slot_groups, slot))
            return index

        def address(index: Signal, word: Signal) -> Signal:
            if words & (words - 1) == 0:
                return Cat(word[: words.bit_length() - 1], index)
            return index * words + word

        # Stage 1: shift and round.
        rounded1 = [Signal(signed(bits), name=f"rounded{i}") for i in range(lanes)]
        counts1 = Signal(lanes)
        valid1, start1 = Signal(), Signal()
        row1, word1 = Signal(range(slots)), Signal(word_bits)
        take = Signal()
        m.d.comb += take.eq(self.in_valid & self.in_used)
        m.d.sync += valid1.eq(take)
        row0 = row(self.in_bank, self.in_slot)
        with m.If(take):
            for i in range(lanes):
                acc = self.in_accs[bits * i : bits * (i + 1)].as_signed()
                m.d.sync += rounded1[i].eq(round_shift(acc, self.in_shift))
                token = self.in_token if lanes == 1 else self.in_token | i
                m.d.sync += counts1[i].eq((token >= self.in_begin) & (token < self.in_length))
            m.d.sync += [
                start1.eq(self.in_start),
                row1.eq(row0),
                word1.eq(self.in_token[drop:]),
            ]

        # Stage 2: saturate.
        scores2 = [Signal(signed(32), name=f"score{i}") for i in range(lanes)]
        counts2 = Signal(lanes)
        valid2, start2 = Signal(), Signal()
        row2, word2 = Signal(range(slots)), Signal(word_bits)
        clamped = [sat32(value) for value in rounded1]
        m.d.sync += [
            valid2.eq(valid1),
            self.saturated.eq(valid1 & (Cat(*(flag for _, flag in clamped)) & counts1).any()),
        ]
        with m.If(valid1):
            m.d.sync += [s.eq(value) for s, (value, _) in zip(scores2, clamped, strict=True)]
            m.d.sync += [
                counts2.eq(counts1),
                start2.eq(start1),
                row2.eq(row1),
                word2.eq(word1),
            ]

        # Stage 3: store, and the word's maximum.
        m.d.comb += [
            store.en.eq(valid2),
            store.addr.eq(address(row2, word2)),
            store.data.eq(Cat(*scores2)),
        ]
        best = [Mux(counts2[i], s, Const(_LOWEST, signed(32))) for i, s in enumerate(scores2)]
        while len(best) > 1:
            best = [Mux(a > b, a, b) for a, b in zip(best[::2], best[1::2], strict=True)]
        valid3, start3 = Signal(), Signal()
        row3, max3 = Signal(range(slots)), Signal(signed(32))
        m.d.sync += valid3.eq(valid2)
        with m.If(valid2):
            m.d.sync += [start3.eq(start2), row3.eq(row2), max3.eq(best[0])]

        # Stage 4: the slot's maximum.
        m.d.comb += [
            before.addr.eq(row3),
            keep.en.eq(valid3 & (start3 | (max3 > before.data))),
            keep.addr.eq(row3),
            keep.data.eq(max3),
        ]

        # Reading.
        wanted = row(self.read_bank, self.read_slot)
        m.d.comb += [
            fetch.en.eq(self.read),
            fetch.addr.eq(address(wanted, self.read_word)),
            self.read_scores.eq(fetch.data),
            asked.addr.eq(wanted),
        ]
        with m.If(self.read):
            m.d.sync += self.read_max.eq(asked.data)

        return m
