"""Reads one memory channel's tape and hands it to the array beat by beat."""

from __future__ import annotations

import enum
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.block import Block

__all__ = ["ADDRESS_BITS", "BLOCKS_BITS", "BurstMaker", "TapeKind", "TapeReader", "add_codebook"]

ADDRESS_BITS = 32
"""Bits of a word address."""
BLOCKS_BITS = 24
"""Bits of a command's number of blocks."""


class TapeKind(enum.IntEnum):
    """What a command of the tape reader fetches."""

    Q8 = 0
    Q4 = 1
    K = 2
    V = 3


def check_port_bits(port_bits: int) -> None:
    """Raises ValueError unless `port_bits` is a width the readers know."""
    if port_bits not in (256, 512):
        raise ValueError(f"port_bits has to be 256 or 512, not {port_bits!r}")


def ceil_shift(value: Value, shift: int) -> Value:
    """ceil(value / 2^shift)."""
    return (value + ((1 << shift) - 1))[shift:] if shift else value


def pick(m: Module, value: Value, index: Value, width: int, count: int) -> Signal:
    """Part number `index` of the first `count` parts of `width` bits, the last beyond them."""
    result = Signal(width)
    with m.Switch(index):
        for i in range(count - 1):
            with m.Case(i):
                m.d.comb += result.eq(value[width * i : width * (i + 1)])
        with m.Default():
            m.d.comb += result.eq(value[width * (count - 1) : width * count])
    return result


def add_codebook(m: Module, *, we: Value, addr: Value, data: Value, codes: Value) -> Value:
    """Adds a 16-entry register file to `m` and looks every 4-bit code of `codes` up in it.

    It holds 0..15 after configuration; a reset leaves it alone.
    """
    m.submodules.codebook = book = Memory(shape=8, depth=16, init=range(16))
    write = book.write_port()
    m.d.comb += [write.en.eq(we), write.addr.eq(addr), write.data.eq(data)]
    values = []
    for i in range(len(codes) // 4):
        read = book.read_port(domain="comb")
        m.d.comb += read.addr.eq(codes.word_select(i, 4))
        values.append(read.data)
    return Cat(*values)


class BurstMaker(wiring.Component):
    """Splits segments of words into bursts for which the word buffer has room.

    A burst ends where its address is a multiple of 16 words, so none crosses 4 KiB.

    Parameters
    ----------
    port_bits : int
        Bits of a memory word.
    buffer_words : int
        Words that may be requested or buffered at a time.
    words_bits : int
        Bits of a segment's length.

    Members
    -------
    seg_valid, seg_ready, seg_addr, seg_words
        The next segment: word address and number of words.
    freed : In(1)
        A word has left the buffer.
    busy : Out(1)
        There are words left to request.
    ar_valid, ar_ready, ar_addr, ar_len
        Byte address and words - 1 of a burst.

    Latency
    -------
    Two cycles from a segment to its first burst, then one burst per cycle.
    """

    def __init__(self, *, port_bits: int, buffer_words: int, words_bits: int) -> None:
        check_port_bits(port_bits)
        if buffer_words < 16:
            raise ValueError(
                f"buffer_words has to be at least one burst of 16, not {buffer_words!r}"
            )
        self._shift = (port_bits // 8).bit_length() - 1
        self._buffer_words = buffer_words
        super().__init__(
            {
                "seg_valid": In(1),
                "seg_ready": Out(1),
                "seg_addr": In(ADDRESS_BITS),
                "seg_words": In(words_bits),
                "freed": In(1),
                "busy": Out(1),
                "ar_valid": Out(1),
                "ar_ready": In(1),
                "ar_addr": Out(ADDRESS_BITS + self._shift),
                "ar_len": Out(4),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        addr = Signal(ADDRESS_BITS)
        left = Signal.like(self.seg_words)
        credit = Signal(range(self._buffer_words + 1), init=self._buffer_words)

        span = Signal(range(17))
        chunk = Signal(range(17))
        m.d.comb += [
            self.seg_ready.eq(~left.any()),
            self.busy.eq(left.any() | self.ar_valid),
            span.eq(16 - addr[:4]),
            chunk.eq(Mux(left < span, left, span)),
        ]

        issue = Signal()
        m.d.comb += issue.eq(left.any() & (credit >= chunk) & (~self.ar_valid | self.ar_ready))
        with m.If(self.ar_ready):
            m.d.sync += self.ar_valid.eq(0)
        with m.If(issue):
            m.d.sync += [
                self.ar_valid.eq(1),
                self.ar_addr.eq(Cat(Const(0, self._shift), addr)),
                self.ar_len.eq(chunk - 1),
                addr.eq(addr + chunk),
                left.eq(left - chunk),
            ]
        with m.If(self.seg_valid & self.seg_ready):
            m.d.sync += [addr.eq(self.seg_addr), left.eq(self.seg_words)]
        with m.If(issue | self.freed):
            m.d.sync += credit.eq(credit - Mux(issue, chunk, 0) + self.freed)
        return m


class TapeReader(Block):
    """Fetches what its commands name, unpacks it and offers it as beats of `lanes` codes.

    Parameters
    ----------
    port_bits : int
        Bits of a memory word P, 256 or 512.
    lanes : int
        Codes per beat K, 32 or 64; BPB = K / 32 blocks.
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
    Q8 with 8K = P: 16 beats in 17 cycles.

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
        if lanes not in (32, 64):
            raise ValueError(f"lanes has to be 32 or 64, not {lanes!r}")
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
        self._lanes = lanes
        self._bpb = bpb = lanes // 32
        self._buffer_words = buffer_words
        self._dim_blocks_max = dim_blocks_max
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
        width = len(self.cmd_kind) + len(self.cmd_blocks) + len(self.cmd_dim_blocks)
        m.submodules.splits = splits = SyncFIFO(width=width, depth=4)
        m.submodules.unpacks = unpacks = SyncFIFO(width=width, depth=4)
        # The header ring: written by the splitter, freed by the unpacker (one more bit: full).
        ring_bits = (self._header_words - 1).bit_length()
        written = Signal(ring_bits + 1)
        base = Signal(ring_bits + 1)

        requesting = self._request(m, words, splits)
        splitting = self._split(m, words, splits, unpacks, code_words, headers, written, base)
        unpacking = self._unpack(m, unpacks, code_words, headers, base)
        m.d.comb += self.idle.eq(
            ~(requesting | splitting | unpacking | splits.r_rdy | unpacks.r_rdy)
        )
        return m

    def _fields(self, flat: Value) -> tuple[Value, Value, Value]:
        """Kind, blocks and blocks per token of a queued command."""
        middle = 2 + BLOCKS_BITS
        return flat[:2], flat[2:middle], flat[middle:]

    def _code_words(self, kind: Value, blocks: Value) -> Value:
        """Words of codes of so many blocks."""
        shift = self._port_bits // 512
        return Mux(kind == TapeKind.Q4, ceil_shift(blocks, shift + 1), ceil_shift(blocks, shift))

    def _exponent_words(self, blocks: Value) -> Value:
        """Words of K and V shifts of so many K blocks."""
        return ceil_shift(blocks, (self._port_bits // 16).bit_length() - 1)

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
        kind, blocks, _ = self._fields(commands.r_data[:short])
        groups = ceil_shift(blocks, (self._port_bits // 16).bit_length() - 1)
        total = self._code_words(kind, blocks) + Mux(
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
                seg_words.eq(Mux(kind == TapeKind.K, self._exponent_words(blocks), total)),
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

        kind, blocks, _ = self._fields(splits.r_data)
        m.d.comb += unpacks.w_data.eq(splits.r_data)
        with m.If(done):
            m.d.sync += valid.eq(0)
        with m.If((~valid | done) & splits.r_rdy & unpacks.w_rdy):
            m.d.comb += [splits.r_en.eq(1), unpacks.w_en.eq(1)]
            m.d.sync += [
                valid.eq(1),
                four.eq(kind == TapeKind.Q4),
                grouped.eq(~kind[1]),
                codes.eq(self._code_words(kind, blocks)),
                run.eq(Mux(kind == TapeKind.Q4, 8, 16)),
            ]
            with m.Switch(kind):
                with m.Case(TapeKind.Q8):
                    m.d.sync += heads.eq(1)
                with m.Case(TapeKind.Q4):
                    m.d.sync += heads.eq(2)
                with m.Case(TapeKind.K):
                    m.d.sync += heads.eq(self._exponent_words(blocks))
                with m.Case(TapeKind.V):
                    m.d.sync += heads.eq(0)
        return valid

    def _unpack(
        self, m: Module, unpacks: Any, code_words: Any, headers: Memory, base: Signal
    ) -> Value:
        """Code words and header words -> beats; returns whether there is a command or a beat."""
        bpb, port, lanes = self._bpb, self._port_bits, self._lanes
        ring = len(base) - 1
        group_beats = port // 16 // bpb
        units = port // 8 // bpb
        unit_bits = (units - 1).bit_length()

        # The command.
        valid = Signal()
        four, is_k, is_v = Signal(), Signal(), Signal()
        left = Signal(BLOCKS_BITS - (bpb - 1))
        depth = Signal(range(self._dim_blocks_max // bpb + 1))
        hold_words = Signal(range(self._header_words + 1))
        # Where it is: beat of the group; for K units of BPB exponent bytes; chunk of the word.
        element = Signal(range(group_beats))
        k_unit, v_unit = Signal(ring + unit_bits), Signal(ring + unit_bits)
        dim = Signal.like(depth)
        chunk = Signal(range(max(2, port // (4 * lanes))))
        last, pop, emit, finish, half_done = (Signal() for _ in range(5))

        # The words' part for this beat.
        halved = 8 * lanes > port  # two words per 8-bit beat
        word = code_words.r_data
        last8, last4 = max(1, port // (8 * lanes)) - 1, port // (4 * lanes) - 1
        raw4 = pick(m, word, chunk, 4 * lanes, last4 + 1)
        if halved:
            held = Signal(port)
            raw8: Value = Cat(held, word)
            with m.If(pop & ~half_done):
                m.d.sync += held.eq(word)
        else:
            raw8 = pick(m, word, chunk, 8 * lanes, last8 + 1)

        # Scale and minimum, or the shifts of K and V.
        read_a, read_b = headers.read_port(domain="comb"), headers.read_port(domain="comb")
        sel_a, sel_b = Signal(range(units // 2)), Signal(range(units // 2))
        m.d.comb += [
            read_a.addr.eq(base + Mux(is_k, k_unit[unit_bits:], 0)),
            read_b.addr.eq(base + Mux(is_k, v_unit[unit_bits:], 1)),
            sel_a.eq(Mux(is_k, k_unit[1:unit_bits], element)),
            sel_b.eq(Mux(is_k, v_unit[1:unit_bits], element)),
        ]
        wide_a = pick(m, read_a.data, sel_a, 16 * bpb, units // 2)
        wide_b = pick(m, read_b.data, sel_b, 16 * bpb, units // 2)
        k_byte = Mux(k_unit[0], wide_a[8 * bpb :], wide_a[: 8 * bpb])
        v_byte = Mux(v_unit[0], wide_b[8 * bpb :], wide_b[: 8 * bpb])
        k_scale = Cat(*(Cat(k_byte.word_select(i, 8)[:5], Const(0, 11)) for i in range(bpb)))
        v_bits = Cat(*(v_byte.word_select(i, 8)[:5] for i in range(bpb)))

        # The stage in front of the codebook, and the beats.
        m.submodules.beats = beats = SyncFIFO(
            width=8 * lanes + 37 * bpb + 1, depth=self._beat_words
        )
        staged, stage_four, stage_pow2 = Signal(), Signal(), Signal()
        stage_raw = Signal(8 * lanes)
        stage_scale, stage_minimum = Signal(16 * bpb), Signal(16 * bpb)
        stage_shift = Signal(5 * bpb)
        looked_up = add_codebook(
            m,
            we=self.cfg_we,
            addr=self.cfg_addr,
            data=self.cfg_data,
            codes=stage_raw[: 4 * lanes],
        )
        m.d.comb += [
            beats.w_en.eq(staged),
            beats.w_data.eq(
                Cat(
                    Mux(stage_four, looked_up, stage_raw),
                    stage_scale,
                    stage_minimum,
                    stage_shift,
                    stage_pow2,
                )
            ),
            Cat(self.codes, self.scale, self.minimum, self.v_shift, self.pow2).eq(beats.r_data),
            self.beat_valid.eq(beats.r_rdy),
            self.beat_count.eq(beats.r_level),
            beats.r_en.eq(self.beat_take),
        ]

        # One beat.
        go = Signal()
        m.d.comb += [
            go.eq(valid & code_words.r_rdy & (beats.w_level + staged < self._beat_words)),
            half_done.eq(chunk[0] if halved else 1),
            emit.eq(go & (four | half_done)),
            last.eq(left == 1),
            finish.eq(emit & last),
            pop.eq(go & ((emit & last) | (chunk == Mux(four, last4, last8)) | Const(halved))),
            code_words.r_en.eq(pop),
        ]
        m.d.sync += staged.eq(emit)
        with m.If(emit):
            m.d.sync += [
                stage_raw.eq(Mux(four, raw4, raw8)),
                stage_four.eq(four),
                stage_pow2.eq(is_k | is_v),
                stage_scale.eq(Mux(is_k, k_scale, Mux(is_v, 0, wide_a))),
                stage_minimum.eq(Mux(four, wide_b, 0)),
                stage_shift.eq(Mux(is_k, v_bits, 0)),
                left.eq(left - 1),
                element.eq(element + 1),
                dim.eq(dim + 1),
                k_unit.eq(k_unit + 1),
                v_unit.eq(v_unit + 1),
            ]
            with m.If(is_k & (dim + 1 == depth)):
                m.d.sync += [
                    dim.eq(0),
                    k_unit.eq(k_unit + depth + 1),
                    v_unit.eq(v_unit + depth + 1),
                ]
            with m.If(last | (~is_k & ~is_v & (element == group_beats - 1))):
                m.d.sync += base.eq(base + hold_words)
        with m.If(pop):
            m.d.sync += chunk.eq(0)
            if halved:
                with m.If(~four & ~half_done):
                    m.d.sync += chunk.eq(1)
        with m.Elif(go):
            m.d.sync += chunk.eq(chunk + 1)

        # The next command follows without a gap.
        kind, blocks, dim_blocks = self._fields(unpacks.r_data)
        with m.If(finish):
            m.d.sync += valid.eq(0)
        with m.If((~valid | finish) & unpacks.r_rdy):
            m.d.comb += unpacks.r_en.eq(1)
            m.d.sync += [
                valid.eq(1),
                four.eq(kind == TapeKind.Q4),
                is_k.eq(kind == TapeKind.K),
                is_v.eq(kind == TapeKind.V),
                left.eq(blocks >> (bpb - 1)),
                depth.eq(dim_blocks >> (bpb - 1)),
                element.eq(0),
                dim.eq(0),
                k_unit.eq(0),
                v_unit.eq(dim_blocks >> (bpb - 1)),
            ]
            with m.Switch(kind):
                with m.Case(TapeKind.Q8):
                    m.d.sync += hold_words.eq(1)
                with m.Case(TapeKind.Q4):
                    m.d.sync += hold_words.eq(2)
                with m.Case(TapeKind.K):
                    m.d.sync += hold_words.eq(self._exponent_words(blocks))
                with m.Case(TapeKind.V):
                    m.d.sync += hold_words.eq(0)
        return valid | staged | beats.r_rdy
