"""Logit rules: repetition penalty, bias and mask, before a token is chosen."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.arith import or_tree, round_shift, sat32
from tokenloom.hw.sampler.noise import SAMPLING
from tokenloom.hw.sampler.settings import (
    BIASES_MAX,
    FACTOR_BITS,
    FACTOR_FRAC,
    FACTOR_ONE,
    FIELDS,
    WINDOW_MAX,
)
from tokenloom.hw.verilog.block import Block

__all__ = ["LogitRules"]


class LogitRules(Block):
    """`sat32(rs(logit factor, 14) + bias)`, docs/numbers.md, point 17; ids come in order.

    The table of biases is sorted by id, so one comparator follows the stream through it.

    Parameters
    ----------
    vocab_bits : int

    Members
    -------
    restart : In(1)
        Strobe: a row begins; `sampling`, `recent` and `recent_count` are stable while its logits
        pass.
    sampling : In
        `SAMPLING`.
    recent : In(WINDOW_MAX * vocab_bits), recent_count : In(7)
        The latest tokens, the last one lowest, and how many of them count.
    bias_we, bias_addr, bias_id, bias_value : In
        Writes the table, between rows: the first `sampling.biases` entries count, ids ascending.
    in_valid, in_logit, in_start, in_last : In
        As of `Sampler`.
    in_masked : In(1)
        With a logit: with `sampling.masked` its id is out.
    out_valid : Out(1)
        The other outputs hold a logit.
    out_logit : Out(signed(32)), out_id : Out(vocab_bits), out_start, out_last : Out(1)
    out_masked : Out(1)
        The id is out.

    Latency
    -------
    `LATENCY` = 6 belt cycles.

    Duration
    --------
    One logit per cycle.
    """

    LATENCY = 6

    def __init__(self, *, vocab_bits: int) -> None:
        self._vocab_bits = vocab_bits
        super().__init__(
            {
                "restart": In(1),
                "sampling": In(SAMPLING.size),
                "recent": In(WINDOW_MAX * vocab_bits),
                "recent_count": In(FIELDS["window"]),
                "bias_we": In(1),
                "bias_addr": In((BIASES_MAX - 1).bit_length()),
                "bias_id": In(vocab_bits),
                "bias_value": In(signed(32)),
                "in_valid": In(1),
                "in_logit": In(signed(32)),
                "in_start": In(1),
                "in_last": In(1),
                "in_masked": In(1),
                "out_valid": Out(1),
                "out_logit": Out(signed(32)),
                "out_id": Out(vocab_bits),
                "out_start": Out(1),
                "out_last": Out(1),
                "out_masked": Out(1),
            },
            params=(vocab_bits,),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self._vocab_bits
        sampling = data.View(SAMPLING, self.sampling)

        # What goes along: the flags and the id, stage by stage.
        valid = [self.in_valid, *(Signal(name=f"valid{i}") for i in range(1, self.LATENCY + 1))]
        index = Signal(bits)
        along: list[list[Signal]] = []
        masked = Signal()
        m.d.comb += masked.eq(self.in_masked & sampling.masked)
        for i in range(1, self.LATENCY + 1):
            held = [
                Signal(width, name=f"{name}{i}", reset_less=True)
                for name, width in (("id", bits), ("start", 1), ("last", 1), ("masked", 1))
            ]
            before = along[-1] if along else [index, self.in_start, self.in_last, masked]
            m.d.sync += valid[i].eq(valid[i - 1])
            with m.If(valid[i - 1]):
                m.d.sync += [h.eq(b) for h, b in zip(held, before, strict=True)]
            along.append(held)
        id1 = along[0][0]
        m.d.comb += index.eq(Mux(self.in_start, 0, id1 + 1))

        def value(name: str, width: int = 32) -> Signal:
            return Signal(signed(width), name=name, reset_less=True)

        # Stage 1: is the id in the window, has it a bias?
        logit1, logit2 = value("logit1"), value("logit2")
        repeated2 = Signal(reset_less=True)
        bias2 = value("bias2")
        hits = [
            (self.recent.word_select(i, bits) == id1) & (self.recent_count > i)
            for i in range(WINDOW_MAX)
        ]
        m.submodules.biases = memory = Memory(shape=bits + 32, depth=BIASES_MAX, init=[])
        write, read = memory.write_port(), memory.read_port()
        at, after = Signal(FIELDS["biases"]), Signal(FIELDS["biases"])
        biased = Signal()
        m.d.comb += [
            write.en.eq(self.bias_we),
            write.addr.eq(self.bias_addr),
            write.data.eq(Cat(self.bias_id, self.bias_value)),
            biased.eq(valid[1] & (at < sampling.biases) & (read.data[:bits] == id1)),
            after.eq(Mux(self.restart, 0, at + biased)),
            read.addr.eq(after[: len(read.addr)]),
        ]
        m.d.sync += at.eq(after)
        with m.If(self.in_valid):
            m.d.sync += logit1.eq(self.in_logit)
        with m.If(valid[1]):
            m.d.sync += [
                logit2.eq(logit1),
                repeated2.eq(or_tree(hits)),
                bias2.eq(Mux(biased, read.data[bits:].as_signed(), 0)),
            ]

        # Stages 2 to 5: factor, product, sum, clamp.
        logit3, bias3, bias4 = value("logit3"), value("bias3"), value("bias4")
        factor3 = Signal(FACTOR_BITS, reset_less=True)
        product4 = value("product4", 32 + FACTOR_BITS)
        sum5 = value("sum5", 32 + FACTOR_BITS - FACTOR_FRAC + 1)
        with m.If(valid[2]):
            m.d.sync += [
                logit3.eq(logit2),
                bias3.eq(bias2),
                factor3.eq(Mux(repeated2, Mux(logit2 < 0, sampling.up, sampling.down), FACTOR_ONE)),
            ]
        with m.If(valid[3]):
            m.d.sync += [product4.eq(logit3 * factor3), bias4.eq(bias3)]
        with m.If(valid[4]):
            m.d.sync += sum5.eq(round_shift(product4, FACTOR_FRAC) + bias4)
        with m.If(valid[5]):
            m.d.sync += self.out_logit.eq(sat32(sum5)[0])
        m.d.comb += [
            self.out_valid.eq(valid[-1]),
            Cat(self.out_id, self.out_start, self.out_last, self.out_masked).eq(Cat(*along[-1])),
        ]
        return m
