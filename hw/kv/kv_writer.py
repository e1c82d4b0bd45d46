"""Writes the quantised K and V blocks of a pass into the KV pages."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from tokenloom.hw.kv.kv_lane import KvLane
from tokenloom.hw.memory.axi import WRITE_ADDRESS_BITS
from tokenloom.hw.numbers.words import check_port_bits, pick
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["KvWriter"]


_STEPS_MAX = 63


class KvWriter(Block):
    """Turns blocks of 32 codes and a shift into byte-strobed writes on the channels' ports.

    A K block is one write of 32 bytes in channel t mod C, a V block one byte per dim in channel
    d mod C, C dims per step; the shift is one byte more in channel t mod C. Addresses are those
    of `KvLayout`, whose strides and offsets are inputs, constant while blocks are under way.

    Parameters
    ----------
    columns : int
        Channels C, at most 256.
    port_bits : int
        Bits of a memory word, 256 or 512.
    page_tokens : int
        Tokens of a page, a multiple of `columns`, at most 256.
    depth : int
        Blocks that may wait.

    Members
    -------
    block_valid : In(1)
        The block_ inputs hold a block; it is lost when `room` is 0.
    block_is_v, block_layer, block_head, block_dim, block_token, block_page : In
        V or K, layer (8 bits), KV head (8), block of dims b (4), token inside the page, physical
        page (16).
    block_codes, block_shift : In(256), In(5)
        32 int8 codes and their shift.
    room : Out
        Blocks that still find place.
    kv_base, page_stride, layer_stride, head_stride, k_offset, v_offset : In(32)
        Bytes, see `KvLayout`; multiples of the word.
    dim_blocks : In(5)
        Blocks of a token in memory.
    head_size : In(9)
        Dims of a head: V codes beyond it are not written.
    w_valid, w_ready : Out(C), In(C)
        A write per channel.
    w_addr : Out(32C)
        Byte address of the word, at 32c for channel c (all the same).
    w_data : Out(C port_bits)
        The word.
    w_strobe : Out(C port_bits / 8)
        Its bytes to be written.
    b_valid : In(C)
        Acknowledges one write of the channel, in order; always taken.
    blocks_done : Out
        Blocks whose writes were all acknowledged since the cycle before; mostly 0.
    idle : Out(1)
        No block waits and all writes are acknowledged.

    Latency
    -------
    Three cycles to the first write. K: two cycles per block; V: one per step and one more.
    Blocks count as done in groups: when all writes issued before a group's closing are
    acknowledged, the next group, which holds what was issued meanwhile, closes.

    Raises
    ------
    ValueError
        When a parameter is out of range.
    """

    belt = False

    def __init__(self, *, columns: int, port_bits: int, page_tokens: int, depth: int = 32) -> None:
        check_port_bits(port_bits)
        if not 1 <= columns <= 256:
            raise ValueError(f"columns has to be from 1 to 256, not {columns!r}")
        if not 1 <= page_tokens <= 256 or page_tokens % columns:
            raise ValueError(
                f"page_tokens has to be a multiple of columns = {columns} up to 256, "
                f"not {page_tokens!r}"
            )
        if depth < 2:
            raise ValueError(f"depth has to be at least 2, not {depth!r}")
        self._columns, self._port_bits = columns, port_bits
        self._page_tokens, self._depth = page_tokens, depth
        super().__init__(
            {
                "block_valid": In(1),
                "block_is_v": In(1),
                "block_layer": In(8),
                "block_head": In(8),
                "block_dim": In(4),
                "block_token": In(max(1, (page_tokens - 1).bit_length())),
                "block_page": In(16),
                "block_codes": In(256),
                "block_shift": In(5),
                "room": Out(range(depth + 1)),
                "kv_base": In(32),
                "page_stride": In(32),
                "layer_stride": In(32),
                "head_stride": In(32),
                "k_offset": In(32),
                "v_offset": In(32),
                "dim_blocks": In(5),
                "head_size": In(9),
                "w_valid": Out(columns),
                "w_ready": In(columns),
                "w_addr": Out(WRITE_ADDRESS_BITS * columns),
                "w_data": Out(port_bits * columns),
                "w_strobe": Out(port_bits // 8 * columns),
                "b_valid": In(columns),
                "blocks_done": Out(8),
                "idle": Out(1),
            },
            params=(columns, port_bits, page_tokens, depth),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        columns = self._columns
        word = self._port_bits // 8
        word_shift = word.bit_length() - 1
        token_bits = len(self.block_token)

        # Blocks waiting.
        fields = (
            self.block_is_v,
            self.block_layer,
            self.block_head,
            self.block_dim,
            self.block_token,
            self.block_page,
            self.block_shift,
            self.block_codes,
        )
        m.submodules.queue = queue = SyncFIFO(width=sum(map(len, fields)), depth=self._depth)
        m.d.comb += [
            queue.w_en.eq(self.block_valid),
            queue.w_data.eq(Cat(*fields)),
            self.room.eq(self._depth - queue.level),
        ]
        parts: list[Value] = []
        low = 0
        for field in fields:
            parts.append(queue.r_data[low : low + len(field)])
            low += len(field)
        is_v, layer, head, dim, token, page, shift, codes = parts

        # Stage 1: products; where token and dims lie, from small tables.
        valid1, valid2 = Signal(), Signal()
        take1, take2 = Signal(), Signal()
        is_v1, dim1 = Signal(), Signal(4)
        codes1, shift1 = Signal(256), Signal(5)
        token1, line1, channel1 = Signal(token_bits), Signal(token_bits), Signal(token_bits)
        page_part, layer_part, head_part = Signal(32), Signal(32), Signal(32)
        m.d.comb += [
            take1.eq(queue.r_rdy & (~valid1 | take2)),
            queue.r_en.eq(take1),
        ]
        if columns & (columns - 1):
            tokens = range(self._page_tokens)
            lines = Cat(*(Const(t // columns, 8) for t in tokens))
            channels = Cat(*(Const(t % columns, 8) for t in tokens))
            line: Value = pick(m, lines, token, 8, len(tokens))
            channel: Value = pick(m, channels, token, 8, len(tokens))
        else:
            split = columns.bit_length() - 1
            line, channel = token[split:], token[:split]
        with m.If(take2):
            m.d.sync += valid1.eq(0)
        with m.If(take1):
            m.d.sync += [
                valid1.eq(1),
                is_v1.eq(is_v),
                dim1.eq(dim),
                codes1.eq(codes),
                shift1.eq(shift),
                token1.eq(token),
                line1.eq(line),
                channel1.eq(channel),
                page_part.eq(page * self.page_stride),
                layer_part.eq(layer * self.layer_stride),
                head_part.eq(head * self.head_stride),
            ]

        # Stage 2: sums. `group` counts the dims of one step, `offset` is its first dim - 32 b.
        is_v2, codes2, shift2 = Signal(), Signal(256), Signal(5)
        channel2 = Signal(token_bits)
        shift_addr, code_addr = Signal(32), Signal(32)
        offset = Signal(signed(10))
        dims_left = Signal(signed(11))
        shifting = Signal()
        base = self.kv_base + page_part + layer_part + head_part
        token_line = Signal(token_bits + 5)
        first_group, first_offset = Signal(9), Signal(signed(10))
        m.d.comb += [
            token_line.eq(line1 * self.dim_blocks),
            first_group.eq(Array(32 * b // columns for b in range(16))[dim1]),
            first_offset.eq(Array(-(32 * b % columns) for b in range(16))[dim1]),
        ]
        finish = Signal()
        with m.If(finish):
            m.d.sync += valid2.eq(0)
        m.d.comb += take2.eq(valid1 & (~valid2 | finish))

        # Issue: one step when no channel has an earlier write left.
        addr = Signal(32)
        byte_write = Signal()
        strobe = Signal(word)
        wide = Signal(256)
        closing_steps = Signal(range(_STEPS_MAX + 1))
        lanes = []
        for c in range(columns):
            lane = KvLane(
                columns=columns,
                port_bits=self._port_bits,
                token_bits=token_bits,
                steps_max=_STEPS_MAX,
            )
            m.submodules[f"lane{c}"] = instance(lane)
            lanes.append(lane)

        def packed(name: str) -> Value:
            return Cat(getattr(lane, name) for lane in lanes)

        issue, one_byte, codes_done = Signal(), Signal(), Signal()
        swap = Signal()
        now_addr = Signal(32)
        for c, lane in enumerate(lanes):
            m.d.comb += [
                lane.index.eq(c),
                lane.issue.eq(issue),
                lane.shifting.eq(shifting),
                lane.is_v.eq(is_v2),
                lane.home.eq(channel2),
                lane.offset.eq(offset),
                lane.dims_left.eq(dims_left),
                lane.codes.eq(codes2),
                lane.shift.eq(shift2),
                lane.byte_write.eq(byte_write),
                lane.wide.eq(wide),
                lane.swap.eq(swap),
                lane.w_ready.eq(self.w_ready[c]),
                lane.b_valid.eq(self.b_valid[c]),
            ]
        m.d.comb += [
            issue.eq(valid2 & ~packed("busy").any() & (closing_steps != _STEPS_MAX)),
            one_byte.eq(shifting | is_v2),
            now_addr.eq(Mux(shifting, shift_addr, code_addr)),
            codes_done.eq(~is_v2 | (offset + columns >= 32) | (offset + columns >= dims_left)),
            finish.eq(issue & shifting),
        ]
        with m.If(issue):
            m.d.sync += [
                addr.eq(Cat(Const(0, word_shift), now_addr[word_shift:])),
                byte_write.eq(one_byte),
            ]
            with m.If(one_byte):
                with m.Switch(now_addr[:word_shift]):
                    for i in range(word - 1):
                        with m.Case(i):
                            m.d.sync += strobe.eq(1 << i)
                    with m.Default():
                        m.d.sync += strobe.eq(1 << (word - 1))
            with m.Else():
                half = now_addr[5] if word == 64 else 0
                m.d.sync += [
                    strobe.eq(Mux(half, 0xFFFFFFFF << 32, 0xFFFFFFFF)[:word]),
                    wide.eq(codes2),
                ]
            m.d.sync += [
                offset.eq(offset + columns),
                code_addr.eq(code_addr + self._page_tokens),
                shifting.eq(codes_done),
            ]

        # The next block's values, after this block's last step.
        with m.If(take2):
            m.d.sync += [
                valid2.eq(1),
                is_v2.eq(is_v1),
                codes2.eq(codes1),
                shift2.eq(shift1),
                channel2.eq(channel1),
                shift_addr.eq(base + (token_line << 1) + dim1 + Mux(is_v1, self.dim_blocks, 0)),
                code_addr.eq(
                    base
                    + Mux(
                        is_v1,
                        self.v_offset + first_group * self._page_tokens + token1,
                        self.k_offset + ((token_line + dim1) << 5),
                    )
                ),
                offset.eq(first_offset),
                dims_left.eq(self.head_size - (dim1 << 5)),
                shifting.eq(0),
            ]
        m.d.comb += [
            self.w_valid.eq(packed("w_valid")),
            self.w_addr.eq(addr.replicate(columns)),
            self.w_data.eq(packed("w_data")),
            self.w_strobe.eq(strobe.replicate(columns)),
        ]

        # Acknowledgements: writes of the closed group per channel, and those issued since.
        old_blocks, new_blocks = Signal(8), Signal(8)
        old_any, new_any = Signal(), Signal()
        m.d.comb += [
            old_any.eq(packed("old_any").any()),
            new_any.eq(packed("new_any").any()),
            swap.eq(~old_any & (new_any | new_blocks.any()) & ~issue),
        ]
        m.d.sync += self.blocks_done.eq(0)
        with m.If(swap):
            # Everything older is acknowledged; what was issued since becomes the closed group.
            m.d.sync += [old_blocks.eq(new_blocks), new_blocks.eq(0), closing_steps.eq(0)]
        with m.Elif(issue):
            m.d.sync += [
                new_blocks.eq(new_blocks + finish),
                closing_steps.eq(closing_steps + 1),
            ]
        with m.If(~old_any & old_blocks.any()):
            m.d.sync += self.blocks_done.eq(old_blocks)
            with m.If(~swap):
                m.d.sync += old_blocks.eq(0)
        m.d.comb += self.idle.eq(
            ~(
                queue.r_rdy
                | valid1
                | valid2
                | old_any
                | new_any
                | old_blocks.any()
                | new_blocks.any()
                | self.blocks_done.any()
            )
        )
        return m
