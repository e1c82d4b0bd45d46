"""One memory channel: its tape reader, the arbiter that lets the row reader in, its writes."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.wiring import In, Out

from tokenloom.hw.memory.read_arbiter import ReadArbiter
from tokenloom.hw.memory.tape_reader import TapeReader
from tokenloom.hw.memory.write_port import WritePort
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["Channel"]

# Ports that are the tape reader's own.
_COMMAND = ("cmd_kind", "cmd_addr", "cmd_addr2", "cmd_blocks", "cmd_dim_blocks")
# ... the arbiter's and the write port's.
_AR_IN = ("ar_ready", "r_valid", "r_data", "r_resp", "r_last")
_AR_OUT = ("ar_valid", "ar_addr", "ar_len", "r_ready")
_AW_IN = ("aw_ready", "w_ready", "b_valid", "b_resp")
_AW_OUT = ("aw_valid", "aw_addr", "w_valid", "w_data", "w_strobe")
_WRITE_IN, _WRITE_OUT = ("in_valid", "in_addr", "in_data", "in_strobe"), ("in_ready", "done")
_BEAT = ("codes", "scale", "minimum", "v_shift", "pow2")


class Channel(Block):
    """What every channel has, so that a channel more is an instance more of the chip's text.

    Parameters
    ----------
    port_bits, lanes, buffer_words, dim_blocks_max, header_words : int
        As for `TapeReader`.
    channels : int
        Channels of the chip.
    retries : int
        As for `ReadArbiter` and `WritePort`.

    Members
    -------
    index : In, constant
        The number of this channel.
    cmd_valid, cmd_kind, cmd_addr, cmd_addr2, cmd_blocks, cmd_dim_blocks : In, cmd_ready : Out(1)
        The tape's commands, see `TapeReader`.
    cfg_we, cfg_addr, cfg_data : In(1), In(4), In(8)
        Writes the codebook of 4-bit codes.
    row_channel : In
        The channel that the row reader reads now.
    row_ar_valid, row_ar_addr, row_ar_len, row_r_ready : In
        The row reader's port, the same for all channels.
    row_ar_ready, row_r_valid : Out(1)
        Answers to it, low in channels that are not read now; the words are `r_data`.
    ar_valid, ar_ready, ar_addr, ar_len, r_valid, r_ready, r_data, r_resp, r_last
        The channel's read port.
    in_valid, in_ready, in_addr, in_data, in_strobe, done
        Writes and their acknowledgement, see `WritePort`.
    aw_valid, aw_ready, aw_addr, w_valid, w_ready, w_data, w_strobe, b_valid, b_resp
        The channel's write port.
    halt : In(1), quiet : Out(1)
        Come to rest and stay so until a reset; nothing is under way.
    failed, failed_write, failed_addr : Out
        A read or a write failed for good; its byte address.
    wanted : In, enough : Out(1)
        Whether at least `wanted` beats are there.
    take : In(1)
        The beat leaves.
    codes : Out(8K), scale, minimum : Out(16 K/32), v_shift : Out(5 K/32), pow2 : Out(1)
        The beat.

    Latency
    -------
    Those of `TapeReader` and `ReadArbiter`.
    """

    belt = False

    def __init__(
        self,
        *,
        port_bits: int,
        lanes: int,
        buffer_words: int,
        dim_blocks_max: int,
        header_words: int,
        channels: int,
        retries: int,
    ) -> None:
        self._arbiter = arbiter = ReadArbiter(port_bits=port_bits, retries=retries)
        self._writes = writes = WritePort(port_bits=port_bits, retries=retries)
        self._reader = reader = TapeReader(
            port_bits=port_bits,
            lanes=lanes,
            buffer_words=buffer_words,
            dim_blocks_max=dim_blocks_max,
            header_words=header_words,
        )
        index_bits = max(1, (channels - 1).bit_length())
        address = len(reader.ar_addr)
        super().__init__(
            {
                "index": In(index_bits),
                "cmd_valid": In(1),
                "cmd_ready": Out(1),
                **{name: In(len(getattr(reader, name))) for name in _COMMAND},
                "cfg_we": In(1),
                "cfg_addr": In(4),
                "cfg_data": In(8),
                "row_channel": In(index_bits),
                "row_ar_valid": In(1),
                "row_ar_ready": Out(1),
                "row_ar_addr": In(address),
                "row_ar_len": In(4),
                "row_r_valid": Out(1),
                "row_r_ready": In(1),
                **{name: In(len(getattr(arbiter, name))) for name in _AR_IN},
                **{name: Out(len(getattr(arbiter, name))) for name in _AR_OUT},
                **{name: In(len(getattr(writes, name))) for name in (*_AW_IN, *_WRITE_IN)},
                **{name: Out(len(getattr(writes, name))) for name in (*_AW_OUT, *_WRITE_OUT)},
                "halt": In(1),
                "quiet": Out(1),
                "failed": Out(1),
                "failed_write": Out(1),
                "failed_addr": Out(address),
                "wanted": In(len(reader.beat_count)),
                "enough": Out(1),
                "take": In(1),
                **{name: Out(len(getattr(reader, name))) for name in _BEAT},
            },
            params=(*reader.params, channels, retries),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        reader, arbiter, writes = self._reader, self._arbiter, self._writes
        m.submodules.tape_reader = instance(reader)
        m.submodules.read_arbiter = instance(arbiter)
        m.submodules.write_port = instance(writes)
        mine = Signal()
        m.d.comb += [
            mine.eq(self.row_channel == self.index),
            reader.cmd_valid.eq(self.cmd_valid),
            self.cmd_ready.eq(reader.cmd_ready),
            reader.beat_take.eq(self.take),
            self.enough.eq(reader.beat_count >= self.wanted),
            # The arbiter's two sides.
            arbiter.tape_ar_valid.eq(reader.ar_valid),
            arbiter.tape_ar_addr.eq(reader.ar_addr),
            arbiter.tape_ar_len.eq(reader.ar_len),
            reader.ar_ready.eq(arbiter.tape_ar_ready),
            reader.r_valid.eq(arbiter.tape_r_valid),
            reader.r_data.eq(arbiter.tape_r_data),
            arbiter.tape_r_ready.eq(reader.r_ready),
            arbiter.row_ar_valid.eq(self.row_ar_valid & mine),
            arbiter.row_ar_addr.eq(self.row_ar_addr),
            arbiter.row_ar_len.eq(self.row_ar_len),
            self.row_ar_ready.eq(arbiter.row_ar_ready & mine),
            self.row_r_valid.eq(arbiter.row_r_valid & mine),
            arbiter.row_r_ready.eq(self.row_r_ready),
        ]
        for name in (*_COMMAND, "cfg_we", "cfg_addr", "cfg_data"):
            m.d.comb += getattr(reader, name).eq(getattr(self, name))
        for name in _BEAT:
            m.d.comb += getattr(self, name).eq(getattr(reader, name))
        for port, inputs, outputs in (
            (arbiter, _AR_IN, _AR_OUT),
            (writes, (*_AW_IN, *_WRITE_IN), (*_AW_OUT, *_WRITE_OUT)),
        ):
            for name in inputs:
                m.d.comb += getattr(port, name).eq(getattr(self, name))
            for name in outputs:
                m.d.comb += getattr(self, name).eq(getattr(port, name))
        m.d.comb += [
            arbiter.halt.eq(self.halt),
            writes.halt.eq(self.halt),
            self.quiet.eq(arbiter.quiet & writes.quiet),
            self.failed.eq(arbiter.failed | writes.failed),
            self.failed_write.eq(~arbiter.failed),
            self.failed_addr.eq(Mux(arbiter.failed, arbiter.failed_addr, writes.failed_addr)),
        ]
        return m
