"""One channel's part of the KV writer."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.words import pick
from tokenloom.hw.verilog.block import Block

__all__ = ["KvLane"]


class KvLane(Block):
    """Holds the channel's write until it is taken, and counts writes until they are acknowledged.

    Parameters
    ----------
    columns : int
        Channels C.
    port_bits : int
        Bits of a memory word.
    token_bits : int
        Bits of `home`.
    steps_max : int
        Most steps of a group of writes.

    Members
    -------
    index : In, constant
        The number of this channel.
    issue : In(1)
        A step starts; `busy` was low in all channels.
    shifting, is_v, home, offset, dims_left, codes, shift : In
        The block under way, see `KvWriter`: `home` is the channel of its token, `offset` the
        step's first dim less the block's, `codes` its 32 int8 codes.
    byte_write, wide : In(1), In(256)
        The step issued last: whether it writes one byte, else its 32 bytes.
    swap : In(1)
        The group of writes being counted closes.
    w_valid, w_ready, w_data, b_valid
        The channel's write port.
    busy : Out(1)
        The write is not taken in this cycle.
    old_any, new_any : Out(1)
        Writes of the closed group, and of the next one, without acknowledgement.
    """

    belt = False

    def __init__(self, *, columns: int, port_bits: int, token_bits: int, steps_max: int) -> None:
        self._port_bits, self._steps_max = port_bits, steps_max
        super().__init__(
            {
                "index": In(max(1, (columns - 1).bit_length())),
                "issue": In(1),
                "shifting": In(1),
                "is_v": In(1),
                "home": In(token_bits),
                "offset": In(signed(10)),
                "dims_left": In(signed(11)),
                "codes": In(256),
                "shift": In(5),
                "byte_write": In(1),
                "wide": In(256),
                "swap": In(1),
                "w_valid": Out(1),
                "w_ready": In(1),
                "w_data": Out(port_bits),
                "b_valid": In(1),
                "busy": Out(1),
                "old_any": Out(1),
                "new_any": Out(1),
            },
            params=(columns, port_bits, token_bits, steps_max),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        word = self._port_bits // 8

        # Whether this step writes here, and which byte.
        at = Signal(signed(11))
        mine, byte = Signal(), Signal(8)
        m.d.comb += [
            at.eq(self.offset + self.index),
            mine.eq(
                Mux(
                    self.shifting | ~self.is_v,
                    self.home == self.index,
                    ~at[5:].any() & (at < self.dims_left),
                )
            ),
            self.busy.eq(self.w_valid & ~self.w_ready),
            self.w_data.eq(
                Mux(self.byte_write, byte.replicate(word), self.wide.replicate(word // 32))
            ),
        ]
        code = pick(m, self.codes, at[:5], 8, 32)
        with m.If(self.issue):
            m.d.sync += self.w_valid.eq(mine)
            with m.If(self.shifting | self.is_v):
                m.d.sync += byte.eq(Mux(self.shifting, self.shift, code))
        with m.Else():
            m.d.sync += self.w_valid.eq(self.busy)

        # Writes of the closed group, and those issued since.
        closed, recent = Signal(range(self._steps_max + 1)), Signal(range(self._steps_max + 1))
        added = Signal()
        m.d.comb += [
            self.old_any.eq(closed.any()),
            self.new_any.eq(recent.any()),
            added.eq(self.issue & mine),
        ]
        with m.If(self.swap):
            m.d.sync += [closed.eq(recent - self.b_valid), recent.eq(0)]
        with m.Elif(self.old_any):
            m.d.sync += [closed.eq(closed - self.b_valid), recent.eq(recent + added)]
        with m.Else():
            m.d.sync += recent.eq(recent + added - self.b_valid)
        return m
