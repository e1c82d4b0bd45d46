"""The array: C columns of R dot-product elements, and a drain chain per row."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Value
from amaranth.lib.wiring import In, Out

from tokenloom.hw.array.column import Column
from tokenloom.hw.array.crossing import Crossing
from tokenloom.hw.array.dot_element import X_SHIFT_BITS
from tokenloom.hw.array.drain import Drain
from tokenloom.hw.array.multiplier import Multiplier
from tokenloom.hw.numbers.formats import ACC_BITS, ACTIVATION_BITS, BLOCK, SUM_BITS
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["Array", "group_of"]

# What every column needs, apart from its beat.
_SHARED = (
    "take", "pow2", "x_codes", "x_shift", "x_sum", "stage", "first", "bank", "slot", "read_bank",
    "read_slot",
)  # fmt: skip
_BEAT = ("codes", "scale", "minimum")


class Array(Block):
    """Columns and drains, driven cycle by cycle by `ArrayControl`.

    With several `groups` the columns are parted into neighbours, the first group next to the rest
    of the core; group g lies g borders away (dies of an FPGA). What goes there and comes back
    passes `stages` registers per border. The nearer groups wait as long as the farthest has to, so
    all columns of a row stay in step, and everything is `crossing` cycles later each way.

    Parameters
    ----------
    columns, lanes, rows, drain, slots : int
        C, K, R, W and the accumulators per bank. With K = 1 to 16 a beat is a block of 32 and
        everything takes 32/K cycles per step (`SerialElement`).
    packed : bool
        Two neighbouring columns share a multiplier per lane; C is even.
    groups, stages : int
        Column groups, and register stages on each border between them.
    multiplier : Multiplier
        What multiplies the codes.

    Members
    -------
    take, pow2 : In(1); codes : In(8·K·C), scale, minimum : In(16·K/32·C), column c's beat
    x_codes, x_shift, x_sum : In, R rows packed
    stage, first, bank, slot, read_bank, read_slot, load, step, select : In, R rows packed
    wide : Out(64·W·R), acc : Out(64·R), the drains' values
    phase, tick : In, only with less than 32 lanes: the step's phase, and the last one

    Latency
    -------
    See `Column` and `Drain`, plus `crossing` = (groups - 1)·stages cycles on the way in and as many
    from the accumulators to the drain; Duration: one beat per cycle.

    Raises
    ------
    ValueError
        When a parameter is out of range.
    """

    def __init__(
        self,
        *,
        columns: int,
        lanes: int,
        rows: int,
        drain: int,
        slots: int,
        packed: bool = False,
        groups: int = 1,
        stages: int = 0,
        multiplier: Multiplier | None = None,
    ) -> None:
        self._c, self._k, self._r, self._w, self._slots = columns, lanes, rows, drain, slots
        self._packed, self._multiplier = packed, multiplier or Multiplier()
        self._unit = 2 if packed else 1  # columns in a `Column`
        if columns % self._unit:
            raise ValueError(f"columns is {columns}; packed columns come in pairs")
        if not 1 <= groups <= columns // self._unit:
            raise ValueError(f"groups is {groups}; allowed: 1..{columns // self._unit}")
        if stages < 0:
            raise ValueError(f"stages is {stages}; allowed: 0 or more")
        self._groups, self._stages = groups, stages
        self.crossing = (groups - 1) * stages
        self._serial = lanes < BLOCK
        serial = {"phase": In(range(BLOCK // lanes)), "tick": In(1)} if self._serial else {}
        lanes = max(lanes, BLOCK)
        blocks = lanes // BLOCK
        slot_bits = max(1, (slots - 1).bit_length())
        self.element_latency = latency = self._column().element.LATENCY
        super().__init__(
            {
                "take": In(1),
                "pow2": In(1),
                "codes": In(8 * lanes * columns),
                "scale": In(16 * blocks * columns),
                "minimum": In(16 * blocks * columns),
                "x_codes": In(ACTIVATION_BITS * lanes * rows),
                "x_shift": In(X_SHIFT_BITS * blocks * rows),
                "x_sum": In(SUM_BITS * blocks * rows),
                "stage": In(latency * rows),
                "first": In(rows),
                "bank": In(rows),
                "slot": In(slot_bits * rows),
                "read_bank": In(rows),
                "read_slot": In(slot_bits * rows),
                "load": In(rows),
                "step": In(rows),
                "select": In(max(1, (drain - 1).bit_length()) * rows),
                "wide": Out(ACC_BITS * drain * rows),
                "acc": Out(ACC_BITS * rows),
                **serial,
            },
            params=(
                columns, self._k, rows, drain, slots, packed, groups, stages, self._multiplier.name,
            ),
        )  # fmt: skip

    def _column(self) -> Column:
        return Column(
            lanes=self._k, rows=self._r, slots=self._slots, packed=self._packed,
            multiplier=self._multiplier,
        )  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Everything but the elements' running sums moves once per step.
        self._step = self.en & self.tick if self._serial else self.en
        units = self._c // self._unit
        shared = self._shared(m)
        accs: list[list[Value]] = [[] for _ in range(self._r)]
        for u in range(units):
            column = self._column()
            m.submodules[f"column{u}"] = instance(column, en=self.en)
            if self._serial:
                m.d.comb += [column.phase.eq(self.phase), column.tick.eq(self.tick)]
            group = group_of(u, units, self._groups)
            for name, value in zip(_SHARED, shared[group], strict=True):
                m.d.comb += getattr(column, name).eq(value)
            ports = [getattr(column, name) for name in _BEAT]
            beat = Cat(
                getattr(self, name).word_select(u, len(port))
                for name, port in zip(_BEAT, ports, strict=True)
            )
            m.d.comb += Cat(ports).eq(self._across(m, f"beat{u}", beat, group))
            acc = self._across(m, f"sums{u}", column.acc, group)
            for r in range(self._r):
                for c in range(self._unit):
                    accs[r].append(acc.word_select(r * self._unit + c, ACC_BITS))
        for r in range(self._r):
            drain = Drain(columns=self._c, width=self._w)
            m.submodules[f"drain{r}"] = instance(drain, en=self._step)
            m.d.comb += [
                drain.accs.eq(Cat(accs[r])),
                drain.load.eq(self.load[r]),
                drain.step.eq(self.step[r]),
                drain.select.eq(self.select.word_select(r, len(drain.select))),
                self.wide.word_select(r, len(drain.wide)).eq(drain.wide),
                self.acc.word_select(r, ACC_BITS).eq(drain.acc),
            ]
        return m

    def _shared(self, m: Module) -> list[list[Value]]:
        """What all columns share, as each group gets it: handed on from group to group."""
        ports = [getattr(self, name) for name in _SHARED]
        if not self.crossing:
            return [ports] * self._groups
        here: Value = Cat(ports)
        found = []
        for group in range(self._groups):
            if group:
                here = self._delayed(m, f"border{group}", here, hops=self._stages)
            rest = self.crossing - group * self._stages
            late = self._delayed(m, f"wait{group}", here, waits=rest)
            parts, low = [], 0
            for port in ports:
                parts.append(late[low : low + len(port)])
                low += len(port)
            found.append(parts)
        return found

    def _across(self, m: Module, name: str, value: Value, group: int) -> Value:
        """`value` on its way to or from a group."""
        hops = group * self._stages
        return self._delayed(m, name, value, hops=hops, waits=self.crossing - hops)

    def _delayed(self, m: Module, name: str, value: Value, hops: int = 0, waits: int = 0) -> Value:
        if not hops + waits:
            return value
        crossing = Crossing(bits=len(value), hops=hops, waits=waits)
        m.submodules[name] = instance(crossing, en=self._step)
        m.d.comb += crossing.near.eq(value)
        return crossing.far


def group_of(unit: int, units: int, groups: int) -> int:
    """The group in which unit number `unit` of `units` lies: sizes differ by one at most."""
    return unit * groups // units
