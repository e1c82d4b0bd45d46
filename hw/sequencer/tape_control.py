"""Tells every channel's tape reader what to fetch next, pass after pass."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.memory.tape_format import TapeKind
from tokenloom.hw.numbers.words import ceil_shift, ceil_to
from tokenloom.hw.sequencer.isa import CHUNK, TAPE_OP, chunk_runs, chunk_tokens
from tokenloom.hw.verilog.block import Block

__all__ = ["PASS_BITS", "TapeControl"]

PASS_BITS = 8


class TapeControl(Block):
    """Plays the tape program: weights freely, KV detours once their pass and data are known.

    All channels get the same commands, because their contents are laid out alike. The program
    starts anew after its end, so the next pass's first weights are fetched before that pass is
    known; whatever depends on it (lengths, pages, whether it samples) waits for its descriptor.

    Parameters
    ----------
    depth : int
        Instructions that fit.
    columns, page_tokens, dim_blocks : int
        C, tokens per page, most blocks of 32 dims per head.
    pages_max : int
        Pages per slot.
    lookup_latency : int
        Cycles from `lookup_page` to `lookup_phys`.
    beat_blocks : int
        Blocks per beat: commands for V have a multiple of them.
    chunk_tokens : int
        Tokens per chunk, a power of two of whole pages; 0 where a context is one.

    Members
    -------
    cfg_we, cfg_addr, cfg_data : In, program memory
    kv_base, page_stride, k_offset, v_offset, v_dim_words : In, in words; dim_blocks_used : In
    passes : In, descriptors latched so far (modulo 2^PASS_BITS)
    length : In, tokens of the sequence after this pass; first : In, the first one that windowed
        operations see, a page's first; sample : In; layers_written : In, layers of
        the latched pass whose K and V are all acknowledged
    lookup_page : Out; lookup_phys : In
    cmd_valid : Out, cmd_ready : In, cmd_kind, cmd_addr, cmd_addr2, cmd_blocks : Out
    run : In(1), the program is loaded and may be played
    """

    belt = False

    def __init__(
        self,
        *,
        depth: int,
        columns: int,
        page_tokens: int,
        dim_blocks: int,
        pages_max: int,
        lookup_latency: int,
        beat_blocks: int = 1,
        chunk_tokens: int = 0,
    ) -> None:
        self._chunk = chunk_tokens
        self._depth, self._c, self._page = depth, columns, page_tokens
        self._lookup, self._beat_blocks = lookup_latency, beat_blocks
        super().__init__(
            {
                "cfg_we": In(1),
                "cfg_addr": In(range(depth)),
                "cfg_data": In(TAPE_OP.size),
                "run": In(1),
                "kv_base": In(32),
                "page_stride": In(24),
                "k_offset": In(16),
                "v_offset": In(16),
                "v_dim_words": In(8),
                "dim_blocks_used": In(range(dim_blocks + 1)),
                "passes": In(PASS_BITS),
                "length": In(20),
                "first": In(20),
                "sample": In(1),
                "layers_written": In(8),
                "lookup_page": Out(max(1, (pages_max - 1).bit_length())),
                "lookup_phys": In(16),
                "cmd_valid": Out(1),
                "cmd_ready": In(1),
                "cmd_kind": Out(2),
                "cmd_addr": Out(32),
                "cmd_addr2": Out(32),
                "cmd_blocks": Out(24),
            },
            params=(
                depth, columns, page_tokens, dim_blocks, pages_max, lookup_latency, beat_blocks,
                chunk_tokens,
            ),
        )  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.program = memory = Memory(shape=TAPE_OP.size, depth=self._depth, init=[])
        write, read = memory.write_port(), memory.read_port()
        pc = Signal(range(self._depth))
        m.d.comb += [
            write.en.eq(self.cfg_we),
            write.addr.eq(self.cfg_addr),
            write.data.eq(self.cfg_data),
            read.addr.eq(pc),
            read.en.eq(1),
        ]
        op = data.View(TAPE_OP, read.data)
        playing, known = Signal(PASS_BITS), Signal()
        m.d.comb += known.eq(playing != self.passes)
        page, tile, left = Signal(16), Signal(8), Signal(20)
        wait = Signal(range(self._lookup + 2))
        here = Signal(20)
        page_bits = self._page.bit_length() - 1 if self._page & (self._page - 1) == 0 else None
        if page_bits is None:
            raise ValueError(f"page_tokens is {self._page}; allowed: powers of two")
        column_bits = self._c.bit_length() - 1
        m.d.comb += [
            self.lookup_page.eq(page),
            here.eq(Mux(left > self._page, self._page, left)),
        ]
        last_page = left <= self._page
        base = Signal(32)
        first = Signal(20)
        m.d.comb += first.eq(Mux(op.windowed, self.first, 0))
        # A detour's first page and its tokens; and whether this pass makes it.
        start, tokens_left = first >> page_bits, self.length - first
        if self._chunk:
            chunk_bits = self._chunk.bit_length() - 1
            chunk = data.View(CHUNK, op.blocks[: CHUNK.size])
            last = (tokens_left - 1)[chunk_bits:20]
            runs = chunk_runs(chunk.number, chunk.when, last)
            start = (first >> page_bits) + (chunk.number << chunk_bits - page_bits)
            tokens_left = chunk_tokens(tokens_left, chunk.number, self._chunk)

        with m.If(self.cmd_valid & self.cmd_ready):
            m.d.sync += self.cmd_valid.eq(0)
        free = ~self.cmd_valid | self.cmd_ready

        with m.FSM():
            with m.State("fetch"):
                with m.If(self.run):
                    m.next = "decode"
            with m.State("decode"):
                skip = op.sample_only & ~self.sample
                with m.If(op.stop | skip):
                    # The pass's tape ends here; its descriptor must have been seen.
                    with m.If(known):
                        m.d.sync += [pc.eq(0), playing.eq(playing + 1)]
                        m.next = "fetch"
                with m.Elif(op.sample_only & ~known):
                    pass
                with m.Elif(~op.kind[1]):
                    with m.If(free):
                        m.d.sync += [
                            self.cmd_valid.eq(1),
                            self.cmd_kind.eq(op.kind),
                            self.cmd_addr.eq(op.addr),
                            self.cmd_blocks.eq(op.blocks),
                            pc.eq(pc + 1),
                        ]
                        m.next = "fetch"
                with m.Elif(known & (self.layers_written > op.layer)):
                    m.d.sync += [
                        page.eq(start),
                        tile.eq(0),
                        left.eq(tokens_left),
                        wait.eq(0),
                    ]
                    m.next = "lookup"
                    if self._chunk:
                        with m.If(~runs):
                            m.d.sync += pc.eq(pc + 1)
                            m.next = "fetch"
            with m.State("lookup"):
                m.d.sync += wait.eq(wait + 1)
                with m.If(wait == self._lookup):
                    m.d.sync += base.eq(
                        self.kv_base + op.addr + self.lookup_phys * self.page_stride
                    )
                    m.next = "send"
            with m.State("send"):
                with m.If(free):
                    tokens = (here + (self._c - 1)) >> column_bits
                    m.d.sync += [self.cmd_valid.eq(1), self.cmd_kind.eq(op.kind), wait.eq(0)]
                    with m.If(op.kind == TapeKind.K):
                        m.d.sync += [
                            self.cmd_addr.eq(base),
                            self.cmd_addr2.eq(base + self.k_offset),
                            self.cmd_blocks.eq(tokens * self.dim_blocks_used),
                        ]
                    with m.Else():
                        m.d.sync += [
                            self.cmd_addr.eq(base + self.v_offset + tile * self.v_dim_words),
                            self.cmd_blocks.eq(ceil_to(ceil_shift(here, 5), self._beat_blocks)),
                        ]
                    m.d.sync += [page.eq(page + 1), left.eq(left - self._page)]
                    m.next = "lookup"
                    with m.If(last_page):
                        m.d.sync += [
                            page.eq(start),
                            left.eq(tokens_left),
                            tile.eq(tile + 1),
                        ]
                        with m.If((op.kind == TapeKind.K) | (tile + 1 == op.tiles)):
                            m.d.sync += pc.eq(pc + 1)
                            m.next = "fetch"
        return m
