"""Reads one memory channel's tape and hands it to the array beat by beat."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.memory.burst_maker import BurstMaker
from tokenloom.hw.memory.tape_format import BLOCKS_BITS, TapeFormat, TapeKind
from tokenloom.hw.memory.tape_unpack import add_unpacker
from tokenloom.hw.numbers.words import ADDRESS_BITS, check_port_bits
from tokenloom.hw.verilog.block import Block

__all__ = ["TapeReader"]


class TapeReader(Block):
    """Fetches what its commands name, unpacks it and offers it as beats of `lanes` codes.

    Parameters
    ----------
    port_bits : int
        Bits of a memory word P, 256 or 512.
    lanes : int
        Codes per beat K, 32, 64 or 128, at most P / 4; BPB = K / 32 blocks.
    buffer_words : int
        Depth of the word buffer, at least 16: bandwidth times latency of the memory.
    dim_blocks_max : int
        Most blocks of one token and head in a K command.
    header_words : int
        Words of scales, minima or exponents kept, a power of two from 4. A K command has at most
        as many exponent words, ``ceil(2 blocks / (P / 8))``.
    beat_words : int
        Beats kept, at least 4.

    Members
    -------
    cmd_valid, cmd_ready : In(1), Out(1)
        A command; a queue of four keeps them. Commands without blocks are dropped.
    cmd_kind : In(2)
        A `TapeKind`.
    cmd_addr : In(32)
        Word address; for K that of the exponent words.
    cmd_addr2 : In(32)
        Word address of the codes, for K only.
    cmd_blocks : In(24)
        Blocks of 32 codes, a multiple of BPB; for K tokens times `cmd_dim_blocks`.
    cmd_dim_blocks : In
        Blocks per token, a multiple of BPB, for K only.
    cfg_we, cfg_addr, cfg_data : In(1), In(4), In(8)
        Writes the codebook of 4-bit codes.
    ar_valid, ar_ready, ar_addr, ar_len
        Byte address and words - 1 of a read burst; bursts never cross 4 KiB.
    r_valid, r_ready, r_data
        The words, in the order of the requests; `r_ready` is always high.
    beat_valid, beat_take : Out(1), In(1)
        A beat is there; it leaves when both are high.
    beat_count : Out
        Beats there.
    codes : Out(8K)
        int8 codes.
    scale, minimum : Out(16 BPB)
        Rebased fp16 per block; `minimum` is 0 but for Q4.
    v_shift : Out(5 BPB)
        For K beats the shifts of V of the same token and block, else 0.
    pow2 : Out(1)
        K or V beat: `scale` is no fp16; its low five bits are the block's shift (0 for V).
    idle : Out(1)
        No command and no beat left.

    Latency
    -------
    A word reaches `beat_valid` in five cycles. A beat per cycle where the memory gives a word per
    cycle and a beat needs at most 32/17 of the words' codes (Q4 always, Q8 with K = 32, P = 512);
    Q8 with 8K = P: 16 beats in 17 cycles; with 8K = 2P: 8 in 17; Q4 with 4K = P: 8 in 10.

    Raises
    ------
    ValueError
        When a parameter is out of range.
    """

    belt = False

    def __init__(
        self,
        *,
        port_bits: int,
        lanes: int,
        buffer_words: int,
        dim_blocks_max: int,
        header_words: int = 8,
        beat_words: int = 8,
        module_name: str | None = None,
    ) -> None:
        check_port_bits(port_bits)
        if lanes not in (32, 64, 128) or 4 * lanes > port_bits:
            raise ValueError(
                f"lanes has to be 32, 64 or 128, at most port_bits / 4 = {port_bits // 4}, "
                f"not {lanes!r}"
            )
        if buffer_words < 16:
            raise ValueError(f"buffer_words has to be at least 16, not {buffer_words!r}")
        if dim_blocks_max < lanes // 32 or dim_blocks_max % (lanes // 32):
            raise ValueError(
                f"dim_blocks_max has to be a positive multiple of {lanes // 32}, "
                f"not {dim_blocks_max!r}"
            )
        if header_words < 4 or header_words & (header_words - 1):
            raise ValueError(f"header_words has to be a power of two from 4, not {header_words!r}")
        if beat_words < 4:
            raise ValueError(f"beat_words has to be at least 4, not {beat_words!r}")
        self._port_bits = port_bits
        self._tape = TapeFormat(port_bits=port_bits, lanes=lanes, dim_blocks_max=dim_blocks_max)
        bpb = self._tape.beat_blocks
        self._buffer_words = buffer_words
        self._header_words = header_words
        self._beat_words = beat_words
        if module_name is not None:
            self.module_name = module_name
        byte_shift = (port_bits // 8).bit_length() - 1
        super().__init__(
            {
                "cmd_valid": In(1),
                "cmd_ready": Out(1),
                "cmd_kind": In(2),
                "cmd_addr": In(ADDRESS_BITS),
                "cmd_addr2": In(ADDRESS_BITS),
                "cmd_blocks": In(BLOCKS_BITS),
                "cmd_dim_blocks": In(range(dim_blocks_max + 1)),
                "cfg_we": In(1),
                "cfg_addr": In(4),
                "cfg_data": In(8),
                "ar_valid": Out(1),
                "ar_ready": In(1),
                "ar_addr": Out(ADDRESS_BITS + byte_shift),
                "ar_len": Out(4),
                "r_valid": In(1),
                "r_ready": Out(1),
                "r_data": In(port_bits),
                "beat_valid": Out(1),
                "beat_take": In(1),
                "beat_count": Out(range(beat_words + 1)),
                "codes": Out(8 * lanes),
                "scale": Out(16 * bpb),
                "minimum": Out(16 * bpb),
                "v_shift": Out(5 * bpb),
                "pow2": Out(1),
                "idle": Out(1),
            },
            params=(port_bits, lanes, buffer_words, dim_blocks_max, header_words, beat_words),
        )

    @property
    def beat_words(self) -> int:
        """Beats kept."""
        return self._beat_words

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.words = words = SyncFIFOBuffered(
            width=self._port_bits, depth=self._buffer_words
        )
        m.submodules.code_words = code_words = SyncFIFO(width=self._port_bits, depth=4)
        m.submodules.headers = headers = Memory(
            shape=self._port_bits, depth=self._header_words, init=[]
        )
        width = self._tape.command_bits
        m.submodules.splits = splits = SyncFIFO(width=width, depth=4)
        m.submodules.unpacks = unpacks = SyncFIFO(width=width, depth=4)
        # The header ring: written by the splitter, freed by the unpacker (one more bit: full).
        ring_bits = (self._header_words - 1).bit_length()
        written = Signal(ring_bits + 1)
        base = Signal(ring_bits + 1)

        requesting = self._request(m, words, splits)
        splitting = self._split(m, words, splits, unpacks, code_words, headers, written, base)
        unpacking = add_unpacker(
            m,
            self._tape,
            self,
            header_words=self._header_words,
            beat_words=self._beat_words,
            commands=unpacks,
            code_words=code_words,
            headers=headers,
            base=base,
        )
        m.d.comb += self.idle.eq(
            ~(requesting | splitting | unpacking | splits.r_rdy | unpacks.r_rdy)
        )
        return m

    def _request(self, m: Module, words: Any, splits: Any) -> Value:
        """Commands -> segments -> bursts; returns whether there is work left."""
        fields = [
            (self.cmd_kind, 2),
            (self.cmd_blocks, BLOCKS_BITS),
            (self.cmd_dim_blocks, len(self.cmd_dim_blocks)),
            (self.cmd_addr, ADDRESS_BITS),
            (self.cmd_addr2, ADDRESS_BITS),
        ]
        m.submodules.commands = commands = SyncFIFO(width=sum(w for _, w in fields), depth=4)
        m.d.comb += [
            self.cmd_ready.eq(commands.w_rdy),
            commands.w_en.eq(self.cmd_valid & self.cmd_blocks.any()),
            commands.w_data.eq(Cat(*(f for f, _ in fields))),
        ]

        bits = BLOCKS_BITS + 2
        m.submodules.bursts = bursts = BurstMaker(
            port_bits=self._port_bits, buffer_words=self._buffer_words, words_bits=bits
        )
        m.d.comb += [
            self.ar_valid.eq(bursts.ar_valid),
            bursts.ar_ready.eq(self.ar_ready),
            self.ar_addr.eq(bursts.ar_addr),
            self.ar_len.eq(bursts.ar_len),
            # A burst is requested only when there is room, so words always find some.
            self.r_ready.eq(1),
            words.w_en.eq(self.r_valid),
            words.w_data.eq(self.r_data),
            bursts.freed.eq(words.r_rdy & words.r_en),
        ]

        # One command at a time as one segment, or as two when there are exponents.
        planned, second = Signal(), Signal()
        next_addr = Signal(ADDRESS_BITS)
        next_words = Signal(bits)
        seg_addr, seg_words = Signal(ADDRESS_BITS), Signal(bits)
        short = len(splits.w_data)
        kind, blocks, _ = self._tape.fields(commands.r_data[:short])
        groups = self._tape.exponent_words(blocks)
        total = self._tape.code_words(kind, blocks) + Mux(
            kind == TapeKind.Q4, groups << 1, Mux(kind.any(), 0, groups)
        )
        m.d.comb += [
            bursts.seg_valid.eq(planned),
            bursts.seg_addr.eq(seg_addr),
            bursts.seg_words.eq(seg_words),
            splits.w_data.eq(commands.r_data[:short]),
        ]
        with m.If(planned & bursts.seg_ready):
            m.d.sync += [
                planned.eq(second),
                second.eq(0),
                seg_addr.eq(next_addr),
                seg_words.eq(next_words),
            ]
        with m.If(~planned & commands.r_rdy & splits.w_rdy):
            m.d.comb += [commands.r_en.eq(1), splits.w_en.eq(1)]
            m.d.sync += [
                planned.eq(1),
                second.eq(kind == TapeKind.K),
                seg_addr.eq(commands.r_data[short : short + ADDRESS_BITS]),
                seg_words.eq(Mux(kind == TapeKind.K, self._tape.exponent_words(blocks), total)),
                next_addr.eq(commands.r_data[short + ADDRESS_BITS :]),
                next_words.eq(total),
            ]
        return commands.r_rdy | planned | bursts.busy

    def _split(
        self,
        m: Module,
        words: Any,
        splits: Any,
        unpacks: Any,
        code_words: Any,
        headers: Memory,
        written: Signal,
        base: Signal,
    ) -> Value:
        """Sends each word to the header ring or to the codes; returns whether it has a command."""
        valid = Signal()
        four, grouped = Signal(), Signal()
        heads = Signal(range(self._header_words + 1))
        codes = Signal(BLOCKS_BITS)
        run = Signal(range(17))

        write = headers.write_port()
        is_head, pop, done = Signal(), Signal(), Signal()
        room = (written - base)[: len(written)] != self._header_words
        m.d.comb += [
            is_head.eq(heads.any()),
            pop.eq(valid & words.r_rdy & Mux(is_head, room, code_words.w_rdy)),
            done.eq(pop & ~is_head & (codes == 1)),
            words.r_en.eq(pop),
            write.en.eq(pop & is_head),
            write.addr.eq(written[:-1]),
            write.data.eq(words.r_data),
            code_words.w_en.eq(pop & ~is_head),
            code_words.w_data.eq(words.r_data),
        ]
        with m.If(pop):
            with m.If(is_head):
                m.d.sync += [heads.eq(heads - 1), written.eq(written + 1)]
            with m.Else():
                m.d.sync += [codes.eq(codes - 1), run.eq(run - 1)]
                with m.If(grouped & (run == 1)):
                    m.d.sync += [heads.eq(Mux(four, 2, 1)), run.eq(Mux(four, 8, 16))]

        kind, blocks, _ = self._tape.fields(splits.r_data)
        m.d.comb += unpacks.w_data.eq(splits.r_data)
        with m.If(done):
            m.d.sync += valid.eq(0)
        with m.If((~valid | done) & splits.r_rdy & unpacks.w_rdy):
            m.d.comb += [splits.r_en.eq(1), unpacks.w_en.eq(1)]
            m.d.sync += [
                valid.eq(1),
                four.eq(kind == TapeKind.Q4),
                grouped.eq(~kind[1]),
                codes.eq(self._tape.code_words(kind, blocks)),
                run.eq(Mux(kind == TapeKind.Q4, 8, 16)),
            ]
            with m.Switch(kind):
                with m.Case(TapeKind.Q8):
                    m.d.sync += heads.eq(1)
                with m.Case(TapeKind.Q4):
                    m.d.sync += heads.eq(2)
                with m.Case(TapeKind.K):
                    m.d.sync += heads.eq(self._tape.exponent_words(blocks))
                with m.Case(TapeKind.V):
                    m.d.sync += heads.eq(0)
        return valid
