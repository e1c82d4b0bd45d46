"""RMSNorm: scans the residual rows of a pass and hands normalised blocks to the quantiser."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Array, Cat, Module, Signal, Value, signed
from amaranth.lib.wiring import In, Out

from tokenloom.hw.norm.norm_lane import NormLane
from tokenloom.hw.norm.norm_root import NormRoot
from tokenloom.hw.numbers.arith import or_tree
from tokenloom.hw.numbers.formats import (
    BLOCK,
    EPS_BITS,
    GAIN_BITS,
    RSQRT_FRAC,
    SS_BITS,
    TOTAL_BITS,
)
from tokenloom.hw.verilog.addressed_memory import addressed_memory
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["RmsNorm"]


class RmsNorm(Block):
    """`v = sat32(rs(r·g·y, max(k - 7, 0)))` with `y, k = rsqrt((ss << 16) + eps)`, row after row.

    One scan unit serves all rows; the reciprocal root of row r + 1 is computed while row r is
    scanned.

    Parameters
    ----------
    rows : int
        R, 1..32.
    width : int
        Largest number of residual values, 1 or more.
    norm_lanes : int
        Values per cycle: 1, 2, 4, 8, 16 or 32.
    norms : int
        Gain vectors in the gain memory, 1 or more. One takes ⌈width/32⌉·32/norm_lanes words.
    read_latency : int
        Cycles from `res_addr` to `res_data`, 1..4 (1 without a register after the memories).
    layer_norm : bool
        Subtract the mean and add a bias (docs/numbers.md, point 21); without it nothing of that is
        built.

    Members
    -------
    start : In(1)
        Strobe, not before the cycle after `q_last` of the operation before it, if any.
    rows_count : In(range(rows + 1))
        Rows of this operation, 1..rows.
    words : In(range(words_max + 1))
        Words per row: ⌈model width/32⌉·32/norm_lanes, whole blocks. Gains beyond the model's width
        are 0 in the memory, so what lies there in the residual memory does not matter.
    gain_base : In
        Word address of the operation's gains.
    eps : In(64)
        `eps_int`, 1 or more.
    floor : In(5)
        The quantiser's floor. (These five are read in the cycle of `start`.)
    ss : In(80 * rows)
        Sums of squares, row r in bits 80r..80r+79; they rest until `q_last`.
    res_en, res_row, res_addr : Out
        Read word `res_addr` of row `res_row`.
    res_data : In(32 * norm_lanes)
        That word, `read_latency` cycles later.
    data_row : Out(range(rows))
        The row whose word is due at `res_data` in this cycle: it selects among the rows' read ports
        (`res_row` is ahead by `read_latency` cycles).
    q_valid : Out(1)
        The q outputs hold a block.
    q_values : Out(1024)
        32 values, value i in bits 32i..32i+31.
    q_floor : Out(5)
        The operation's floor.
    q_row, q_block : Out
        The block's row, and its place in the row.
    q_last : Out(1)
        Last block of the last row. Low without `q_valid`.
    saturated : Out(1)
        Strobe: a value of the block was clamped (the compiler proves that none is). With `q_valid`.
    cfg_we, cfg_addr, cfg_data : In
        Write a word of norm_lanes gains (int16, lane i in bits 16i..16i+15), not during an
        operation. A belt port: nothing is written while `en` is low.
    total : In(48 * rows), count : In(range(width + 1))
        With `layer_norm`: each row's sum, which rests as `ss` does, and D, read at `start`.
    bias_we, bias_addr, bias_data : In
        With `layer_norm`: as `cfg_`, a word of norm_lanes biases (fixed32 of the result's format).

    Latency
    -------
    `first_block()` belt cycles from `start` to the first `q_valid`.

    Duration
    --------
    `duration(...)` belt cycles from `start` to `q_last`. A row takes `words` cycles, or `interval`
    when it is shorter than its reciprocal root.

    Raises
    ------
    ValueError
        When a parameter is out of its range.
    """

    module_name = "rmsnorm"

    def __init__(
        self,
        *,
        rows: int,
        width: int,
        norm_lanes: int,
        norms: int,
        read_latency: int = 1,
        layer_norm: bool = False,
    ) -> None:
        if not 1 <= rows <= 32:
            raise ValueError(f"rows = {rows} is impossible: allowed is 1..32")
        if width < 1:
            raise ValueError(f"width = {width} is impossible: allowed is 1 or more")
        if norm_lanes not in (1, 2, 4, 8, 16, 32):
            raise ValueError(f"norm_lanes = {norm_lanes}: allowed are 1, 2, 4, 8, 16 and 32")
        if norms < 1:
            raise ValueError(f"norms = {norms} is impossible: allowed is 1 or more")
        if layer_norm and width > 1 << 16:
            raise ValueError(f"width = {width}: with layer_norm allowed is 1..{1 << 16}")
        if not 1 <= read_latency <= 4:
            raise ValueError(f"read_latency = {read_latency} is impossible: allowed is 1..4")
        self._rows, self._width, self._lanes, self._norms = rows, width, norm_lanes, norms
        self._read_latency, self._layer_norm = read_latency, layer_norm
        self._count_bits = width.bit_length() if layer_norm else 0
        self._lane = NormLane(count_bits=self._count_bits)
        # From the cycle in which a row is let go to the next one's root.
        self.interval = 1 + NormRoot(count_bits=self._count_bits).latency
        # From the data of a block's last word to q_valid.
        self.pipeline = self._lane.latency + 1
        self._per_block = BLOCK // norm_lanes
        self._blocks = -(-width // BLOCK)
        self._words = self._blocks * self._per_block
        gain_addr = range(max(2, norms * self._words))
        mean = {
            "total": In(TOTAL_BITS * rows),
            "count": In(max(1, self._count_bits)),
            "bias_we": In(1),
            "bias_addr": In(gain_addr),
            "bias_data": In(32 * norm_lanes),
        }
        super().__init__(
            {
                "start": In(1),
                "rows_count": In(range(rows + 1)),
                "words": In(range(self._words + 1)),
                "gain_base": In(gain_addr),
                "eps": In(EPS_BITS),
                "floor": In(5),
                "ss": In(SS_BITS * rows),
                "res_en": Out(1),
                "res_row": Out(range(max(2, rows))),
                "res_addr": Out(range(max(2, self._words))),
                "res_data": In(32 * norm_lanes),
                "data_row": Out(range(max(2, rows))),
                "q_valid": Out(1),
                "q_values": Out(32 * BLOCK),
                "q_floor": Out(5),
                "q_row": Out(range(max(2, rows))),
                "q_block": Out(range(max(2, self._blocks))),
                "q_last": Out(1),
                "saturated": Out(1),
                "cfg_we": In(1),
                "cfg_addr": In(gain_addr),
                "cfg_data": In(GAIN_BITS * norm_lanes),
                **(mean if layer_norm else {}),
            },
            params=(rows, width, norm_lanes, norms, read_latency, layer_norm),
        )
        if layer_norm:
            self.module_name = "layer_norm"

    @property
    def rows(self) -> int:
        """Largest number of rows."""
        return self._rows

    @property
    def norm_lanes(self) -> int:
        """Values per cycle."""
        return self._lanes

    @property
    def words_max(self) -> int:
        """Words of a row at the full width, and gain words per norm."""
        return self._words

    def words_for(self, width: int) -> int:
        """The field `words` of a model of `width` residual values."""
        return -(-width // BLOCK) * self._per_block

    def first_block(self) -> int:
        """Belt cycles from `start` to the first `q_valid`."""
        return self.interval + self._per_block + self._read_latency + self.pipeline

    def duration(self, *, rows_count: int, words: int) -> int:
        """Belt cycles from `start` to `q_last`."""
        row = max(words, self.interval)
        return self.interval + (rows_count - 1) * row + words + self._read_latency + self.pipeline

    def elaborate(self, platform: object) -> Module:
        """Roots in one chain, words in another; a row's words follow when its root is there."""
        m = Module()
        lanes, per_block = self._lanes, self._per_block

        # The operation.
        rows_count = Signal.like(self.rows_count, reset_less=True)
        words = Signal.like(self.words, reset_less=True)
        gain_base = Signal.like(self.gain_base, reset_less=True)
        eps = Signal(EPS_BITS, reset_less=True)
        with m.If(self.start):
            m.d.sync += [
                rows_count.eq(self.rows_count),
                words.eq(self.words),
                gain_base.eq(self.gain_base),
                eps.eq(self.eps),
                self.q_floor.eq(self.floor),
            ]

        # Roots: pick a row's sums. `go` lets the row's scan begin.
        root = NormRoot(count_bits=self._count_bits)
        m.submodules.root = instance(root, en=self.en)
        pick, go, ready = Signal(), Signal(), Signal()
        rows_picked = Signal.like(self.rows_count, reset_less=True)
        m.d.sync += pick.eq(self.start | (go & (rows_picked != rows_count)))
        with m.If(self.start):
            m.d.sync += rows_picked.eq(0)
        with m.If(pick):
            m.d.sync += rows_picked.eq(rows_picked + 1)
        sums = Array([self.ss.word_select(row, SS_BITS) for row in range(self._rows)])
        m.d.comb += [
            root.in_valid.eq(pick),
            root.ss.eq(sums[rows_picked[: len(self.res_row)]]),
            root.eps.eq(eps),
        ]

        # Words: res_en, res_row and res_addr are the scan's registers.
        word_end = Signal()
        first_row = Signal(reset_less=True)
        gain_addr = Signal.like(self.gain_base, reset_less=True)
        m.d.comb += [
            word_end.eq(self.res_addr == words - 1),
            go.eq((root.out_valid | ready) & (~self.res_en | word_end)),
        ]
        with m.If(go):
            m.d.sync += ready.eq(0)
        with m.Elif(root.out_valid):
            m.d.sync += ready.eq(1)
        with m.If(self.start):
            m.d.sync += first_row.eq(1)
        with m.If(go):
            m.d.sync += [
                self.res_en.eq(1),
                self.res_addr.eq(0),
                gain_addr.eq(gain_base),
                first_row.eq(0),
                self.res_row.eq(0),
            ]
            with m.If(~first_row):
                m.d.sync += self.res_row.eq(self.res_row + 1)
        with m.Elif(self.res_en):
            m.d.sync += [
                self.res_en.eq(~word_end),
                self.res_addr.eq(self.res_addr + 1),
                gain_addr.eq(gain_addr + 1),
            ]

        # What travels with a word: stage 0 is the read, stage `data` has the residuals.
        data = self._read_latency
        stages = data + self.pipeline
        first, last = Signal(), Signal()
        m.d.comb += [
            first.eq(~self.res_addr.any()),
            last.eq(word_end & (self.res_row == rows_count - 1)),
        ]
        chain = [(self.res_en, self.res_addr, self.res_row, first, last)]
        for stage in range(1, stages):
            here = (
                Signal(name=f"valid{stage}"),
                Signal.like(self.res_addr, name=f"word{stage}", init=0, reset_less=True),
                Signal.like(self.res_row, name=f"row{stage}", init=0, reset_less=True),
                Signal(name=f"first{stage}", reset_less=True),
                Signal(name=f"last{stage}", reset_less=True),
            )
            old = chain[-1]
            m.d.sync += here[0].eq(old[0])
            with m.If(old[0]):
                m.d.sync += [new.eq(value) for value, new in zip(old[1:], here[1:], strict=True)]
            chain.append(here)
        valid = [flags[0] for flags in chain]
        m.d.comb += self.data_row.eq(chain[data][2])

        # The gains arrive with the residuals.
        m.submodules.gains = gains = addressed_memory(
            shape=GAIN_BITS * lanes, depth=self._norms * self._words
        )
        write, read = gains.write_port(), gains.read_port()
        m.d.comb += [
            write.en.eq(self.cfg_we),
            write.addr.eq(self.cfg_addr),
            write.data.eq(self.cfg_data),
        ]
        for stage in range(1, data):
            follower = Signal.like(gain_addr, name=f"gain_addr{stage}", reset_less=True)
            with m.If(valid[stage - 1]):
                m.d.sync += follower.eq(gain_addr)
            gain_addr = follower
        m.d.comb += [read.en.eq(valid[data - 1]), read.addr.eq(gain_addr)]

        # The row's y and shift: taken over when the row's first word comes to where they are used.
        # (The next root is at least `interval` cycles behind the scan's begin.)
        y, shift = Signal(RSQRT_FRAC, reset_less=True), Signal(6, reset_less=True)
        y_at, shift_at = data + self._lane.y_stage - 1, data + self._lane.shift_stage - 1
        with m.If(valid[y_at] & chain[y_at][3]):
            m.d.sync += y.eq(root.y)
        with m.If(valid[shift_at] & chain[shift_at][3]):
            m.d.sync += shift.eq(root.shift)

        # The lanes, and the block's register behind them.
        part_bits = per_block.bit_length() - 1
        end_at = data + self._lane.latency
        place = chain[end_at][1][:part_bits]
        clamped = []
        units = [NormLane(count_bits=self._count_bits) for _ in range(lanes)]
        if self._layer_norm:
            self._mean(m, chain, gain_addr, units, root, rows_picked)
        for lane, unit in enumerate(units):
            m.submodules[f"lane{lane}"] = instance(unit, en=self.en)
            m.d.comb += [
                unit.stage.eq(Cat(valid[data:end_at])),
                unit.residual.eq(self.res_data.word_select(lane, 32)),
                unit.gain.eq(read.data.word_select(lane, GAIN_BITS)),
                unit.y.eq(y),
                unit.shift.eq(shift),
            ]
            clamped.append(unit.saturated)
            for part in range(per_block):
                with m.If(valid[end_at] & (place == part if part else ~place.any())):
                    m.d.sync += self.q_values.word_select(part * lanes + lane, 32).eq(unit.value)

        # The block.
        end, word, row, _, is_last = chain[end_at]
        block_end = Signal()
        m.d.comb += block_end.eq(end & place.all())
        any_clamped, some = Signal(), Signal()
        m.d.comb += some.eq(or_tree(clamped))
        if per_block > 1:
            with m.If(end):
                m.d.sync += any_clamped.eq(~block_end & (any_clamped | some))
        m.d.sync += [
            self.q_valid.eq(block_end),
            self.q_last.eq(block_end & is_last),
            self.saturated.eq(block_end & (any_clamped | some)),
        ]
        with m.If(block_end):
            m.d.sync += [self.q_row.eq(row), self.q_block.eq(word[part_bits:])]
        return m

    def _mean(
        self,
        m: Module,
        chain: Sequence[Sequence[Value]],
        addr: Signal,
        units: Sequence[NormLane],
        root: NormRoot,
        picked: Signal,
    ) -> None:
        """What LayerNorm needs beside: D, the rows' sums, and the biases."""
        count = Signal.like(self.count, reset_less=True)
        with m.If(self.start):
            m.d.sync += count.eq(self.count)
        data = self._read_latency
        last = data + self._lane.latency - 1
        totals = Array([self.total.word_select(r, TOTAL_BITS) for r in range(self._rows)])
        total = Signal(signed(TOTAL_BITS), reset_less=True)
        with m.If(chain[data][0]):
            m.d.sync += total.eq(totals[self.data_row])
        m.d.comb += [root.count.eq(count), root.total.eq(totals[picked[: len(self.res_row)]])]
        m.submodules.biases = biases = addressed_memory(
            shape=32 * self._lanes, depth=self._norms * self._words
        )
        write, read = biases.write_port(), biases.read_port()
        for stage in range(data, last):
            follower = Signal.like(addr, name=f"bias_addr{stage}", reset_less=True)
            with m.If(chain[stage - 1][0]):
                m.d.sync += follower.eq(addr)
            addr = follower
        m.d.comb += [
            write.en.eq(self.bias_we),
            write.addr.eq(self.bias_addr),
            write.data.eq(self.bias_data),
            read.en.eq(chain[last - 1][0]),
            read.addr.eq(addr),
        ]
        for lane, unit in enumerate(units):
            m.d.comb += [
                unit.count.eq(count),
                unit.total.eq(total),
                unit.bias.eq(read.data.word_select(lane, 32)),
            ]
