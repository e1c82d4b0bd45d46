"""Noise: temperature times a Gumbel variable for every id, made ahead of the logits."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.arith import bit_length, round_shift
from tokenloom.hw.numbers.tables import GUMBEL_OFFSET_BITS, GUMBEL_SEGMENT_BITS, gumbel_segments
from tokenloom.hw.sampler.sampling import NOISE_LEFT, NOISE_MANTISSA_BITS
from tokenloom.hw.sampler.settings import FIELDS
from tokenloom.hw.sampler.threefry import Threefry
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["NOISE_BITS", "SAMPLING", "Noise"]

SAMPLING = data.StructLayout(dict(FIELDS))
"""`settings.Settings` as the hardware sees it."""
_START_BITS, _RISE_BITS = 22, 14  # of a table entry, 36 bits together
_SEGMENT = data.StructLayout({"start": signed(_START_BITS), "rise": signed(_RISE_BITS)})
NOISE_BITS = _START_BITS + NOISE_MANTISSA_BITS + NOISE_LEFT


class Noise(Block):
    """T g(seed, position, id) for id = 0, 1, ...: docs/numbers.md, point 16.

    The noise does not depend on the logits, so the block fills itself before they come and the
    sampler waits for none of it.

    Parameters
    ----------
    vocab_bits : int
    jumps : bool
        With the ports `jump` and `jump_id`.

    Members
    -------
    restart : In(1)
        Strobe: the next noise is that of id 0; `sampling` and `position` are stable from here on.
    sampling : In
        `SAMPLING`; with mantissa 0 the noise is 0 and the block rests.
    position : In(20)
    take : In(1)
        The noise shown was used. Not in the `LEAD` cycles after `restart`.
    jump : In(1)
        Moves on like `take` (not with it), and takes in `jump_id` instead of the next id: its noise
        is shown when `LEAD` - 1 further ids have been taken in.
    jump_id : In(vocab_bits)
    value : Out(signed(54))
        `GUARD_BITS` more fraction bits than the logits.

    Latency
    -------
    `LEAD` = 24 belt cycles after `restart` the first noise is made, then one per cycle.
    """

    LEAD = Threefry.LATENCY + 8

    def __init__(self, *, vocab_bits: int, jumps: bool = False) -> None:
        self._vocab_bits, self._jumps = vocab_bits, jumps
        super().__init__(
            {
                "restart": In(1),
                "sampling": In(SAMPLING.size),
                "position": In(20),
                "take": In(1),
                **({"jump": In(1), "jump_id": In(vocab_bits)} if jumps else {}),
                "value": Out(signed(NOISE_BITS)),
            },
            params=(vocab_bits, jumps),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sampling = data.View(SAMPLING, self.sampling)
        left = Signal(range(self.LEAD + 1))
        index = Signal(self._vocab_bits, reset_less=True)
        active, step = Signal(), Signal()
        counter = Signal(self._vocab_bits)
        moves = (left != 0) | self.take
        m.d.comb += [
            active.eq(sampling.mantissa != 0),
            step.eq(active & (moves | self.jump if self._jumps else moves)),
            counter.eq(Mux(self.jump, self.jump_id, index) if self._jumps else index),
        ]
        with m.If(self.restart):
            m.d.sync += [left.eq(self.LEAD), index.eq(0)]
        with m.Elif(step):
            m.d.sync += [left.eq(left - (left != 0)), index.eq(index + 1)]

        threefry = Threefry()
        m.submodules.threefry = instance(threefry, en=self.en)
        m.d.comb += [
            threefry.step.eq(step),
            threefry.seed.eq(sampling.seed),
            threefry.in_low.eq(counter),
            threefry.in_high.eq(self.position),
        ]

        def stage(width: int, name: str) -> Signal:
            return Signal(width, name=name, reset_less=True)

        # The distance from the nearer end of 0..1, its octave, and the place in the octave.
        word = threefry.word
        distance1, distance2 = stage(32, "distance1"), stage(32, "distance2")
        octave2, octave3 = stage(5, "octave2"), stage(5, "octave3")
        upper1, upper2, upper3 = (stage(1, f"upper{i}") for i in (1, 2, 3))
        below = 31 - GUMBEL_SEGMENT_BITS
        place3 = stage(GUMBEL_SEGMENT_BITS + GUMBEL_OFFSET_BITS, "place3")
        offset4 = stage(GUMBEL_OFFSET_BITS, "offset4")
        normal = Signal(32)
        m.d.comb += normal.eq(distance2 << octave2)
        with m.If(step):
            m.d.sync += [
                distance1.eq(Cat(Const(1, 1), Mux(word[31], ~word[:31], word[:31]))),
                upper1.eq(word[31]),
                distance2.eq(distance1),
                octave2.eq(32 - bit_length(distance1)),
                upper2.eq(upper1),
                place3.eq(normal[below - GUMBEL_OFFSET_BITS : 31]),
                octave3.eq(octave2),
                upper3.eq(upper2),
                offset4.eq(place3[:GUMBEL_OFFSET_BITS]),
            ]
        entries = [
            (start & (1 << _START_BITS) - 1) | (rise & (1 << _RISE_BITS) - 1) << _START_BITS
            for start, rise in gumbel_segments()
        ]
        m.submodules.table = memory = Memory(shape=_SEGMENT.size, depth=len(entries), init=entries)
        port = memory.read_port()
        m.d.comb += [
            port.en.eq(step),
            port.addr.eq(Cat(place3[GUMBEL_OFFSET_BITS:], octave3, upper3)),
        ]

        # A line, then the temperature.
        segment = data.View(_SEGMENT, port.data)
        start5 = Signal(signed(_START_BITS), reset_less=True)
        grown5 = Signal(signed(_RISE_BITS + GUMBEL_OFFSET_BITS), reset_less=True)
        gumbel6 = Signal(signed(_START_BITS), reset_less=True)
        scaled7 = Signal(signed(_START_BITS + NOISE_MANTISSA_BITS), reset_less=True)
        noise8 = Signal(signed(NOISE_BITS), reset_less=True)
        wide = Signal(signed(NOISE_BITS))
        m.d.comb += wide.eq(scaled7 << NOISE_LEFT)
        with m.If(step):
            m.d.sync += [
                start5.eq(segment.start),
                grown5.eq(segment.rise * offset4),
                gumbel6.eq(start5 + round_shift(grown5, GUMBEL_OFFSET_BITS)),
                scaled7.eq(gumbel6 * sampling.mantissa),
                noise8.eq(round_shift(wide, sampling.shift)),
            ]
        # Without temperature the pipeline holds what another request left.
        m.d.comb += self.value.eq(Mux(active, noise8, 0))
        return m
