"""Reads embedding rows, whose addresses depend on the data, from one memory channel."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.memory.burst_maker import BurstMaker
from tokenloom.hw.numbers.codebook import add_codebook
from tokenloom.hw.numbers.words import ADDRESS_BITS, ceil_shift, check_port_bits, pick
from tokenloom.hw.verilog.block import Block

__all__ = ["RowReader"]


class RowReader(Block):
    """Fetches rows of blocks: scale words, for 4 bit minima words, code words.

    Parameters
    ----------
    port_bits : int
        Bits of a memory word, 256 or 512.
    width : int
        Most codes of a row, at least 32.
    buffer_words : int
        Depth of the word buffer, at least 16.

    Members
    -------
    req_valid, req_ready : In(1), Out(1)
        A request; four may wait. Requests without blocks are dropped.
    req_addr : In(32)
        Word address of the row.
    req_blocks : In
        Blocks of 32 codes, at most ``ceil(width / 32)``.
    req_four : In(1)
        The row has 4-bit codes and minima.
    cfg_we, cfg_addr, cfg_data : In(1), In(4), In(8)
        Writes the codebook of 4-bit codes.
    ar_valid, ar_ready, ar_addr, ar_len, r_valid, r_ready, r_data
        Memory port as in `TapeReader`.
    valid, take : Out(1), In(1)
        A block is there; it leaves when both are high.
    codes : Out(256)
        32 int8 codes.
    scale, minimum : Out(16)
        Rebased fp16; `minimum` is 0 for 8 bits.

    Latency
    -------
    Four cycles from a request to its first burst; a block per cycle once its words are there.

    Raises
    ------
    ValueError
        When a parameter is out of range.
    """

    belt = False

    def __init__(self, *, port_bits: int, width: int, buffer_words: int = 32) -> None:
        check_port_bits(port_bits)
        if width < 32:
            raise ValueError(f"width has to be at least 32, not {width!r}")
        if buffer_words < 16:
            raise ValueError(f"buffer_words has to be at least 16, not {buffer_words!r}")
        self._port_bits = port_bits
        self._blocks = blocks = -(-width // 32)
        self._buffer_words = buffer_words
        super().__init__(
            {
                "req_valid": In(1),
                "req_ready": Out(1),
                "req_addr": In(ADDRESS_BITS),
                "req_blocks": In(range(blocks + 1)),
                "req_four": In(1),
                "cfg_we": In(1),
                "cfg_addr": In(4),
                "cfg_data": In(8),
                "ar_valid": Out(1),
                "ar_ready": In(1),
                "ar_addr": Out(ADDRESS_BITS + (port_bits // 8).bit_length() - 1),
                "ar_len": Out(4),
                "r_valid": In(1),
                "r_ready": Out(1),
                "r_data": In(port_bits),
                "valid": Out(1),
                "take": In(1),
                "codes": Out(256),
                "scale": Out(16),
                "minimum": Out(16),
            },
            params=(port_bits, width, buffer_words),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        port = self._port_bits
        group_shift = (port // 16).bit_length() - 1
        head_words = max(2, 1 << ((-(-self._blocks // (port // 16))) - 1).bit_length())
        head_bits = head_words.bit_length() - 1
        count_bits = len(self.req_blocks)

        # Requests, each for the bursts and for the unpacker.
        m.submodules.requests = requests = SyncFIFO(width=1 + count_bits + ADDRESS_BITS, depth=4)
        m.submodules.rows = rows = SyncFIFO(width=1 + count_bits, depth=4)
        m.submodules.words = words = SyncFIFOBuffered(width=port, depth=self._buffer_words)
        m.submodules.bursts = bursts = BurstMaker(
            port_bits=port, buffer_words=self._buffer_words, words_bits=count_bits + 3
        )
        m.d.comb += [
            self.req_ready.eq(requests.w_rdy),
            requests.w_en.eq(self.req_valid & self.req_blocks.any()),
            requests.w_data.eq(Cat(self.req_four, self.req_blocks, self.req_addr)),
            self.ar_valid.eq(bursts.ar_valid),
            bursts.ar_ready.eq(self.ar_ready),
            self.ar_addr.eq(bursts.ar_addr),
            self.ar_len.eq(bursts.ar_len),
            self.r_ready.eq(1),
            words.w_en.eq(self.r_valid),
            words.w_data.eq(self.r_data),
            bursts.freed.eq(words.r_rdy & words.r_en),
        ]
        asked_four, asked = requests.r_data[0], requests.r_data[1 : 1 + count_bits]
        asked_heads = ceil_shift(asked, group_shift)
        code_shift = port // 512
        m.d.comb += [
            bursts.seg_addr.eq(requests.r_data[1 + count_bits :]),
            bursts.seg_words.eq(
                Mux(
                    asked_four,
                    (asked_heads << 1) + ceil_shift(asked, code_shift + 1),
                    asked_heads + ceil_shift(asked, code_shift),
                )
            ),
            bursts.seg_valid.eq(requests.r_rdy & rows.w_rdy),
            requests.r_en.eq(bursts.seg_ready & rows.w_rdy),
            rows.w_en.eq(requests.r_rdy & bursts.seg_ready),
            rows.w_data.eq(requests.r_data[: 1 + count_bits]),
        ]

        # Header words: scales in the lower half of the memory, minima in the upper half.
        m.submodules.headers = headers = Memory(shape=port, depth=2 * head_words, init=[])
        write = headers.write_port()
        scales, minima = headers.read_port(domain="comb"), headers.read_port(domain="comb")
        busy, four, minimum_part, in_codes = Signal(), Signal(), Signal(), Signal()
        heads, head = Signal(head_bits + 1), Signal(head_bits + 1)
        left = Signal(count_bits)
        block = Signal(head_bits + group_shift)
        chunk = Signal(2)
        head_pop, code_go, last_chunk = Signal(), Signal(), Signal()
        m.d.comb += [
            head_pop.eq(busy & ~in_codes & words.r_rdy),
            write.en.eq(head_pop),
            write.addr.eq(Cat(head[:head_bits], minimum_part)),
            write.data.eq(words.r_data),
        ]
        with m.If(head_pop):
            m.d.sync += head.eq(head + 1)
            with m.If(head + 1 == heads):
                m.d.sync += [
                    head.eq(0),
                    minimum_part.eq(1),
                    in_codes.eq(~four | minimum_part),
                ]

        # Blocks.
        last4, last8 = port // 128 - 1, port // 256 - 1
        index = block[:group_shift]
        m.d.comb += [
            code_go.eq(in_codes & words.r_rdy & (~self.valid | self.take)),
            last_chunk.eq((chunk == Mux(four, last4, last8)) | (left == 1)),
            words.r_en.eq(head_pop | (code_go & last_chunk)),
            scales.addr.eq(Cat(block[group_shift:], Const(0, 1))),
            minima.addr.eq(Cat(block[group_shift:], Const(1, 1))),
        ]
        looked_up = add_codebook(
            m,
            we=self.cfg_we,
            addr=self.cfg_addr,
            data=self.cfg_data,
            codes=pick(m, words.r_data, chunk, 128, last4 + 1),
        )
        raw = pick(m, words.r_data, chunk, 256, last8 + 1)
        scale = pick(m, scales.data, index, 16, port // 16)
        minimum = pick(m, minima.data, index, 16, port // 16)
        with m.If(self.take):
            m.d.sync += self.valid.eq(0)
        with m.If(code_go):
            m.d.sync += [
                self.valid.eq(1),
                self.codes.eq(Mux(four, looked_up, raw)),
                self.scale.eq(scale),
                self.minimum.eq(Mux(four, minimum, 0)),
                block.eq(block + 1),
                left.eq(left - 1),
                chunk.eq(Mux(last_chunk, 0, chunk + 1)),
            ]
            with m.If(left == 1):
                m.d.sync += [busy.eq(0), in_codes.eq(0)]

        # The next row.
        with m.If(~busy & rows.r_rdy):
            m.d.comb += rows.r_en.eq(1)
            m.d.sync += [
                busy.eq(1),
                four.eq(rows.r_data[0]),
                left.eq(rows.r_data[1:]),
                heads.eq(ceil_shift(rows.r_data[1:], group_shift)),
                minimum_part.eq(0),
                block.eq(0),
            ]
        return m
