"""A link between two chips as it really is: late, slow, and wrong now and then."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.verilog.block import Block

__all__ = ["FAULTS", "LinkModel"]

FAULTS = ("flip", "drop", "twice", "swap", "burst")
"""A bit is inverted; the frame is lost; it comes twice; it comes after the next one; it and up to
15 frames after it are noise."""


class LinkModel(Block):
    """One direction of a link, for simulation; not part of a chip.

    Parameters
    ----------
    bits : int
        Width of a frame.

    Members
    -------
    latency : In(8)
        Cycles from a frame taken to the same frame at the other end, 2 or more.
    pace_num, pace_den : In(8)
        Frames per cycle, pace_num / pace_den, at most 1.
    rate_flip, rate_drop, ... : In(16)
        How many of 65,536 frames suffer each of `FAULTS`.
    seed : In(64)
        Of the random numbers, read after reset; not 0.
    cut : In(1)
        The cable is out: nothing arrives.
    in_valid, in_ready, in_frame : In(1), Out(1), In(bits)
    out_valid, out_frame : Out(1), Out(bits)
    count_flip, count_drop, ... : Out(32)
        Frames that suffered. A burst counts every frame in it.

    Raises
    ------
    ValueError
        When `bits` is not positive.
    """

    belt = False

    def __init__(self, *, bits: int) -> None:
        if bits < 1:
            raise ValueError(f"bits has to be positive, not {bits!r}")
        self._bits = bits
        self.module_name = f"link_model_{bits}"
        super().__init__(
            {
                "latency": In(8),
                "pace_num": In(8),
                "pace_den": In(8),
                **{f"rate_{name}": In(16) for name in FAULTS},
                "seed": In(64),
                "cut": In(1),
                "in_valid": In(1),
                "in_ready": Out(1),
                "in_frame": In(bits),
                "out_valid": Out(1),
                "out_frame": Out(bits),
                **{f"count_{name}": Out(32) for name in FAULTS},
            },
            params=(bits,),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self._bits

        # Marsaglia's xorshift64, a step per cycle.
        state, started = Signal(64), Signal()
        now = Signal(64)
        one, two, three = Signal(64), Signal(64), Signal(64)
        m.d.comb += [
            now.eq(Mux(started, state, self.seed)),
            one.eq(now ^ (now << 13)[:64]),
            two.eq(one ^ (one >> 7)),
            three.eq(two ^ (two << 17)[:64]),
        ]
        m.d.sync += [state.eq(three), started.eq(1)]

        # A slot per frame time; a frame that is repeated or comes late takes one of its own.
        pace, slot = Signal(9), Signal()
        waiting, kept = Signal(), Signal(bits)
        take, swapped = Signal(), Signal()
        m.d.comb += [
            slot.eq(pace + self.pace_num >= self.pace_den),
            self.in_ready.eq(slot & ~waiting),
            take.eq(self.in_valid & self.in_ready),
        ]
        # A wire that waits for a frame is ready when one comes.
        with m.If(~slot):
            m.d.sync += pace.eq(pace + self.pace_num)
        with m.Elif(waiting | take):
            m.d.sync += pace.eq(pace + self.pace_num - self.pace_den)

        # What happens to it.
        dice, bound, below = now[:16], Const(0, 1), Const(0, 1)
        hit = {}
        left = Signal(4)
        for name in FAULTS:
            bound = bound + getattr(self, f"rate_{name}")
            hit[name] = Signal(name=f"hit_{name}")
            m.d.comb += hit[name].eq(take & ~left.any() & (dice < bound) & ~below)
            below = dice < bound
        noisy = Signal()
        m.d.comb += noisy.eq(take & (hit["burst"] | left.any()))
        with m.If(hit["burst"]):
            m.d.sync += left.eq(now[16:20])
        with m.Elif(take & left.any()):
            m.d.sync += left.eq(left - 1)
        noise = Cat(*[now] * -(-bits // 64))[:bits]
        place = Signal(range(bits))
        m.d.comb += place.eq(now[20:36] % bits)
        sent, frame = Signal(), Signal(bits)
        m.d.comb += [
            sent.eq(take & ~hit["drop"] & ~(hit["swap"] & ~swapped)),
            frame.eq(self.in_frame ^ (hit["flip"] << place)),
        ]
        with m.If(noisy):
            m.d.comb += frame.eq(self.in_frame ^ (noise | 1))
        with m.If(slot & waiting):
            m.d.comb += [sent.eq(1), frame.eq(kept)]
        # A repeated frame comes again in the next slot, a late one behind the next frame.
        with m.If(hit["twice"]):
            m.d.sync += [waiting.eq(1), kept.eq(self.in_frame)]
        with m.Elif(hit["swap"] & ~swapped):
            m.d.sync += [swapped.eq(1), kept.eq(self.in_frame)]
        with m.Elif(take & swapped):
            m.d.sync += [waiting.eq(1), swapped.eq(0)]
        with m.Elif(slot & waiting):
            m.d.sync += waiting.eq(0)

        # The wire.
        m.submodules.wire = wire = Memory(shape=bits + 1, depth=256, init=[])
        write, read = wire.write_port(), wire.read_port()
        place_in, age = Signal(8), Signal(8)
        m.d.sync += [place_in.eq(place_in + 1), age.eq(Mux(age == 255, 255, age + 1))]
        m.d.comb += [
            write.en.eq(1),
            write.addr.eq(place_in),
            write.data.eq(Cat(sent & ~self.cut, frame)),
            read.en.eq(1),
            read.addr.eq((place_in - self.latency + 1)[:8]),
            self.out_valid.eq(read.data[0] & (age >= self.latency) & ~self.cut),
            self.out_frame.eq(read.data[1:]),
        ]
        for name in FAULTS:
            count = getattr(self, f"count_{name}")
            m.d.sync += count.eq(count + (noisy if name == "burst" else hit[name]))
        return m
