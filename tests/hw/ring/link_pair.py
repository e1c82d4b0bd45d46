"""Both ends of a link with a hostile wire between them, as one block for the tests."""

from amaranth.hdl import Cat, Module, Mux, ResetSignal, Signal
from amaranth.lib.wiring import In, Out

from tokenloom.hw.ring.frame import SESSION_BITS, WORD_BITS
from tokenloom.hw.ring.link_rx import LinkRx
from tokenloom.hw.ring.link_tx import LinkTx
from tokenloom.hw.verilog.block import Block, instance
from tokenloom.sim.link_model import FAULTS, LinkModel

WIRE = {"latency": 8, "pace_num": 8, "pace_den": 8, **{f"rate_{name}": 16 for name in FAULTS}}


class LinkPair(Block):
    """`in_` words go through LinkTx, two LinkModels and LinkRx and come out at `out_`.

    `restart` resets both ends, and not the wires.

    The wires wait for a frame before they are ready, and carry noise between frames. `changed` is
    high from the cycle on after one in which a frame that waited changed or went.
    """

    belt = False

    def __init__(self, *, window, credits, patience, timeout, retries, word_bits=WORD_BITS):
        self.tx = LinkTx(word_bits=word_bits, window=window, credits=credits, timeout=timeout,
                         retries=retries, patience=patience)  # fmt: skip
        self.rx = LinkRx(word_bits=word_bits, credits=credits, patience=patience)
        tx, rx = self.tx, self.rx
        super().__init__(
            {
                **{name: In(bits) for name, bits in WIRE.items()},
                "cut_data": In(1),
                "cut_status": In(1),
                "session": In(SESSION_BITS),
                "restart": In(1),
                "watch": In(1),
                "stop": In(1),
                "in_valid": In(1),
                "in_ready": Out(1),
                "in_word": In(len(tx.in_word)),
                "in_tag": In(len(tx.in_tag)),
                "out_valid": Out(1),
                "out_ready": In(1),
                "out_word": Out(len(rx.out_word)),
                "out_tag": Out(len(rx.out_tag)),
                "again": Out(1),
                "changed": Out(1),
                "up": Out(1),
                "tx_dead": Out(1),
                "rx_dead": Out(1),
                **{f"count_{name}": Out(32) for name in FAULTS},
            },
            params=(window, credits, patience, timeout, retries, word_bits),
        )

    def elaborate(self, platform):
        m = Module()
        again = ResetSignal() | self.restart
        m.submodules.tx = instance(tx := self.tx, reset=again)
        m.submodules.rx = instance(rx := self.rx, reset=again)
        m.submodules.data = instance(data := LinkModel(bits=len(tx.out_frame)))
        m.submodules.back = instance(back := LinkModel(bits=len(rx.status_frame)))
        for wire, seed in ((data, 0x1234567), (back, 0x7654321)):
            m.d.comb += [getattr(wire, name).eq(getattr(self, name)) for name in WIRE]
            m.d.comb += wire.seed.eq(seed)
        count = Signal(16)
        m.d.sync += count.eq(count + 0x2F35)

        def noise(bits):
            return Cat(count for _ in range(-(-bits // 16)))[:bits]

        m.d.comb += [
            tx.in_valid.eq(self.in_valid),
            self.in_ready.eq(tx.in_ready),
            tx.in_word.eq(self.in_word),
            tx.in_tag.eq(self.in_tag),
            tx.session.eq(self.session),
            rx.session.eq(self.session),
            tx.stop.eq(self.stop),
            self.again.eq(tx.again),
            self.up.eq(tx.up),
            self.tx_dead.eq(tx.dead),
            data.cut.eq(self.cut_data),
            data.in_valid.eq(tx.out_valid),
            data.in_frame.eq(tx.out_frame),
            tx.out_ready.eq(data.in_ready & tx.out_valid),
            rx.in_valid.eq(data.out_valid),
            rx.in_frame.eq(Mux(data.out_valid, data.out_frame, noise(len(rx.in_frame)))),
            self.out_valid.eq(rx.out_valid),
            rx.out_ready.eq(self.out_ready),
            self.out_word.eq(rx.out_word),
            self.out_tag.eq(rx.out_tag),
            rx.watch.eq(self.watch),
            rx.stop.eq(self.stop),
            self.rx_dead.eq(rx.dead),
            back.cut.eq(self.cut_status),
            back.in_valid.eq(rx.status_valid),
            back.in_frame.eq(rx.status_frame),
            rx.status_ready.eq(back.in_ready & rx.status_valid),
            tx.status_valid.eq(back.out_valid),
            tx.status_frame.eq(Mux(back.out_valid, back.out_frame, noise(len(tx.status_frame)))),
        ]
        for valid, ready, frame in (
            (tx.out_valid, tx.out_ready, tx.out_frame),
            (rx.status_valid, rx.status_ready, rx.status_frame),
        ):
            waited, before = Signal(), Signal.like(frame)
            m.d.sync += [waited.eq(valid & ~ready & ~self.restart), before.eq(frame)]
            with m.If(waited & (~valid | (frame != before))):
                m.d.sync += self.changed.eq(1)
        for name in FAULTS:
            total = getattr(self, f"count_{name}")
            m.d.comb += total.eq(getattr(data, f"count_{name}") + getattr(back, f"count_{name}"))
        return m
