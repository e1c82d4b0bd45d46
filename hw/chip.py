"""The chip: the belt, and the elastic edges that feed and drain it."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import data
from amaranth.lib.wiring import In, Out

from tokenloom.hw.attention.window import first_token_value
from tokenloom.hw.config import HardwareConfig
from tokenloom.hw.core import CFG_BITS, EDGE, Core
from tokenloom.hw.embedding.row_reader import RowReader
from tokenloom.hw.kv.kv_manager import KvManager
from tokenloom.hw.kv.kv_writer import KvWriter
from tokenloom.hw.memory.axi import ID_BITS, WRITE_ADDRESS_BITS, Burst
from tokenloom.hw.memory.channel import Channel
from tokenloom.hw.numbers.words import ceil_to
from tokenloom.hw.sampler.noise import SAMPLING
from tokenloom.hw.sampler.recent_tokens import RecentTokens
from tokenloom.hw.sequencer.isa import TAPE_OP, Unit
from tokenloom.hw.sequencer.pass_control import EOS_IDS, PassControl
from tokenloom.hw.sequencer.registers import MODEL, Select
from tokenloom.hw.sequencer.tape_control import TapeControl
from tokenloom.hw.taps import tap_words
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["Chip"]

# Blocks for which the write queue must have room: those under way when the belt stops.
_KV_ROOM = EDGE + 3


class Chip(Block):
    """One chip for a board and for maxima.

    The belt's enable is a register: it is high in the next cycle when no input that will be needed
    is missing and no output queue is full. What fills and drains the edges never stops.

    Parameters
    ----------
    hardware : HardwareConfig
    taps : bool
        Show every operation's output (`hw/taps.py`): for simulations that look for a fault.

    Members
    -------
    cfg_we, cfg_sel, cfg_addr, cfg_data : In, configuration writes (`registers.Select`), while idle
    req_*, prompt_*, out_*, failed, refused_id (strobe), refused_ids : the token loop, see
        `PassControl`
    fault : Out(1), while `failed` is high: the memory's errors were the reason; fault_channel,
        fault_addr, fault_write : Out, whose burst failed after every retry
    ar_*, r_*, aw_*, w_*, b_* : C AXI3 ports packed, in bursts of 512 bytes and 16 beats at most; a
        port has one reader and one writer, so every identifier is 0
    hold : In(1), an extra stall of the belt, for single steps and tests
    cancel : In(1), end the request, held until `req_ready`: see `PassControl`
    stop : In(1), quiet : Out(1), channels shall come to rest and stay so until a reset; nothing is
        under way
    en, restart, over, rows_used, pos, sample : Out, the belt's state, for the trace
    stall_tape, stall_row, stall_kv : Out(1), why the next cycle stands still
    started, finished : Out(5), array_take, array_busy : Out(1), saturated : Out(1)
    logit_valid, logit : Out, per row
    tap_valid, tap : Out, only with taps, see `Core`
    """

    belt = False

    def __init__(self, *, hardware: HardwareConfig, taps: bool = False) -> None:
        self._hw, self._taps = hardware, taps
        tapped = {"tap_valid": Out(1), "tap": Out(32 * tap_words(hardware))}
        array, memory, top = hardware.array, hardware.memory, hardware.maxima
        c, port = array.columns, memory.port_bits
        self._vocab_bits = max(1, (top.vocab - 1).bit_length())
        self._slot_bits = max(1, (memory.slots - 1).bit_length())
        self._addr_bits = 32 + (port // 8).bit_length() - 1
        super().__init__(
            {
                "cfg_we": In(1),
                "cfg_sel": In(4),
                "cfg_addr": In(20),
                "cfg_data": In(CFG_BITS),
                "req_valid": In(1),
                "req_ready": Out(1),
                "req_tokens": In(20),
                "req_new": In(20),
                "req_slot": In(self._slot_bits),
                "req_eos": In(32 * EOS_IDS),
                "req_eos_used": In(EOS_IDS),
                "req_sampling": In(SAMPLING.size),
                "prompt_valid": In(1),
                "prompt_ready": Out(1),
                "prompt_token": In(32),
                "out_valid": Out(1),
                "out_token": Out(self._vocab_bits),
                "out_last": Out(1),
                "failed": Out(1),
                "refused_ids": Out(32),
                "refused_id": Out(1),
                "fault": Out(1),
                "fault_write": Out(1),
                "fault_channel": Out(max(1, (c - 1).bit_length())),
                "fault_addr": Out(self._addr_bits),
                "ar_valid": Out(c),
                "ar_ready": In(c),
                "ar_id": Out(ID_BITS * c),
                "ar_addr": Out(self._addr_bits * c),
                "ar_len": Out(4 * c),
                "ar_size": Out(3 * c),
                "ar_burst": Out(2 * c),
                "r_valid": In(c),
                "r_ready": Out(c),
                "r_data": In(port * c),
                "r_resp": In(2 * c),
                "r_last": In(c),
                "aw_valid": Out(c),
                "aw_ready": In(c),
                "aw_id": Out(ID_BITS * c),
                "aw_addr": Out(WRITE_ADDRESS_BITS * c),
                "aw_len": Out(4 * c),
                "aw_size": Out(3 * c),
                "aw_burst": Out(2 * c),
                "w_valid": Out(c),
                "w_ready": In(c),
                "w_id": Out(ID_BITS * c),
                "w_data": Out(port * c),
                "w_strobe": Out(port // 8 * c),
                "w_last": Out(c),
                "b_valid": In(c),
                "b_ready": Out(c),
                "b_resp": In(2 * c),
                "hold": In(1),
                "cancel": In(1),
                "stop": In(1),
                "quiet": Out(1),
                "en": Out(1),
                "restart": Out(1),
                "over": Out(1),
                "rows_used": Out(6),
                "pos": Out(20),
                "sample": Out(1),
                "stall_tape": Out(1),
                "stall_row": Out(1),
                "stall_kv": Out(1),
                "started": Out(len(Unit)),
                "finished": Out(len(Unit)),
                "array_take": Out(1),
                "array_busy": Out(1),
                "saturated": Out(1),
                "logit_valid": Out(array.rows),
                "logit": Out(32 * array.rows),
                **(tapped if taps else {}),
            },
            params=(hardware.digest(), taps),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        hw = self._hw
        array, memory, top = hw.array, hw.memory, hw.maxima
        c_count, port = array.columns, memory.port_bits
        word_bits = (port // 8).bit_length() - 1

        # Configuration, one register late, so that the belt is enabled when it arrives.
        cfg_we, cfg_sel = Signal(), Signal(4)
        cfg_addr, cfg_data = Signal(20), Signal(CFG_BITS)
        registers = Signal(MODEL)
        # A token's blocks in memory: whole beats.
        dim_blocks = Signal(range(hw.memory_dim_blocks + 1))
        m.d.comb += dim_blocks.eq(ceil_to(registers.key_blocks, hw.blocks_per_beat))
        m.d.sync += cfg_we.eq(self.cfg_we)
        with m.If(self.cfg_we):
            m.d.sync += [
                cfg_sel.eq(self.cfg_sel),
                cfg_addr.eq(self.cfg_addr),
                cfg_data.eq(self.cfg_data),
            ]
        with m.If(cfg_we & (cfg_sel == Select.REGISTERS)):
            m.d.sync += registers.eq(cfg_data)
        loaded = Signal()
        with m.If(cfg_we & (cfg_sel != Select.BIASES)):
            m.d.sync += loaded.eq(cfg_sel == Select.REGISTERS)

        core = Core(hardware=hw, taps=self._taps)
        en = Signal()
        # Reset of belt and channels, after which a request may begin; a register, for its fan-out.
        reset = Signal(init=1, reset_less=True)
        m.submodules.core = instance(core, en=en, reset=reset)
        control = PassControl(
            rows=array.rows,
            columns=c_count,
            vocab_bits=self._vocab_bits,
            slot_bits=self._slot_bits,
            page_tokens=memory.page_tokens,
            pages_max=hw.pages_per_slot,
            positions=top.positions,
        )
        m.submodules.pass_control = instance(control)
        pages = KvManager(
            slots=memory.slots,
            pages=memory.pages,
            positions=top.positions,
            page_tokens=memory.page_tokens,
        )
        m.submodules.kv_manager = instance(pages)
        tape = TapeControl(
            depth=hw.array_operations + 1,
            columns=c_count,
            page_tokens=memory.page_tokens,
            dim_blocks=hw.memory_dim_blocks,
            beat_blocks=hw.blocks_per_beat,
            pages_max=hw.pages_per_slot,
            lookup_latency=2,
            chunk_tokens=hw.attention_tokens if hw.chunked else 0,
        )
        m.submodules.tape_control = instance(tape, reset=reset)

        # The token loop.
        first = Signal(20)
        for name in ("req_valid", "req_tokens", "req_new", "req_slot", "req_eos", "req_eos_used",
                     "req_sampling", "prompt_valid", "prompt_token"):  # fmt: skip
            m.d.comb += getattr(control, name).eq(getattr(self, name))
        for name in ("req_ready", "prompt_ready", "out_valid", "out_token", "out_last", "failed",
                     "restart", "rows_used", "pos", "sample", "refused_ids"):  # fmt: skip
            m.d.comb += getattr(self, name).eq(getattr(control, name))
        m.d.comb += [
            self.refused_id.eq(control.refused),
            control.embedding_base.eq(registers.embedding_base),
            control.embedding_stride.eq(registers.embedding_stride),
            control.vocab.eq(registers.vocab),
            control.en.eq(en),
            control.over.eq(core.over),
            control.chosen.eq(core.token),
            pages.begin_valid.eq(control.begin_valid),
            pages.begin_slot.eq(control.begin_slot),
            pages.begin_pos0.eq(control.begin_pos0),
            pages.begin_rows.eq(control.begin_rows),
            control.begin_ready.eq(pages.begin_ready),
            control.kv_done.eq(pages.done),
            control.kv_full.eq(pages.full),
            pages.release_valid.eq(control.release_valid),
            pages.release_slot.eq(control.release_slot),
            control.release_ready.eq(pages.release_ready),
            # Both look up pages of the one sequence in this pass, at different times.
            pages.lookup_slot.eq(control.begin_slot),
            pages.lookup_index.eq(Mux(control.lookup_use, control.lookup_index, tape.lookup_page)),
            control.lookup_page.eq(pages.lookup_page),
            core.cfg_we.eq(cfg_we),
            core.cfg_sel.eq(cfg_sel),
            core.cfg_addr.eq(cfg_addr),
            core.cfg_data.eq(cfg_data),
            core.model.eq(registers),
            core.restart.eq(control.restart),
            core.rows_used.eq(control.rows_used),
            core.pos.eq(control.pos),
            core.sample.eq(control.sample),
            core.sampling.eq(control.sampling),
            tape.cfg_we.eq(cfg_we & (cfg_sel == Select.TAPE)),
            tape.cfg_addr.eq(cfg_addr),
            tape.cfg_data.eq(cfg_data[: TAPE_OP.size]),
            tape.run.eq(loaded),
            tape.kv_base.eq(registers.kv_base),
            tape.page_stride.eq(registers.page_stride),
            tape.k_offset.eq(registers.k_offset),
            tape.v_offset.eq(registers.v_offset),
            tape.v_dim_words.eq(registers.v_dim_words),
            tape.dim_blocks_used.eq(dim_blocks),
            tape.passes.eq(control.passes),
            tape.length.eq(control.pos + control.rows_used),
            tape.first.eq(first),
            core.first.eq(first),
            first.eq(
                first_token_value(
                    pos=control.pos,
                    window=registers.window,
                    page_tokens=memory.page_tokens,
                )
            ),
            tape.sample.eq(control.sample),
            tape.lookup_phys.eq(pages.lookup_page),
        ]

        if hw.sampler.candidates:
            recent = RecentTokens(vocab_bits=self._vocab_bits)
            m.submodules.recent_tokens = instance(recent)
            settings = data.View(SAMPLING, control.sampling)
            m.d.comb += [
                recent.begins.eq(control.begins),
                recent.push.eq(control.next_valid),
                recent.token.eq(control.next_token),
                recent.window.eq(settings.window),
                core.recent.eq(recent.recent),
                core.recent_count.eq(recent.recent_count),
            ]

        # Channels.
        row_reader = RowReader(port_bits=port, width=max(32, top.width))
        m.submodules.row_reader = instance(row_reader, reset=reset)
        row_channel = Signal.like(control.fetch_channel)
        words_left = Signal(16)
        fetch, take, accepted, halt = Signal(), Signal(), Signal(), Signal()
        wanted = Signal(range(EDGE + 2))
        m.d.comb += [
            # One row at a time: rows of different channels must not overtake each other.
            fetch.eq(control.fetch_valid & (words_left == 0) & row_reader.req_ready),
            row_reader.req_valid.eq(fetch),
            control.fetch_ready.eq(fetch),
            row_reader.req_addr.eq(control.fetch_addr),
            row_reader.req_blocks.eq(registers.embedding_blocks),
            row_reader.req_four.eq(registers.embedding_four_bit),
            row_reader.cfg_we.eq(cfg_we & (cfg_sel == Select.CODEBOOK)),
            row_reader.cfg_addr.eq(cfg_addr),
            row_reader.cfg_data.eq(cfg_data),
        ]
        with m.If(fetch):
            m.d.sync += [
                words_left.eq(registers.embedding_stride),
                row_channel.eq(control.fetch_channel),
            ]
        with m.Elif(row_reader.r_valid & row_reader.r_ready):
            m.d.sync += words_left.eq(words_left - 1)

        writer = KvWriter(columns=c_count, port_bits=port, page_tokens=memory.page_tokens, depth=32)
        m.submodules.kv_writer = instance(writer, reset=reset)
        channels = []
        for c in range(c_count):
            channel = Channel(
                port_bits=port,
                lanes=array.lanes,
                buffer_words=memory.buffer_words,
                dim_blocks_max=hw.memory_dim_blocks,
                header_words=hw.header_words,
                channels=c_count,
                retries=memory.retries,
            )
            m.submodules[f"channel{c}"] = instance(channel, reset=reset)
            channels.append(channel)
            m.d.comb += [
                channel.index.eq(c),
                channel.cmd_valid.eq(accepted),
                channel.cmd_kind.eq(tape.cmd_kind),
                channel.cmd_addr.eq(tape.cmd_addr),
                channel.cmd_addr2.eq(tape.cmd_addr2),
                channel.cmd_blocks.eq(tape.cmd_blocks),
                channel.cmd_dim_blocks.eq(dim_blocks),
                channel.cfg_we.eq(row_reader.cfg_we),
                channel.cfg_addr.eq(row_reader.cfg_addr),
                channel.cfg_data.eq(row_reader.cfg_data),
                channel.row_channel.eq(row_channel),
                channel.row_ar_valid.eq(row_reader.ar_valid),
                channel.row_ar_addr.eq(row_reader.ar_addr),
                channel.row_ar_len.eq(row_reader.ar_len),
                channel.row_r_ready.eq(row_reader.r_ready),
                channel.ar_ready.eq(self.ar_ready[c]),
                channel.r_valid.eq(self.r_valid[c]),
                channel.r_data.eq(self.r_data.word_select(c, port)),
                channel.r_resp.eq(self.r_resp.word_select(c, 2)),
                channel.r_last.eq(self.r_last[c]),
                channel.in_valid.eq(writer.w_valid[c]),
                channel.in_addr.eq(writer.w_addr.word_select(c, WRITE_ADDRESS_BITS)),
                channel.in_data.eq(writer.w_data.word_select(c, port)),
                channel.in_strobe.eq(writer.w_strobe.word_select(c, port // 8)),
                channel.aw_ready.eq(self.aw_ready[c]),
                channel.w_ready.eq(self.w_ready[c]),
                channel.b_valid.eq(self.b_valid[c]),
                channel.b_resp.eq(self.b_resp.word_select(c, 2)),
                channel.halt.eq(halt),
                channel.wanted.eq(wanted),
                channel.take.eq(take),
            ]

        def packed(name: str) -> Value:
            return Cat(getattr(channel, name) for channel in channels)

        m.d.comb += [
            wanted.eq(sum((core.will_take[i] for i in range(EDGE)), core.take)),
            take.eq(core.take & en),
            accepted.eq(tape.cmd_valid & packed("cmd_ready").all()),
            tape.cmd_ready.eq(accepted),
            self.ar_size.eq(Const(word_bits, 3).replicate(c_count)),
            self.ar_burst.eq(Const(Burst.INCR, 2).replicate(c_count)),
            self.aw_size.eq(self.ar_size),
            self.aw_burst.eq(self.ar_burst),
            *(port_id.eq(0) for port_id in (self.ar_id, self.aw_id, self.w_id)),
            self.aw_len.eq(0),
            self.w_last.eq((1 << c_count) - 1),
            self.b_ready.eq((1 << c_count) - 1),
            core.codes.eq(packed("codes")),
            core.scale.eq(packed("scale")),
            core.minimum.eq(packed("minimum")),
            core.v_shifts.eq(packed("v_shift")),
            core.pow2.eq(channels[0].pow2),
            row_reader.ar_ready.eq(packed("row_ar_ready").any()),
            row_reader.r_valid.eq(packed("row_r_valid").any()),
            row_reader.r_data.eq(Array(channel.r_data for channel in channels)[row_channel]),
            row_reader.take.eq(core.row_take & en),
            core.row_codes.eq(row_reader.codes),
            core.row_scale.eq(row_reader.scale),
            core.row_minimum.eq(row_reader.minimum),
        ]

        for name in ("ar_valid", "ar_addr", "ar_len", "r_ready", "aw_valid", "aw_addr", "w_valid",
                     "w_data", "w_strobe"):  # fmt: skip
            m.d.comb += getattr(self, name).eq(packed(name))

        # Errors. The lowest channel that failed is named; the request ends when all are at rest.
        m.d.comb += [
            control.broken.eq(packed("failed").any()),
            self.quiet.eq(packed("quiet").all()),
            control.quiet.eq(self.quiet),
            control.cancel.eq(self.cancel),
            halt.eq(control.halt | self.stop),
        ]
        m.d.sync += reset.eq(ResetSignal() | control.wipe)
        with m.If(control.req_valid & control.req_ready):
            m.d.sync += self.fault.eq(0)
        with m.If(control.blame & control.broken):
            m.d.sync += self.fault.eq(1)
            for c, channel in reversed(list(enumerate(channels))):
                with m.If(channel.failed):
                    m.d.sync += [
                        self.fault_channel.eq(c),
                        self.fault_write.eq(channel.failed_write),
                        self.fault_addr.eq(channel.failed_addr),
                    ]
        with m.If(reset):
            m.d.sync += words_left.eq(0)

        # K and V.
        page_shift = memory.page_tokens.bit_length() - 1
        position = control.pos + core.kv_row
        m.d.comb += [
            writer.block_valid.eq(core.kv_valid & en),
            writer.block_is_v.eq(core.kv_is_v),
            writer.block_layer.eq(core.kv_layer),
            writer.block_head.eq(core.kv_head),
            writer.block_dim.eq(core.kv_block),
            writer.block_token.eq(position),
            writer.block_page.eq(
                Mux(
                    (position >> page_shift) == (control.pos >> page_shift),
                    control.page_first,
                    control.page_last,
                )
            ),
            writer.block_codes.eq(core.kv_codes),
            writer.block_shift.eq(core.kv_shift),
            writer.kv_base.eq(registers.kv_base << word_bits),
            writer.page_stride.eq(registers.page_stride << word_bits),
            writer.layer_stride.eq(registers.layer_stride << word_bits),
            writer.head_stride.eq(registers.head_stride << word_bits),
            writer.k_offset.eq(registers.k_offset << word_bits),
            writer.v_offset.eq(registers.v_offset << word_bits),
            writer.dim_blocks.eq(dim_blocks),
            writer.head_size.eq(registers.head_size),
            writer.w_ready.eq(packed("in_ready")),
            writer.b_valid.eq(packed("done")),
        ]
        # Layers of this pass whose K and V lie in memory.
        written, layers_written = Signal(20), Signal(8)
        per_layer = Signal(16)
        m.d.comb += per_layer.eq(registers.layer_blocks * control.rows_used)
        # Cleared between passes, before the tape can see the next descriptor: a pass cannot end
        # before its last layer's K and V were read back.
        with m.If(~control.active):
            m.d.sync += [written.eq(0), layers_written.eq(0)]
        with m.Elif((written >= per_layer) & (per_layer != 0)):
            m.d.sync += [
                written.eq(written - per_layer + writer.blocks_done),
                layers_written.eq(layers_written + 1),
            ]
        with m.Else():
            m.d.sync += written.eq(written + writer.blocks_done)
        m.d.comb += tape.layers_written.eq(layers_written)

        # The enable.
        tape_ready = packed("enough").all()
        stall_tape, stall_row, stall_kv = Signal(), Signal(), Signal()
        m.d.comb += [
            stall_tape.eq(control.active & ~tape_ready),
            stall_row.eq(control.active & core.row_wanted & ~row_reader.valid),
            stall_kv.eq(control.active & (writer.room < _KV_ROOM)),
        ]
        m.d.sync += [
            en.eq(
                (control.active & ~stall_tape & ~stall_row & ~stall_kv & ~self.hold) | self.cfg_we
            ),
            self.stall_tape.eq(stall_tape),
            self.stall_row.eq(stall_row & ~stall_tape),
            self.stall_kv.eq(stall_kv & ~stall_tape & ~stall_row),
        ]
        m.d.comb += [
            self.en.eq(en),
            self.over.eq(core.over),
            self.started.eq(core.started),
            self.finished.eq(core.finished),
            self.array_take.eq(core.take),
            self.array_busy.eq(core.array_busy),
            self.saturated.eq(core.saturated),
            self.logit_valid.eq(core.logit_valid),
            self.logit.eq(core.logit),
        ]
        if self._taps:
            m.d.comb += [self.tap_valid.eq(core.tap_valid), self.tap.eq(core.tap)]
        return m
