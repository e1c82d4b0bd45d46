"""RMSNorm: scans the residual rows of a pass and hands normalised blocks to the quantiser."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.norm.rsqrt import Rsqrt
from tokenloom.hw.numbers.arith import or_tree, round_shift, sat32
from tokenloom.hw.numbers.formats import (
    BLOCK,
    EPS_BITS,
    EPS_FRAC,
    NORM_SHIFT,
    RSQRT_FRAC,
    SS_BITS,
)
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["RmsNorm"]

GAIN_BITS = 16


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

    Latency
    -------
    `first_block()` belt cycles from `start` to the first `q_valid`.

    Duration
    --------
    `duration(...)` belt cycles from `start` to `q_last`. A row takes `words` cycles, or `INTERVAL`
    when it is shorter than its reciprocal root.

    Raises
    ------
    ValueError
        When a parameter is out of its range.
    """

    # From the cycle in which a row is let go to the next one's root.
    module_name = "rmsnorm"

    INTERVAL = 2 + Rsqrt.LATENCY
    # From the data of a block's last word to q_valid.
    PIPELINE = 6

    def __init__(
        self, *, rows: int, width: int, norm_lanes: int, norms: int, read_latency: int = 1
    ) -> None:
        if not 1 <= rows <= 32:
            raise ValueError(f"rows = {rows} is impossible: allowed is 1..32")
        if width < 1:
            raise ValueError(f"width = {width} is impossible: allowed is 1 or more")
        if norm_lanes not in (1, 2, 4, 8, 16, 32):
            raise ValueError(f"norm_lanes = {norm_lanes}: allowed are 1, 2, 4, 8, 16 and 32")
        if norms < 1:
            raise ValueError(f"norms = {norms} is impossible: allowed is 1 or more")
        if not 1 <= read_latency <= 4:
            raise ValueError(f"read_latency = {read_latency} is impossible: allowed is 1..4")
        self._rows, self._width, self._lanes, self._norms = rows, width, norm_lanes, norms
        self._read_latency = read_latency
        self._per_block = BLOCK // norm_lanes
        self._blocks = -(-width // BLOCK)
        self._words = self._blocks * self._per_block
        gain_addr = range(max(2, norms * self._words))
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
            },
            params=(rows, width, norm_lanes, norms, read_latency),
        )

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
        return self.INTERVAL + self._per_block + self._read_latency + self.PIPELINE

    def duration(self, *, rows_count: int, words: int) -> int:
        """Belt cycles from `start` to `q_last`."""
        row = max(words, self.INTERVAL)
        return self.INTERVAL + (rows_count - 1) * row + words + self._read_latency + self.PIPELINE

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

        # Roots: pick a row's ss, add eps, rsqrt. `go` lets the row's scan begin.
        m.submodules.rsqrt = instance(rsqrt := Rsqrt(), en=self.en)
        pick, go, ready = Signal(), Signal(), Signal()
        rows_picked = Signal.like(self.rows_count, reset_less=True)
        m.d.sync += [
            pick.eq(self.start | (go & (rows_picked != rows_count))),
            rsqrt.in_valid.eq(pick),
        ]
        with m.If(self.start):
            m.d.sync += rows_picked.eq(0)
        sums = Array([self.ss.word_select(row, SS_BITS) for row in range(self._rows)])
        with m.If(pick):
            m.d.sync += [
                rows_picked.eq(rows_picked + 1),
                rsqrt.s.eq((sums[rows_picked[: len(self.res_row)]] << EPS_FRAC) + eps),
            ]

        # Words: res_en, res_row and res_addr are the scan's registers.
        word_end = Signal()
        first_row = Signal(reset_less=True)
        gain_addr = Signal.like(self.gain_base, reset_less=True)
        m.d.comb += [
            word_end.eq(self.res_addr == words - 1),
            go.eq((rsqrt.out_valid | ready) & (~self.res_en | word_end)),
        ]
        with m.If(go):
            m.d.sync += ready.eq(0)
        with m.Elif(rsqrt.out_valid):
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
        stages = data + self.PIPELINE
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
        m.submodules.gains = gains = Memory(
            shape=GAIN_BITS * lanes, depth=self._norms * self._words, init=[]
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
        # (The next root is at least INTERVAL cycles behind the scan's begin.)
        y, shift = Signal(RSQRT_FRAC, reset_less=True), Signal(6, reset_less=True)
        with m.If(valid[data + 1] & chain[data + 1][3]):
            m.d.sync += y.eq(rsqrt.y)
        with m.If(valid[data + 3] & chain[data + 3][3]):
            m.d.sync += shift.eq(Mux(rsqrt.k < -NORM_SHIFT, 0, rsqrt.k + NORM_SHIFT))

        # Per lane: r·g in two cycles, ·y in two, rounding shift, clamp into the block's register.
        part_bits = per_block.bit_length() - 1
        place = chain[data + 5][1][:part_bits]
        clamped = []
        for lane in range(lanes):
            product = [
                Signal(signed(bits), name=f"product{step}_{lane}", reset_less=True)
                for step, bits in ((1, 48), (2, 48), (3, 64), (4, 64))
            ]
            rounded = Signal(signed(64), name=f"rounded_{lane}", reset_less=True)
            residual = self.res_data.word_select(lane, 32).as_signed()
            gain = read.data.word_select(lane, GAIN_BITS).as_signed()
            for step, source in enumerate(
                (residual * gain, product[0], (product[1] * y)[:64], product[2])
            ):
                with m.If(valid[data + step]):
                    m.d.sync += product[step].eq(source)
            with m.If(valid[data + 4]):
                m.d.sync += rounded.eq(round_shift(product[3], shift))
            value, saturated = sat32(rounded)
            clamped.append(saturated)
            for part in range(per_block):
                with m.If(valid[data + 5] & (place == part if part else ~place.any())):
                    m.d.sync += self.q_values.word_select(part * lanes + lane, 32).eq(value)

        # The block.
        end, word, row, _, is_last = chain[data + 5]
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
