"""Plays array operations: issue, accumulate and drain, cycle by cycle."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.array.column import Column
from tokenloom.hw.array.dot_element import DotElement
from tokenloom.hw.numbers.formats import BLOCK, TOKENS_MAX
from tokenloom.hw.numbers.words import ceil_shift
from tokenloom.hw.sequencer.isa import ARRAY_OP, OPERAND_BITS, Kind
from tokenloom.hw.verilog.block import Block

__all__ = ["ArrayControl"]

_BEAT_BITS = (TOKENS_MAX // BLOCK).bit_length()  # of an operation on values

# What the issue stage hands to a row, one cycle later per row.
_ISSUE = {
    "valid": 1,
    "take": 1,
    "values": 1,
    "digit": 1,
    "attention": 1,
    "first": 1,
    "bank": 1,
    "keys": 1,
    "beat": 4,
    "parity": 1,
}


class ArrayControl(Block):
    """Turns an instruction into the array's and the drains' control signals.

    An operation is `tiles × beats × digits × slots` issue cycles, the slots innermost; a tile lasts
    at least `slots × drain` cycles, with drain = C/W in attention and C otherwise. An operation
    whose first tile would be done before the last one's drain is over begins so much later.

    Parameters
    ----------
    columns, drain, rows, slots : int
        C, W, R, and accumulators (slot groups) per bank.
    token_blocks : int
        Blocks of 32 tokens that a probability row holds.
    edge : int
        E, belt cycles between the announcement of a take and the take.
    beat_blocks : int
        Blocks per beat, K / 32: a power of two.
    latency : int
        The elements' LATENCY.
    crossing : int
        Cycles that everything is late on its way to the columns, and the sums on their way back
        (`Array.crossing`).

    Members
    -------
    issue, op : In, from the queue; ready : Out
    rows_used : In, rows of this pass; group_rows : In, heads per kv head × rows
    slot_groups : In, ⌈group_rows / R⌉; key_tiles : In, from the pass's length
    key_blocks : In, blocks of 32 in a head
    value_blocks : In, blocks of 32 tokens
    rests : Out(1), no operation, and no drain that would delay one
    will_take : Out(E), takes announced, nearest last; take : Out; computes : Out(1), a beat is
        multiplied, freshly taken or held
    take_keys, take_tile, take_beat, take_parity : Out, with `take`: it is a K beat, and which
    x_addr, x_values, x_digit : Out, per row: beat in the operand buffer, or in the probability
        buffer (parity, slot, beat) and which digit; valid 2 cycles before the element's stage 0
    x_mask : Out(K/32), per row: blocks of the beat that count; the others are to be zeros
    stage, first, bank, slot : Out, per row, see `DotElement`
    read_bank, read_slot, load, step, select : Out, per row, see `Drain`
    out_valid, out_index, out_slot, out_last, out_op : Out, per row, with the drain's values;
        out_op is a whole instruction

    Latency
    -------
    From the first issue cycle: take after E; first drained value of a tile `DRAIN` cycles (+ E + r)
    after the issue of the tile's last beat; `drain_latency` in general.
    """

    DRAIN = Column.OPERAND + DotElement.LATENCY + 1

    def __init__(
        self,
        *,
        columns: int,
        drain: int,
        rows: int,
        slots: int,
        token_blocks: int,
        edge: int = 1,
        beat_blocks: int = 1,
        latency: int = DotElement.LATENCY,
        crossing: int = 0,
    ) -> None:
        self._c, self._w, self._r, self._slots = columns, drain, rows, slots
        self._edge, self._token_blocks = edge, token_blocks
        self._beat_blocks, self._latency, self._crossing = beat_blocks, latency, crossing
        self._slot_bits = max(1, (slots - 1).bit_length())
        self._beat_bits = max(1, (-(-token_blocks // beat_blocks) - 1).bit_length())
        # Operations whose fields are kept: one may begin in every cycle until the last row has
        # read those of the first.
        way = edge + self.drain_latency(latency, crossing) + rows + 1
        self._op_bits = max(3, way.bit_length())
        self.p_bits = 1 + self._slot_bits + self._beat_bits
        self._addr_bits = max(OPERAND_BITS, self.p_bits)
        self._select_bits = max(1, (drain - 1).bit_length())
        per_row = {
            "x_addr": self._addr_bits,
            "x_values": 1,
            "x_digit": 1,
            "x_mask": beat_blocks,
            "stage": latency,
            "first": 1,
            "bank": 1,
            "slot": self._slot_bits,
            "read_bank": 1,
            "read_slot": self._slot_bits,
            "load": 1,
            "step": 1,
            "select": self._select_bits,
            "out_valid": 1,
            "out_index": 20,
            "out_slot": self._slot_bits,
            "out_last": 1,
            "out_op": ARRAY_OP.size,
        }
        super().__init__(
            {
                "issue": In(1),
                "op": In(ARRAY_OP.size),
                "ready": Out(1),
                "rows_used": In(6),
                "group_rows": In(10),
                "slot_groups": In(self._slot_bits + 1),
                "key_tiles": In(17),
                "value_blocks": In(_BEAT_BITS),
                "key_blocks": In(4),
                "will_take": Out(edge),
                "take": Out(1),
                "computes": Out(1),
                "take_keys": Out(1),
                "take_tile": Out(16),
                "take_beat": Out(4),
                "take_parity": Out(1),
                "busy": Out(1),
                "rests": Out(1),
                **{name: Out(bits * rows) for name, bits in per_row.items()},
            },
            params=(
                columns, drain, rows, slots, token_blocks, edge, beat_blocks, latency, crossing,
            ),
        )  # fmt: skip

    @classmethod
    def drain_latency(cls, latency: int, crossing: int) -> int:
        """`DRAIN` with elements of another latency, and registers on the way to and fro."""
        return cls.DRAIN + latency - DotElement.LATENCY + 2 * crossing

    def elaborate(self, platform: object) -> Module:
        m = Module()
        now = self._issue(m)
        self._rows(m, now)
        return m

    def _issue(self, m: Module) -> data.View:
        """Counters of the issue stage; returns what it says about this cycle."""
        layout = data.StructLayout(
            {
                **_ISSUE,
                "slot": self._slot_bits,
                "x_addr": self._addr_bits,
                "x_mask": self._beat_blocks,
                "tile_end": 1,
                "tile": 16,
                "tile_last": 1,
                "op": self._op_bits,
            }
        )
        now = Signal(layout)
        fresh = data.View(ARRAY_OP, self.op)
        active, waiting, op_id = Signal(), Signal(), Signal(self._op_bits)
        op = Signal(ARRAY_OP)
        tile, beat, slot, digit = Signal(16), Signal(_BEAT_BITS), Signal(self._slot_bits), Signal()
        # A tile lasts until its sums have left; an operation's longest drain, less one.
        longest = range(max(self._c, self._slots * self._c // self._w))
        slots, hold, hold_start = Signal(self._slot_bits + 1), Signal(longest), Signal(longest)
        tiles_last, beats_last, bank = Signal(16), Signal(_BEAT_BITS), Signal()
        # Cycles until a tile may be done; issue cycles that the first tile has before it is done.
        draining, lead = Signal(longest), Signal(_BEAT_BITS + 1 + len(slots))
        starting = Signal()

        values, keys = op.kind == Kind.VALUES, op.kind == Kind.KEYS
        attention = values | keys
        last_slot = slot + 1 == slots
        last_digit = digit | ~values
        last_beat = beat == beats_last
        late = starting & (draining > lead)
        issuing = active & ~waiting & ~late
        issued = issuing & last_slot & last_digit & last_beat
        tile_over = (issued | waiting) & (hold == 0)
        over = tile_over & (tile == tiles_last)
        m.d.comb += [
            self.ready.eq(~active | over),
            self.busy.eq(active),
            self.rests.eq(self.ready & (draining == 0)),
        ]

        with m.If((hold != 0) & ~late):
            m.d.sync += hold.eq(hold - 1)
        with m.If(now.tile_end):
            m.d.sync += draining.eq(hold_start)
        with m.Elif(draining != 0):
            m.d.sync += draining.eq(draining - 1)
        with m.If(issuing):
            m.d.sync += starting.eq(0)
            with m.If(~last_slot):
                m.d.sync += slot.eq(slot + 1)
            with m.Else():
                m.d.sync += slot.eq(0)
                with m.If(~last_digit):
                    m.d.sync += digit.eq(1)
                with m.Else():
                    m.d.sync += digit.eq(0)
                    with m.If(~last_beat):
                        m.d.sync += beat.eq(beat + 1)
                    with m.Else():
                        m.d.sync += [beat.eq(0), waiting.eq(1)]
        with m.If(tile_over):
            m.d.sync += [waiting.eq(0), tile.eq(tile + 1), hold.eq(hold_start), bank.eq(~bank)]
            with m.If(over):
                m.d.sync += active.eq(0)

        # A fresh instruction.
        fresh_attention = fresh.kind != Kind.MATMUL
        fresh_slots = Mux(fresh_attention, self.slot_groups, 1)
        fresh_hold = (
            Mux(fresh_attention, self.slot_groups * Const(self._c // self._w, 8), self._c) - 1
        )
        split = self._beat_blocks.bit_length() - 1
        value_blocks = Signal.like(self.value_blocks)  # the port is already the next operation's
        value_beats = ceil_shift(self.value_blocks, split)
        key_beats = ceil_shift(self.key_blocks, split)
        fresh_beats = Mux(fresh.kind == Kind.VALUES, value_beats, fresh.beats) - 1
        fresh_lead = Mux(fresh.kind == Kind.VALUES, 2 * fresh_beats + 1, fresh_beats)[
            : _BEAT_BITS + 1
        ]
        with m.If(self.issue):
            m.d.sync += [
                active.eq(1),
                starting.eq(1),
                lead.eq(fresh_lead * fresh_slots),
                op.eq(fresh),
                op_id.eq(op_id + 1),
                tile.eq(0),
                slots.eq(fresh_slots),
                hold_start.eq(fresh_hold),
                hold.eq(fresh_hold),
                tiles_last.eq(Mux(fresh.kind == Kind.KEYS, self.key_tiles, fresh.tiles) - 1),
                beats_last.eq(fresh_beats),
                value_blocks.eq(self.value_blocks),
            ]

        m.d.comb += [
            now.valid.eq(issuing),
            now.take.eq(issuing & (slot == 0) & (digit == 0)),
            now.values.eq(values),
            now.digit.eq(digit),
            now.attention.eq(attention),
            now.keys.eq(keys),
            now.beat.eq(beat),
            now.parity.eq(op.parity),
            now.first.eq((beat == 0) & (digit == 0)),
            now.bank.eq(bank),
            now.slot.eq(slot),
            now.tile_end.eq(issuing & (slot == 0) & last_digit & last_beat),
            now.tile.eq(tile),
            now.tile_last.eq(tile == tiles_last),
            now.op.eq(op_id),
        ]
        with m.If(values):
            m.d.comb += now.x_addr.eq(Cat(beat[: self._beat_bits], slot, op.parity))
        with m.Elif(keys):
            m.d.comb += now.x_addr.eq(op.x_base[split:] + slot * key_beats + beat)
        with m.Else():
            m.d.comb += now.x_addr.eq(op.x_base[split:] + beat)
        # A matmul's weights behind the last block are zeros, but not what memory has there of K
        # and V.
        blocks = Signal.like(value_blocks)
        m.d.comb += blocks.eq(Mux(values, value_blocks, self.key_blocks))
        m.d.comb += now.x_mask.eq(
            Cat(~attention | ((beat << split) + b < blocks) for b in range(self._beat_blocks))
        )

        # The operation's fields wait here for its drains.
        m.submodules.in_flight = file = Memory(
            shape=ARRAY_OP.size, depth=1 << self._op_bits, init=[]
        )
        write = file.write_port()
        m.d.comb += [
            write.addr.eq(op_id + 1),
            write.data.eq(self.op),
            write.en.eq(self.issue),
        ]
        self._file = file
        return now

    def _rows(self, m: Module, now: data.View) -> None:
        """Delay lines from the issue stage to the rows, and the drain."""
        edge, rows = self._edge, self._r
        line = [now]
        for k in range(edge + rows + Column.OPERAND + self._latency):
            register = Signal(now.shape(), name=f"issue{k + 1}")
            m.d.sync += register.eq(line[-1])
            line.append(register)
        m.d.comb += [
            self.will_take.eq(Cat(line[k].take for k in range(edge))),
            self.take.eq(line[edge].take),
            self.computes.eq(line[edge].valid),
            self.take_keys.eq(line[edge].take & line[edge].keys),
            self.take_tile.eq(line[edge].tile),
            self.take_beat.eq(line[edge].beat),
            self.take_parity.eq(line[edge].parity),
        ]

        def set_row(name: str, r: int, value: object) -> None:
            bits = len(getattr(self, name)) // rows
            m.d.comb += getattr(self, name).word_select(r, bits).eq(value)

        for r in range(rows):
            ask = line[edge + r]
            set_row("x_addr", r, ask.x_addr)
            set_row("x_values", r, ask.values)
            set_row("x_digit", r, ask.digit)
            set_row("x_mask", r, ask.x_mask)
            stages = []
            for s in range(self._latency):
                at = line[edge + r + Column.OPERAND + s]
                used = Mux(at.attention, at.slot * rows + r < self.group_rows, r < self.rows_used)
                stages.append(at.valid & used)
            set_row("stage", r, Cat(stages))
            write = line[edge + r + Column.OPERAND + self._latency - 1]
            for name in ("first", "bank", "slot"):
                set_row(name, r, write[name])

        # Drain of row 0; the sums of slot 0 can be read one cycle after the last stage's write.
        end = line[edge + Column.OPERAND + self._latency - 1]
        run, phase, slot = Signal(), Signal(range(self._c)), Signal(self._slot_bits)
        tile, tile_last, bank, op_id = Signal(16), Signal(), Signal(), Signal(self._op_bits)
        attention = Signal()
        slots_last = Mux(attention, self.slot_groups - 1, 0)
        phase_last = Mux(attention, self._c // self._w - 1, self._c - 1)
        with m.If(run):
            m.d.sync += phase.eq(phase + 1)
            with m.If(phase == phase_last):
                m.d.sync += [phase.eq(0), slot.eq(slot + 1)]
                with m.If(slot == slots_last):
                    m.d.sync += run.eq(0)
        with m.If(end.tile_end):
            m.d.sync += [
                run.eq(1),
                phase.eq(0),
                slot.eq(0),
                tile.eq(end.tile),
                tile_last.eq(end.tile_last),
                bank.eq(end.bank),
                op_id.eq(end.op),
                attention.eq(end.attention),
            ]
        out = data.StructLayout(
            {
                "run": 1,
                "attention": 1,
                "phase": range(self._c),
                "slot": self._slot_bits,
                "tile": 16,
                "last": 1,
                "op": self._op_bits,
            }
        )
        read_layout = data.StructLayout({"bank": 1, "slot": self._slot_bits})
        reading, loads = Signal(read_layout), Signal()
        going = Signal(out)
        m.d.comb += [
            loads.eq(run & (phase == 0)),
            reading.bank.eq(bank),
            reading.slot.eq(slot),
            going.run.eq(run),
            going.attention.eq(attention),
            going.phase.eq(phase),
            going.slot.eq(slot),
            going.tile.eq(tile),
            going.last.eq(tile_last & (slot == slots_last) & (phase == phase_last)),
            going.op.eq(op_id),
        ]
        # Everything to the columns and back is late by the same number of cycles.
        arriving: Signal = loads
        for k in range(2 * self._crossing):
            crossed = Signal(out, name=f"crossed{k}")
            arrived = Signal(name=f"arrived{k}")
            m.d.sync += [crossed.eq(going), arrived.eq(arriving)]
            going, arriving = crossed, arrived
        for r in range(rows):
            shown = Signal(out, name=f"shown{r}")
            m.d.sync += shown.eq(going)
            if r:
                late = Signal(read_layout, name=f"reading{r}")
                load = Signal(name=f"load{r}")
                m.d.sync += [late.eq(reading), load.eq(arriving)]
                reading, arriving = late, load
            fields = self._file.read_port(domain="comb")
            m.d.comb += fields.addr.eq(shown.op)
            op = data.View(ARRAY_OP, fields.data)
            set_row("read_bank", r, reading.bank)
            set_row("read_slot", r, reading.slot)
            set_row("load", r, arriving)
            select = shown.phase[: self._select_bits] if self._w > 1 else Const(0, 1)
            set_row("select", r, select)
            ends_word = Const(1, 1) if self._w == 1 else select == self._w - 1
            set_row("step", r, shown.run & (shown.attention | ends_word))
            index = shown.tile * self._c + Mux(shown.attention, shown.phase * self._w, shown.phase)
            is_keys = op.kind == Kind.KEYS
            # The last tile of tokens may reach past the score buffer.
            tokens = BLOCK * self._token_blocks
            in_reach = index < tokens if tokens % self._c else Const(1, 1)
            set_row("out_index", r, index)
            set_row(
                "out_valid",
                r,
                shown.run
                & Mux(is_keys, in_reach, index < op.count)
                & (shown.attention | (r < self.rows_used)),
            )
            set_row("out_slot", r, shown.slot)
            set_row(
                "out_last",
                r,
                shown.run & Mux(shown.attention, shown.last, index + 1 == op.count),
            )
            set_row("out_op", r, fields.data)
            going = shown
