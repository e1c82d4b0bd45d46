"""A link between two hostile wires, with what has to hold, for a model checker.

The blocks are the real ones, small: 2 words of window and buffer, sequence numbers of 4 bits. In
place of the CRC stands an ideal one (a flag that the wire sets when it changes anything). Memories
are registers, so that their contents can be spoken of; the receive buffer is any FIFO that may be
late (`test_word_buffer_proof.py` proves that the real one is one).

A wire delivers in each cycle nothing, noise, or any of the last `DEEP` frames that were put on it:
so frames are lost, broken, repeated, late, and in any order, as often as it likes.

A word is its own number (modulo 2^6), so "once and in order" is one comparison. Numbers with an
upper-case name count since reset; differences are modulo 2^6 and small.
"""

from unittest import mock

from amaranth.hdl import (
    Array,
    Assert,
    Assume,
    Cat,
    Cover,
    Elaboratable,
    Module,
    Mux,
    ResetSignal,
    Signal,
)
from amaranth.lib import data
from amaranth.lib.wiring import In, Out

from tests.formal.registers import Registers
from tokenloom.hw.ring import link_rx, link_tx
from tokenloom.hw.ring.frame import Kind
from tokenloom.hw.verilog.block import Block

WINDOW, CREDITS, SEQ, DEEP, COUNT = 2, 2, 4, 3, 6


class Ideal(Block):
    """Stands for the CRC: what the wire changed is known to be wrong."""

    belt = False
    CRC_BITS = 1

    def __init__(self, *, bits):
        self.module_name = f"ideal_{bits}"
        super().__init__(
            {"take": In(1), "data": In(bits), "against": In(1), "crc": Out(1)}, params=(bits,)
        )

    def elaborate(self, platform):
        m = Module()
        with m.If(self.take):
            m.d.sync += self.crc.eq(self.against)
        return m


class Blind(Ideal):
    """A check that finds nothing."""

    def elaborate(self, platform):
        return Module()


class LateFifo(Block):
    """Stands for the receive buffer: a FIFO whose words come out when `lag` lets them."""

    belt = False

    def __init__(self, *, bits, depth):
        self.depth = depth
        self.lag = Signal()
        self.level = Signal(range(depth + 1))
        self.rows = [Signal(bits, name=f"held_{i}") for i in range(depth)]
        super().__init__(
            {
                "push": In(1),
                "in_word": In(bits),
                "full": Out(1),
                "out_valid": Out(1),
                "out_word": Out(bits),
                "pop": In(1),
            },
            params=(bits, depth),
        )

    def elaborate(self, platform):
        m = Module()
        left = Signal.like(self.level)
        m.d.comb += [
            self.full.eq(self.level == self.depth),
            self.out_valid.eq(self.level.any() & ~self.lag),
            self.out_word.eq(self.rows[0]),
            left.eq(self.level - self.pop),
        ]
        with m.If(self.pop):
            m.d.sync += [a.eq(b) for a, b in zip(self.rows, self.rows[1:], strict=False)]
        with m.If(self.push):
            for i, row in enumerate(self.rows):
                with m.If(left == i):
                    m.d.sync += row.eq(self.in_word)
        m.d.sync += self.level.eq(left + self.push)
        return m


class Wire:
    """The last `DEEP` things put on a wire, and the adversary's choice of what comes out."""

    def __init__(self, name, fields):
        self.valid = [Signal(name=f"{name}_valid_{i}") for i in range(DEEP)]
        self.held = [
            {key: Signal(shape, name=f"{name}_{key}_{i}") for key, shape in fields.items()}
            for i in range(DEEP)
        ]
        self.ready, self.deliver, self.broken = (
            Signal(name=f"{name}_{what}") for what in ("ready", "deliver", "broken")
        )
        self.which = Signal(range(DEEP), name=f"{name}_which")
        self.noise = Signal(fields["frame"], name=f"{name}_noise")
        self.inputs = [self.ready, self.deliver, self.broken, self.which, self.noise]

    def put(self, m, when, **values):
        with m.If(when):
            m.d.sync += self.valid[0].eq(1)
            m.d.sync += [self.held[0][key].eq(value) for key, value in values.items()]
            for i in range(1, DEEP):
                m.d.sync += self.valid[i].eq(self.valid[i - 1])
                m.d.sync += [self.held[i][key].eq(self.held[i - 1][key]) for key in values]

    def out(self, key):
        return Array([held[key] for held in self.held])[self.which]

    def comes(self):
        return self.deliver & (self.broken | Array(self.valid)[self.which])

    def frame(self):
        """Payload and the ideal CRC."""
        return Cat(Mux(self.broken, self.noise, self.out("frame")), self.broken)


class LinkProof(Elaboratable):
    """The two ends, the wires, and what has to hold.

    Parameters
    ----------
    check : type
        Stands for the CRC.
    """

    def __init__(self, check=Ideal):
        common = {"word_bits": COUNT, "tag_bits": 1, "seq_bits": SEQ, "check": check}
        self.tx = link_tx.LinkTx(window=WINDOW, credits=CREDITS, timeout=4, retries=7, idle=2,
                                 patience=64, **common)  # fmt: skip
        self.rx = link_rx.LinkRx(credits=CREDITS, patience=64, **common)
        self.data = Wire("data", {"frame": len(self.tx.out_frame) - 1})
        self.back = Wire(
            "back", {"frame": len(self.rx.status_frame) - 1, "ack": COUNT, "freed": COUNT}
        )
        self.offer, self.take, self.lag, self.watch = (
            Signal(name=n) for n in ("offer", "take", "lag", "watch")
        )
        self.ports = [
            self.offer, self.take, self.lag, self.watch, *self.data.inputs, *self.back.inputs
        ]  # fmt: skip

    def elaborate(self, platform):
        m = Module()
        tx, rx, wire, back = self.tx, self.rx, self.data, self.back
        with mock.patch.object(link_tx, "Memory", Registers):
            m.submodules.tx = tx.elaborate(None)
        with mock.patch.object(link_rx, "WordBuffer", LateFifo):
            m.submodules.rx = rx.elaborate(None)
        t, r = tx.inside, rx.inside
        m.d.comb += [Assume(~ResetSignal()), r.buffer.lag.eq(self.lag)]
        for one in (wire, back):
            m.d.comb += Assume(one.which < DEEP)

        # Counts: words taken, acknowledged, known to be freed; arrived, handed on.
        N, B, K, E, F = (Signal(COUNT, name=n) for n in "NBKEF")
        m.d.comb += [
            tx.in_valid.eq(self.offer),
            tx.in_word.eq(N),
            tx.out_ready.eq(wire.ready),
            rx.in_valid.eq(wire.comes()),
            rx.in_frame.eq(wire.frame()),
            rx.out_ready.eq(self.take),
            rx.watch.eq(self.watch),
            rx.status_ready.eq(back.ready),
            tx.status_valid.eq(back.comes()),
            tx.status_frame.eq(back.frame()),
        ]
        m.d.sync += [
            N.eq(N + t.take),
            B.eq(B + Mux(t.moved, t.arrived, 0)),
            K.eq(K + Mux(t.heard & tx.up & (t.gone <= t.used), t.gone, 0)),
            E.eq(E + r.accept),
            F.eq(F + r.buffer.pop),
        ]
        wire.put(m, tx.out_valid & wire.ready, frame=t.shown)
        # What the status frames say, in full: in the register, on the wire, at the sender.
        ack, freed, said_ack, said_freed = (
            Signal(COUNT, name=n) for n in ("ack", "freed", "said_ack", "said_freed")
        )
        with m.If(r.turn):
            m.d.sync += [ack.eq(E), freed.eq(F)]
        back.put(m, rx.status_valid & back.ready, frame=r.shown, ack=ack, freed=freed)
        m.d.sync += [said_ack.eq(back.out("ack")), said_freed.eq(back.out("freed"))]

        def upto(low, high, most):
            """Low <= high <= low + most."""
            return (high - low)[:COUNT] <= most

        # Flow control and replay, as a user sees them.
        with m.If(rx.out_valid):
            m.d.comb += Assert(rx.out_word == F)
            m.d.comb += Assert(E != F)
        m.d.comb += [
            Assert(~(r.arrives & r.buffer.full)),
            Assert(upto(F, E, CREDITS) & upto(E, N, WINDOW)),
        ]
        self._steps(m, upto, (N, B, K, E, F), (ack, freed, said_ack, said_freed))
        again = Signal()
        with m.If(tx.again):
            m.d.sync += again.eq(1)
        m.d.comb += Cover((F == 2) & again & ~tx.dead)
        return m

    def _steps(self, m, upto, counts, said):
        (N, B, K, E, F), (ack, freed, said_ack, said_freed) = counts, said
        t, r, rows = self.tx.inside, self.rx.inside, self.rx.inside.buffer.rows
        m.d.comb += [
            Assert((t.next == N[:SEQ]) & (t.base == B[:SEQ]) & (t.freed == K[:SEQ])),
            Assert((r.expected == E[:SEQ]) & (r.freed == F[:SEQ])),
            Assert(upto(B, E, WINDOW) & upto(B, N, WINDOW) & upto(K, F, CREDITS)),
            Assert(upto(K, N, CREDITS) & ((E - B)[:COUNT] <= (N - B)[:COUNT])),
            Assert(upto(F, N, CREDITS)),
            Assert((t.send - t.base)[:SEQ] <= (t.next - t.base)[:SEQ]),
            Assert(r.buffer.level == (E - F)[:COUNT]),
        ]
        for i in range(WINDOW):
            with m.If((N - B)[:COUNT] > i):
                m.d.comb += Assert(t.replay.rows[(B + i)[:1]][1:] == (B + i)[:COUNT])
        for i, row in enumerate(rows):
            with m.If(r.buffer.level > i):
                m.d.comb += Assert(row[1:] == (F + i)[:COUNT])

        def word(valid, frame, behind):
            """A data frame with `behind` newer ones behind it."""
            with m.If(valid & (frame.kind == Kind.DATA)):
                age = (N - frame.word)[:COUNT]
                m.d.comb += Assert((age >= 1) & (age <= WINDOW + behind))
                m.d.comb += Assert(frame.seq == frame.word[:SEQ])

        layout, newer = t.frame.shape(), t.full + self.tx.out_valid
        word(t.full, t.frame, 0)
        word(self.tx.out_valid, t.shown, t.full)
        for i, (valid, held) in enumerate(zip(self.data.valid, self.data.held, strict=True)):
            word(valid, data.View(layout, held["frame"]), newer + i)
            if i:
                m.d.comb += Assert(~valid | self.data.valid[i - 1])
        word(r.good, r.frame, DEEP + 3)

        # Status frames: each says no less than the older ones, and not much more.
        status = r.shown.shape()
        stations = [(r.shown, ack, freed)]
        stations += [
            (data.View(status, held["frame"]), held["ack"], held["freed"])
            for held in self.back.held
        ]
        m.d.comb += Assert(upto(ack, E, WINDOW) & upto(freed, F, CREDITS))
        for newer_one, older in zip(stations, stations[1:], strict=False):
            m.d.comb += Assert(upto(older[1], newer_one[1], WINDOW))
            m.d.comb += Assert(upto(older[2], newer_one[2], CREDITS))
        for frame, its_ack, its_freed in stations:
            m.d.comb += Assert((frame.ack == its_ack[:SEQ]) & (frame.freed == its_freed[:SEQ]))
        latest = self.back.held[0]
        m.d.comb += [
            Assert(upto(B, latest["ack"], WINDOW) & upto(K, latest["freed"], CREDITS)),
        ]
        with m.If(t.heard):
            m.d.comb += [
                Assert((t.said_ack == said_ack[:SEQ]) & (t.said_freed == said_freed[:SEQ])),
                Assert(upto(said_ack, latest["ack"], DEEP * WINDOW)),
                Assert(upto(said_freed, latest["freed"], DEEP * CREDITS)),
            ]
