"""Forms passes: prompt chunks first, then one sampled token after the other."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib.wiring import In, Out

from tokenloom.hw.sampler.noise import SAMPLING
from tokenloom.hw.sequencer.registers import VOCAB_BITS
from tokenloom.hw.sequencer.tape_control import PASS_BITS
from tokenloom.hw.verilog.block import Block

__all__ = ["EOS_IDS", "PassControl"]

EOS_IDS = 4


class PassControl(Block):
    """The token loop: it closes on the chip, the host only gives the prompt.

    Parameters
    ----------
    rows : int
        R.
    columns : int
        C, a power of two: token v's embedding row lies in channel v mod C.
    vocab_bits, slot_bits, page_tokens, pages_max : int

    Members
    -------
    req_valid : In, req_ready : Out, req_tokens, req_new, req_slot, req_eos, req_eos_used : In
        A request: prompt length, most new tokens, slot, end-of-text ids and which of them count.
    req_sampling : In, the request's seed and temperature; sampling : Out, the same during it
    begins : Out(1), strobe, a request is taken; next_valid, next_token : Out, its tokens in order,
        the prompt's and those sampled, each before the pass that it is part of
    prompt_valid : In, prompt_ready : Out, prompt_token : In, the prompt
    out_valid, out_token, out_last : Out, sampled tokens, one cycle each
    failed : Out(1), strobe: no page was free, the context is full, the memory failed, an id is
        unknown, or `cancel`; the request ends
    broken : In(1), a channel failed for good; quiet : In(1), no channel has anything under way
    cancel : In(1), end the request as if a channel had failed, held until `req_ready`; the rest of
        its prompt is taken and dropped
    halt : Out(1), channels shall come to rest; wipe : Out(1), strobe after that: everything that
        the request left in belt and channels shall be reset; blame : Out(1), strobe with it: the
        request ends by that. Without: a channel failed while it read ahead for nobody, so it
        begins anew for the request that has come now
    begin_valid, begin_slot, begin_pos0, begin_rows : Out, begin_ready, kv_done, kv_full : In,
        release_valid, release_slot : Out, release_ready : In, lookup_index : Out, lookup_page : In
        to the KV manager
    fetch_valid : Out, fetch_ready : In, fetch_addr, fetch_channel : Out, embedding rows in order
    embedding_base, embedding_stride, vocab : In
    refused : Out(1), strobe: an id of the prompt is not below `vocab`. Nothing is read for it; the
        request ends as if a channel had failed. refused_ids : Out(32), how many since reset
    rows_used, pos, sample, page_first, page_last : Out, the pass's descriptor
    passes : Out, descriptors so far; active : Out(1), the belt may run; restart : Out(1)
    en : In(1), the belt's enable; over : In(1); chosen : In, with it, the sampler's choice
    """

    belt = False

    def __init__(
        self,
        *,
        rows: int,
        columns: int,
        vocab_bits: int,
        slot_bits: int,
        page_tokens: int,
        pages_max: int,
        positions: int,
    ) -> None:
        for name, value in (("columns", columns), ("page_tokens", page_tokens)):
            if value < 1 or value & (value - 1):
                raise ValueError(f"{name} is {value}; allowed: powers of two")
        self._r, self._c, self._page, self._positions = rows, columns, page_tokens, positions
        super().__init__(
            {
                "req_valid": In(1),
                "req_ready": Out(1),
                "req_tokens": In(20),
                "req_new": In(20),
                "req_slot": In(slot_bits),
                "req_eos": In(32 * EOS_IDS),
                "req_eos_used": In(EOS_IDS),
                "req_sampling": In(SAMPLING.size),
                "begins": Out(1),
                "next_valid": Out(1),
                "next_token": Out(vocab_bits),
                "prompt_valid": In(1),
                "prompt_ready": Out(1),
                "prompt_token": In(32),
                "out_valid": Out(1),
                "out_token": Out(vocab_bits),
                "out_last": Out(1),
                "failed": Out(1),
                "broken": In(1),
                "cancel": In(1),
                "quiet": In(1),
                "halt": Out(1),
                "wipe": Out(1),
                "blame": Out(1),
                "begin_valid": Out(1),
                "begin_ready": In(1),
                "begin_slot": Out(slot_bits),
                "begin_pos0": Out(range(positions + 1)),
                "begin_rows": Out(range(positions + 1)),
                "kv_done": In(1),
                "kv_full": In(1),
                "release_valid": Out(1),
                "release_ready": In(1),
                "release_slot": Out(slot_bits),
                "lookup_index": Out(max(1, (pages_max - 1).bit_length())),
                "lookup_use": Out(1),
                "lookup_page": In(16),
                "fetch_valid": Out(1),
                "fetch_ready": In(1),
                "fetch_addr": Out(32),
                "fetch_channel": Out(max(1, (columns - 1).bit_length())),
                "embedding_base": In(32),
                "embedding_stride": In(16),
                "vocab": In(VOCAB_BITS),
                "refused": Out(1),
                "refused_ids": Out(32),
                "rows_used": Out(6),
                "pos": Out(20),
                "sample": Out(1),
                "sampling": Out(SAMPLING.size),
                "page_first": Out(16),
                "page_last": Out(16),
                "passes": Out(PASS_BITS),
                "active": Out(1),
                "restart": Out(1),
                "en": In(1),
                "over": In(1),
                "chosen": In(vocab_bits),
            },
            params=(rows, columns, vocab_bits, slot_bits, page_tokens, pages_max, positions),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        vocab_bits = len(self.out_token)
        slot, eos, eos_used = Signal.like(self.req_slot), Signal(32 * EOS_IDS), Signal(EOS_IDS)
        prompt_left, new_left = Signal(20), Signal(20)
        decoding, token = Signal(), Signal(vocab_bits)
        rows = Signal(6)
        page_bits = self._page.bit_length() - 1
        column_bits = self._c.bit_length() - 1

        m.d.comb += [
            self.begin_slot.eq(slot),
            self.begin_pos0.eq(self.pos),
            self.begin_rows.eq(rows),
            self.release_slot.eq(slot),
            rows.eq(Mux(decoding, 1, Mux(prompt_left > self._r, self._r, prompt_left))),
        ]

        # Embedding rows of the pass, fetched while the belt already starts.
        to_fetch = Signal(6)
        fetched = Mux(decoding, token, self.prompt_token)
        free = ~self.fetch_valid | self.fetch_ready
        have = decoding | self.prompt_valid
        known, lost = Signal(), Signal()
        m.d.comb += [known.eq(fetched < self.vocab), self.next_token.eq(fetched)]
        with m.If(self.fetch_ready):
            m.d.sync += self.fetch_valid.eq(0)
        with m.If((to_fetch != 0) & free & have & ~self.halt & ~lost):
            m.d.comb += [
                self.prompt_ready.eq(~decoding),
                self.next_valid.eq(known),
                self.refused.eq(~known),
            ]
            m.d.sync += [
                self.fetch_valid.eq(known),
                lost.eq(~known),
                self.fetch_channel.eq(fetched[:column_bits] if column_bits else 0),
                self.fetch_addr.eq(
                    self.embedding_base + (fetched >> column_bits) * self.embedding_stride
                ),
                to_fetch.eq(to_fetch - 1),
            ]
        with m.If(self.refused):
            m.d.sync += self.refused_ids.eq(self.refused_ids + 1)
        ends_early = self.broken | self.cancel | lost

        ended = Cat(
            eos_used[i] & (eos.word_select(i, 32) == self.chosen) for i in range(EOS_IDS)
        ).any()
        with m.FSM():
            with m.State("idle"):
                m.d.comb += self.req_ready.eq(1)
                with m.If(self.req_valid):
                    m.d.comb += self.begins.eq(1)
                    m.d.sync += [
                        slot.eq(self.req_slot),
                        eos.eq(self.req_eos),
                        eos_used.eq(self.req_eos_used),
                        self.sampling.eq(self.req_sampling),
                        prompt_left.eq(self.req_tokens),
                        new_left.eq(self.req_new),
                        decoding.eq(0),
                        self.pos.eq(0),
                    ]
                    m.next = "begin"
                    with m.If(self.broken):
                        m.next = "quiet"
            with m.State("quiet"):
                # Nobody had asked for the words that did not come: this request does.
                m.d.comb += self.halt.eq(1)
                with m.If(self.quiet):
                    m.d.comb += self.wipe.eq(1)
                    m.next = "anew"
            with m.State("anew"):
                m.d.comb += self.halt.eq(1)
                m.d.sync += self.passes.eq(0)
                m.next = "begin"
            with m.State("begin"):
                m.d.comb += self.begin_valid.eq(1)
                with m.If(self.begin_ready):
                    m.next = "allocate"
            with m.State("allocate"):
                with m.If(self.kv_done):
                    with m.If(self.kv_full):
                        m.d.comb += self.failed.eq(1)
                        m.next = "flush"
                    with m.Else():
                        m.d.sync += [
                            self.rows_used.eq(rows),
                            self.sample.eq(decoding | (rows == prompt_left)),
                            to_fetch.eq(rows),
                        ]
                        m.next = "first"
            with m.State("first"):
                m.d.comb += [
                    self.lookup_use.eq(1),
                    self.lookup_index.eq(self.pos >> page_bits),
                ]
                m.next = "last"
            with m.State("last"):
                m.d.comb += [
                    self.lookup_use.eq(1),
                    self.lookup_index.eq((self.pos + self.rows_used - 1) >> page_bits),
                ]
                m.d.sync += self.page_first.eq(self.lookup_page)
                m.next = "latch"
            with m.State("latch"):
                m.d.sync += [self.page_last.eq(self.lookup_page), self.passes.eq(self.passes + 1)]
                m.next = "start"
            with m.State("start"):
                m.d.comb += [self.active.eq(1), self.restart.eq(1)]
                with m.If(self.en):
                    m.next = "run"
                with m.Elif(ends_early):
                    m.next = "halt"
            with m.State("run"):
                m.d.comb += self.active.eq(~self.over)
                with m.If(self.over):
                    m.next = "after"
                with m.Elif(ends_early):
                    m.next = "halt"
            with m.State("after"):
                m.d.sync += [self.pos.eq(self.pos + self.rows_used), token.eq(self.chosen)]
                with m.If(~decoding):
                    m.d.sync += prompt_left.eq(prompt_left - self.rows_used)
                m.next = "begin"
                with m.If(self.sample):
                    m.d.sync += [decoding.eq(1), new_left.eq(new_left - 1)]
                    m.d.comb += [
                        self.out_valid.eq(1),
                        self.out_token.eq(self.chosen),
                        self.out_last.eq(ended | (new_left == 1)),
                    ]
                    with m.If(self.out_last):
                        m.next = "release"
            with m.State("halt"):
                # What a channel that failed owes the pass will never come, nor the row of an
                # unknown id; what an aborted pass asked for comes first.
                m.d.comb += self.halt.eq(1)
                with m.If(self.quiet):
                    m.d.comb += [self.wipe.eq(1), self.blame.eq(1)]
                    m.next = "wipe"
            with m.State("wipe"):
                m.d.comb += [self.halt.eq(1), self.failed.eq(1)]
                m.d.sync += [self.passes.eq(0), to_fetch.eq(0), self.fetch_valid.eq(0), lost.eq(0)]
                with m.If(~decoding):
                    m.d.sync += prompt_left.eq(prompt_left - (self.rows_used - to_fetch))
                m.next = "flush"
            with m.State("flush"):
                # The rest of a prompt whose request failed.
                m.d.comb += self.prompt_ready.eq(prompt_left != 0)
                with m.If(decoding | (prompt_left == 0)):
                    m.next = "release"
                with m.Elif(self.prompt_valid):
                    m.d.sync += prompt_left.eq(prompt_left - 1)
            with m.State("release"):
                m.d.comb += self.release_valid.eq(1)
                with m.If(self.release_ready):
                    m.next = "released"
            with m.State("released"):
                with m.If(self.kv_done):
                    m.next = "idle"
        return m
