"""Residual: one row's residual stream, its saturating update and its sum of squares."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.arith import or_tree, sat32, sum_tree
from tokenloom.hw.numbers.formats import BLOCK, SS_BITS, TOTAL_BITS
from tokenloom.hw.verilog.addressed_memory import addressed_memory
from tokenloom.hw.verilog.block import Block

__all__ = ["Residual"]


class Residual(Block):
    """`r[i] = sat32(r[i] + value)` (or `= value`) and `ss = Σ r²` of the values written.

    Parameters
    ----------
    width : int
        Residual values, 1 or more. The memory is rounded up to whole blocks of 32.
    norm_lanes : int
        Values per word of the read port: 1, 2, 4, 8, 16 or 32.
    taps : bool
        With `tap_` ports.
    update_lanes : int
        Values per update: 1, or `norm_lanes` for a whole word of the memory.
    total : bool
        With the port `total` (LayerNorm).

    Members
    -------
    in_valid : In(1)
        The other inputs hold an update.
    in_value : In(signed(32))
        What is added or, with `in_first`, written; `update_lanes` of them side by side, value i in
        bits 32i..32i+31, those beyond the model's width 0.
    in_index : In(range(width))
        Which value (or word). It does not occur twice within `LATENCY` cycles.
    in_first : In(1)
        Write instead of add.
    in_start : In(1)
        First value of the operation: `ss` starts at its square.
    in_last : In(1)
        Last value of the operation.
    done : Out(1)
        Strobe `latency` cycles after `in_last`: from this cycle on memory and sums are readable.
    ss : Out(80)
        Exact sum of the squares of the values written since `in_start`.
    total : Out(signed(48))
        Only with `total`: exact sum of these values.
    saturated : Out(1)
        Strobe `SATURATED` cycles after an update that was clamped.
    read_en, read_addr : In
        Read the word `read_addr`. Updates and reads share one port: never with `in_valid`.
    read_data : Out(32 * norm_lanes)
        The word, one cycle later (value i of the word in bits 32i..32i+31); it stays until the next
        read or update.
    tap_valid : Out(1), tap_index : Out, tap_value : Out(32)
        Only with taps: what is being written.

    Latency
    -------
    `latency` = `LATENCY` = 6 belt cycles from an update to `ss`, 7 with more than one lane; a read
    answers in one cycle.

    Duration
    --------
    One update per cycle, with or without gaps.

    Raises
    ------
    ValueError
        When `width` is less than 1, `norm_lanes` no power of two in 1..32, `update_lanes` neither 1
        nor `norm_lanes`, or taps are to show more than one lane.
    """

    LATENCY = 6
    SATURATED = 3

    def __init__(
        self,
        *,
        width: int,
        norm_lanes: int,
        taps: bool = False,
        update_lanes: int = 1,
        total: bool = False,
    ) -> None:
        if width < 1:
            raise ValueError(f"width = {width} is impossible: allowed is 1 or more")
        if norm_lanes not in (1, 2, 4, 8, 16, 32):
            raise ValueError(f"norm_lanes = {norm_lanes}: allowed are 1, 2, 4, 8, 16 and 32")
        if update_lanes not in (1, norm_lanes):
            raise ValueError(f"update_lanes = {update_lanes}: allowed are 1 and {norm_lanes}")
        if total and width > 1 << 16:
            raise ValueError(f"width = {width}: with total allowed is 1..{1 << 16}")
        if taps and update_lanes > 1:
            raise ValueError("taps = True shows one lane: update_lanes has to be 1")
        self._width, self._lanes, self._taps = width, norm_lanes, taps
        self._updates, self._total = update_lanes, total
        self._words = -(-width // BLOCK) * BLOCK // norm_lanes
        index = range(max(2, self._words if update_lanes > 1 else width))
        tapped = {"tap_valid": Out(1), "tap_index": Out(index), "tap_value": Out(32)}
        super().__init__(
            {
                "in_valid": In(1),
                "in_value": In(signed(32) if update_lanes == 1 else 32 * update_lanes),
                "in_index": In(index),
                "in_first": In(1),
                "in_start": In(1),
                "in_last": In(1),
                "done": Out(1),
                "ss": Out(SS_BITS),
                "saturated": Out(1),
                "read_en": In(1),
                "read_addr": In(range(max(2, self._words))),
                "read_data": Out(32 * norm_lanes),
                **({"total": Out(signed(TOTAL_BITS))} if total else {}),
                **(tapped if taps else {}),
            },
            params=(width, norm_lanes, taps, update_lanes, total),
        )

    @property
    def width(self) -> int:
        """Residual values."""
        return self._width

    @property
    def norm_lanes(self) -> int:
        """Values per word."""
        return self._lanes

    @property
    def words(self) -> int:
        """Words in the memory."""
        return self._words

    @property
    def latency(self) -> int:
        """Belt cycles from an update to the sums."""
        return self.LATENCY + (self._updates > 1)

    def elaborate(self, platform: object) -> Module:
        """Read, add and clamp, write; then two cycles of multiplier, and the sum."""
        m = Module()
        # Bits of an index that choose a lane of a word.
        lane_bits = (self._lanes - 1).bit_length() if self._updates == 1 else 0
        lanes = range(self._updates)

        m.submodules.memory = memory = addressed_memory(shape=32 * self._lanes, depth=self._words)
        read = memory.read_port()
        write = memory.write_port(granularity=32)
        m.d.comb += [
            read.en.eq(self.in_valid | self.read_en),
            read.addr.eq(Mux(self.in_valid, self.in_index[lane_bits:], self.read_addr)),
            self.read_data.eq(read.data),
        ]

        # Flags of the update in each stage; stage 0 is the input.
        valid, start, last = [self.in_valid], [self.in_start], [self.in_last]
        for stage in range(1, self.latency):
            here = [Signal(name=f"{name}{stage}") for name in ("valid", "start", "last")]
            m.d.sync += here[0].eq(valid[-1])
            with m.If(valid[-1]):
                m.d.sync += [here[1].eq(start[-1]), here[2].eq(last[-1])]
            for flags, flag in zip((valid, start, last), here, strict=True):
                flags.append(flag)

        # Stage 1: the word is at the read port.
        index = [self.in_index]
        first1 = Signal(reset_less=True)
        value = [self.in_value]
        for stage in (1, 2, 3):
            index.append(Signal.like(self.in_index, name=f"index{stage}", reset_less=True))
            with m.If(valid[stage - 1]):
                m.d.sync += index[stage].eq(index[stage - 1])
        for stage in (1, 2):
            value.append(Signal.like(self.in_value, name=f"value{stage}", reset_less=True))
            with m.If(valid[stage - 1]):
                m.d.sync += value[stage].eq(value[stage - 1])
        with m.If(self.in_valid):
            m.d.sync += first1.eq(self.in_first)

        # Stage 2: old and new value.
        old2 = [Signal(signed(32), name=f"old2_{lane}", reset_less=True) for lane in lanes]
        words = [read.data.word_select(lane, 32) for lane in range(self._lanes)]
        if self._updates == 1 and lane_bits:
            words = [Array(words)[index[1][:lane_bits]]]
        with m.If(valid[1]):
            m.d.sync += [
                old.eq(Mux(first1, 0, word)) for old, word in zip(old2, words, strict=True)
            ]

        # Stage 3: the new value is written.
        new3 = [Signal(signed(32), name=f"new3_{lane}", reset_less=True) for lane in lanes]
        saturated = []
        for lane in lanes:
            total = Signal(signed(33), name=f"total_{lane}")
            m.d.comb += total.eq(old2[lane] + value[2].word_select(lane, 32).as_signed())
            clamped, over = sat32(total)
            saturated.append(over)
            with m.If(valid[2]):
                m.d.sync += new3[lane].eq(clamped)
        m.d.sync += self.saturated.eq(valid[2] & or_tree(saturated))
        m.d.comb += [
            write.addr.eq(index[3][lane_bits:]),
            write.data.eq(Cat(new3).replicate(self._lanes // self._updates)),
        ]
        if lane_bits:
            m.d.comb += write.en.eq(valid[3] << index[3][:lane_bits])
        else:
            m.d.comb += write.en.eq(valid[3].replicate(self._lanes))

        if self._taps:
            m.d.comb += [
                self.tap_valid.eq(valid[3]),
                self.tap_index.eq(index[3]),
                self.tap_value.eq(new3[0]),
            ]

        # Stages 4 and 5: the square, with a register for the multiplier to take in; with more than
        # one lane a stage for their sum.
        square = [[Signal(63, name=f"square{stage}_{lane}", reset_less=True) for lane in lanes]
                  for stage in (4, 5)]  # fmt: skip
        sums: list[Value] = list(new3)
        for stage in (0, 1):
            with m.If(valid[3 + stage]):
                for lane in lanes:
                    source = (new3[lane] * new3[lane])[:63] if stage == 0 else square[0][lane]
                    m.d.sync += square[stage][lane].eq(source)
            if self._total:
                sums = [self._keep(m, valid[3 + stage], s, f"sum{stage}") for s in sums]
        squares: list[Value] = list(square[1])
        for stage in range(5, self.latency - 1):  # only with more than one lane
            squares = [self._keep(m, valid[stage], sum_tree(squares), "squares")]
            if self._total:
                sums = [self._keep(m, valid[stage], sum_tree(sums), "sums")]

        # The last stage: the sum over the operation.
        end = self.latency - 1
        with m.If(valid[end]):
            m.d.sync += self.ss.eq(Mux(start[end], 0, self.ss) + squares[0])
            if self._total:
                m.d.sync += self.total.eq(Mux(start[end], 0, self.total) + sums[0])
        m.d.sync += self.done.eq(valid[end] & last[end])
        return m

    @staticmethod
    def _keep(m: Module, valid: Value, value: Value, name: str) -> Signal:
        """`value` in a register that moves with `valid`."""
        register = Signal(value.shape(), name=name, reset_less=True)
        with m.If(valid):
            m.d.sync += register.eq(value)
        return register
