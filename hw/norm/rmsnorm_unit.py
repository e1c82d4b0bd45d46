"""RMSNorm on its own: vectors in, normalised blocks out, built of the chip's units."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib.wiring import In, Out

from tokenloom.hw.array.quantiser import Quantiser
from tokenloom.hw.norm.residual import Residual
from tokenloom.hw.norm.rmsnorm import RmsNorm
from tokenloom.hw.numbers.formats import ACTIVATION_BITS, BLOCK, EPS_BITS, GAIN_BITS, SUM_BITS
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["RmsNormUnit"]

_BANKS = 2


class RmsNormUnit(Block):
    """Two `Residual` memories, one filled while `RmsNorm` scans the other, and a `Quantiser`.

    The squares accumulate while a vector is written, so its norm is one scan. In a cycle in which a
    block waits for `out_ready` everything inside stands still.

    Parameters
    ----------
    width : int
        Largest number of values, 1 or more.
    norm_lanes : int
        Values per cycle: 2, 4, 8, 16 or 32.
    layer_norm : bool
        LayerNorm instead of RMSNorm (docs/numbers.md, point 21).
    quantise : bool
        Blocks of codes with shift and sum (point 7) instead of fixed32 values.

    Members
    -------
    words : In(range(words_max + 1))
        Words of a vector: ⌈D/32⌉·32/norm_lanes, whole blocks.
    eps : In(64)
        `eps_int`, 1 or more.
    floor : In(5)
        The quantiser's floor (with `quantise`).
    count : In(range(width + 1))
        D (with `layer_norm`). All four rest while a vector is under way.
    in_valid, in_ready, in_values : In(1), Out(1), In(32 * norm_lanes)
        A word of a vector, value i in bits 32i..32i+31; values beyond D are 0.
    out_valid, out_ready : Out(1), In(1)
        A block of 32 values leaves when both are high.
    out_last : Out(1)
        The vector's last block.
    out_values : Out(1024)
        32 values, value i in bits 32i..32i+31 (without `quantise`).
    out_codes, out_sx, out_sum : Out(288), Out(6), Out(signed(14))
        As `Quantiser` gives them (with `quantise`).
    out_saturated : Out(1)
        A value of the block was clamped (without `quantise`).
    cfg_we, cfg_addr, cfg_data : In
        Write a word of gains, between vectors; taken in every cycle without a waiting block.
    bias_we, bias_addr, bias_data : In
        The same of biases (with `layer_norm`).

    Latency
    -------
    `first_block()` cycles from a vector's last word to its first block, when nothing is before it
    and the output is ready.

    Duration
    --------
    A word per cycle in, a block per `32 / norm_lanes` cycles out; `last_block(...)` cycles from a
    vector's last word to its last block, and a vector per `interval(...)` cycles when they come
    back to back.

    Raises
    ------
    ValueError
        When a parameter is out of its range.
    """

    belt = False

    def __init__(
        self, *, width: int, norm_lanes: int, layer_norm: bool = False, quantise: bool = False
    ) -> None:
        if norm_lanes not in (2, 4, 8, 16, 32):
            raise ValueError(f"norm_lanes = {norm_lanes}: allowed are 2, 4, 8, 16 and 32")
        self._layer_norm, self._quantise = layer_norm, quantise
        self._norm = norm = RmsNorm(
            rows=1, width=width, norm_lanes=norm_lanes, norms=1, layer_norm=layer_norm
        )
        self._banks = [self._bank() for _ in range(_BANKS)]
        addr = range(max(2, norm.words_max))
        mean = {
            "count": In(range(width + 1)),
            "bias_we": In(1),
            "bias_addr": In(addr),
            "bias_data": In(32 * norm_lanes),
        }
        codes = {
            "floor": In(5),
            "out_codes": Out(ACTIVATION_BITS * BLOCK),
            "out_sx": Out(6),
            "out_sum": Out(SUM_BITS),
        }
        values = {"out_values": Out(32 * BLOCK), "out_saturated": Out(1)}
        super().__init__(
            {
                "words": In(range(norm.words_max + 1)),
                "eps": In(EPS_BITS),
                "in_valid": In(1),
                "in_ready": Out(1),
                "in_values": In(32 * norm_lanes),
                "out_valid": Out(1),
                "out_ready": In(1),
                "out_last": Out(1),
                **(codes if quantise else values),
                "cfg_we": In(1),
                "cfg_addr": In(addr),
                "cfg_data": In(GAIN_BITS * norm_lanes),
                **(mean if layer_norm else {}),
            },
            params=(width, norm_lanes, layer_norm, quantise),
        )
        if layer_norm:
            self.module_name = "layer_norm_unit"

    def _bank(self) -> Residual:
        bank = Residual(
            width=self._norm.words_max * self._norm.norm_lanes,
            norm_lanes=self._norm.norm_lanes,
            update_lanes=self._norm.norm_lanes,
            total=self._layer_norm,
        )
        bank.module_name = "residual_wide"
        return bank

    def _ahead(self) -> int:
        """Cycles from a vector's last word to the norm's start."""
        return self._banks[0].latency + 1

    def _behind(self) -> int:
        return Quantiser.LATENCY if self._quantise else 0

    def words_for(self, width: int) -> int:
        """The input `words` for vectors of `width` values."""
        return self._norm.words_for(width)

    def first_block(self) -> int:
        """Cycles from a vector's last word to its first block."""
        return self._ahead() + self._norm.first_block() + self._behind()

    def last_block(self, *, words: int) -> int:
        """Cycles from a vector's last word to its last block."""
        return self._ahead() + self._norm.duration(rows_count=1, words=words) + self._behind()

    def interval(self, *, words: int) -> int:
        """Cycles per vector when they come back to back: norm after norm, or filling a bank."""
        return self._norm.duration(rows_count=1, words=words) + 1

    def elaborate(self, platform: object) -> Module:
        m = Module()
        norm = self._norm
        enable, waits = Signal(), Signal()
        m.d.comb += enable.eq(~waits)
        m.submodules.norm = instance(norm, en=enable)

        # A bank is free, then filled word by word, then (its sums are done) full, then free again.
        busy, full = (
            Array(Signal(name=f"{n}{i}") for i in range(_BANKS)) for n in ("busy", "full")
        )
        filling, scanning, norming = Signal(), Signal(), Signal()
        word = Signal(range(max(2, norm.words_max)))
        taken, word_last = Signal(), Signal()
        m.d.comb += [
            self.in_ready.eq(enable & ~busy[filling]),
            taken.eq(self.in_valid & self.in_ready),
            word_last.eq(word == self.words - 1),
        ]
        with m.If(taken):
            m.d.sync += word.eq(Mux(word_last, 0, word + 1))
            with m.If(word_last):
                m.d.sync += [busy[filling].eq(1), filling.eq(~filling)]
        with m.If(enable):
            m.d.comb += norm.start.eq(full[scanning] & ~norming)
            with m.If(norm.start):
                m.d.sync += norming.eq(1)
            with m.If(norm.q_valid & norm.q_last):
                m.d.sync += [
                    norming.eq(0),
                    busy[scanning].eq(0),
                    full[scanning].eq(0),
                    scanning.eq(~scanning),
                ]
        for number, bank in enumerate(self._banks):
            m.submodules[f"bank{number}"] = instance(bank, en=enable)
            with m.If(enable & bank.done):
                m.d.sync += full[number].eq(1)
            m.d.comb += [
                bank.in_valid.eq(taken & (filling == number)),
                bank.in_value.eq(self.in_values),
                bank.in_index.eq(word),
                bank.in_first.eq(1),
                bank.in_start.eq(word == 0),
                bank.in_last.eq(word_last),
                bank.read_en.eq(norm.res_en & (scanning == number)),
                bank.read_addr.eq(norm.res_addr),
            ]

        m.d.comb += [
            norm.rows_count.eq(1),
            norm.words.eq(self.words),
            norm.gain_base.eq(0),
            norm.eps.eq(self.eps),
            norm.ss.eq(Array(bank.ss for bank in self._banks)[scanning]),
            norm.res_data.eq(Array(bank.read_data for bank in self._banks)[scanning]),
            norm.cfg_we.eq(self.cfg_we),
            norm.cfg_addr.eq(self.cfg_addr),
            norm.cfg_data.eq(self.cfg_data),
        ]
        if self._layer_norm:
            m.d.comb += [
                norm.count.eq(self.count),
                norm.total.eq(Array(bank.total for bank in self._banks)[scanning]),
                norm.bias_we.eq(self.bias_we),
                norm.bias_addr.eq(self.bias_addr),
                norm.bias_data.eq(self.bias_data),
            ]

        if not self._quantise:
            m.d.comb += [
                self.out_valid.eq(norm.q_valid),
                self.out_last.eq(norm.q_last),
                self.out_values.eq(norm.q_values),
                self.out_saturated.eq(norm.saturated),
            ]
        else:
            quantiser = Quantiser(tag_bits=1)
            m.submodules.quantiser = instance(quantiser, en=enable)
            m.d.comb += [
                quantiser.in_valid.eq(norm.q_valid),
                quantiser.in_values.eq(norm.q_values),
                quantiser.in_floor.eq(self.floor),
                quantiser.in_tag.eq(norm.q_last),
                self.out_valid.eq(quantiser.out_valid),
                self.out_last.eq(quantiser.out_tag[0]),
                Cat(self.out_codes, self.out_sx, self.out_sum).eq(
                    Cat(quantiser.out_codes, quantiser.out_sx, quantiser.out_sum)
                ),
            ]
        m.d.comb += waits.eq(self.out_valid & ~self.out_ready)
        return m
