"""Predicts in which belt cycle every operation of a pass starts and ends.

The recurrence is the hardware's: each unit plays its queue in order; an instruction is issued in
the first cycle in which it is at the head, its unit is ready, and every operation it waits for has
finished. One that is passed over, because the context does not reach its chunk, takes a cycle at
the head and counts as finished once everything before it is. Cycle 0 is the one in which the pass
restarts the queues. Latencies and durations are the blocks' own.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenloom.compiler.errors import TokenloomError
from tokenloom.compiler.program import Instruction, Program
from tokenloom.compiler.quantise import QuantModel
from tokenloom.hw.array.array_control import ArrayControl
from tokenloom.hw.array.dot_element import DotElement
from tokenloom.hw.array.dot_pair import DotPair
from tokenloom.hw.array.quantiser import Quantiser
from tokenloom.hw.array.row_lane import RowLane
from tokenloom.hw.attention.attention import Attention
from tokenloom.hw.attention.head_norm import HeadNorm
from tokenloom.hw.attention.softmax import Softmax
from tokenloom.hw.attention.window import first_token
from tokenloom.hw.config import HardwareConfig
from tokenloom.hw.core import EDGE, IN_FLIGHT, PASSED_OVER
from tokenloom.hw.embedding.embedding import Embedding
from tokenloom.hw.norm.residual import Residual
from tokenloom.hw.norm.rmsnorm import RmsNorm
from tokenloom.hw.numbers.formats import BLOCK
from tokenloom.hw.sampler.sampler import Sampler
from tokenloom.hw.sampler.settings import Settings
from tokenloom.hw.sequencer.isa import Dest, Kind, Unit

__all__ = ["Operation", "Schedule", "predict"]

_GREEDY = Settings()

# From an array row's last drained value to the end of the operation; `_Pass` adds that of logits.
_TAIL = {
    Dest.RESIDUAL: RowLane.RESIDUAL + Residual.LATENCY,
    Dest.KEY: RowLane.BLOCK_ROPE + Quantiser.LATENCY,
    Dest.VALUE: RowLane.BLOCK_ROPE + Quantiser.LATENCY,
    Dest.QUERY: RowLane.BLOCK_ROPE + Quantiser.LATENCY,
    Dest.GATE_UP: RowLane.BLOCK_SWIGLU + Quantiser.LATENCY,
}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of a pass.

    Attributes
    ----------
    unit : Unit
    name : str
    first : int
        Belt cycle in which the unit accepts it.
    last : int
        Belt cycle at whose end its results can be used.
    beats : int
        Beats that it takes from each channel.
    """

    unit: Unit
    name: str
    first: int
    last: int
    beats: int = 0


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A pass.

    Attributes
    ----------
    operations : tuple of Operation
        Ordered by unit, then as in the queue.
    cycles : int
        Belt cycles of the pass.
    """

    operations: tuple[Operation, ...]
    cycles: int

    @property
    def beats(self) -> int:
        """Beats that each channel delivers."""
        return sum(op.beats for op in self.operations)


@dataclass(frozen=True, kw_only=True)
class _Timing:
    """What an instruction does to its unit, counted from its issue."""

    ready: int  # the next one can be issued so many cycles later
    last: int  # the operation ends so many cycles later
    beats: int = 0
    lead: int = 0  # array: the first tile's last beat is issued so many cycles later
    drained: int = 0  # array: and the next operation's not before so many cycles


@dataclass(frozen=True, kw_only=True)
class _Pass:
    hardware: HardwareConfig
    model: QuantModel
    rows: int
    length: int
    settings: Settings
    first: int  # the first token that windowed operations see

    def _attended(self, fields: dict[str, int]) -> int:
        return self.length - (self.first if fields["windowed"] else 0)

    def _tokens(self, instruction: Instruction) -> int:
        """Tokens of the instruction's chunk."""
        tokens = self._attended(instruction.fields)
        if not self.hardware.chunked:
            return tokens
        size = self.hardware.score_tokens
        return min(size, tokens - instruction.chunk * size)

    def runs(self, instruction: Instruction) -> bool:
        """Whether the pass plays it; otherwise it is passed over."""
        if "windowed" not in instruction.fields:
            return True
        return instruction.runs(self.hardware.chunks(self._attended(instruction.fields)) - 1)

    @property
    def slot_groups(self) -> int:
        group = self.model.shape.heads // self.model.shape.kv_heads
        return -(-group * self.rows // self.hardware.array.rows)

    def timing(self, instruction: Instruction) -> _Timing:
        return {
            Unit.EMBED: self._embed,
            Unit.NORM: self._norm,
            Unit.ARRAY: self._array,
            Unit.SOFTMAX: self._softmax,
            Unit.CONTEXT: self._context,
        }[instruction.unit](instruction)

    def _embed(self, instruction: Instruction) -> _Timing:
        width = self.model.shape.width
        blocks = -(-width // BLOCK)
        values = Embedding.duration(
            rows_count=self.rows, blocks=blocks, last_values=width - BLOCK * (blocks - 1)
        )
        return _Timing(ready=1, last=values + RowLane.RESIDUAL + Residual.LATENCY)

    def _norm(self, instruction: Instruction) -> _Timing:
        norm = RmsNorm(
            rows=self.hardware.array.rows,
            width=self.hardware.maxima.width,
            norm_lanes=self.hardware.norm_lanes,
            norms=1,
        )
        scan = norm.duration(rows_count=self.rows, words=instruction.fields["words"])
        return _Timing(ready=scan + 1, last=scan + Quantiser.LATENCY)

    def _array(self, instruction: Instruction) -> _Timing:
        array, fields = self.hardware.array, instruction.fields
        kind = Kind(fields["kind"])
        if kind is Kind.MATMUL:
            tiles, beats, digits, slots = fields["tiles"], fields["beats"], 1, 1
            drain = array.columns
            phase = (fields["count"] - 1) % array.columns
            dest = Dest(fields["dest"])
            row, tail = self.rows - 1, self._tail(dest)
        else:
            slots, drain = self.slot_groups, array.columns // array.drain
            phase = slots * drain - 1
            row = array.rows - 1
            if kind is Kind.KEYS:
                tiles = -(-self._tokens(instruction) // array.columns)
                beats, digits = fields["beats"], 1
                tail = Attention.KEYS_DONE
            else:
                tiles, digits = fields["tiles"], 2
                beats = -(-self._tokens(instruction) // array.lanes)
                tail = Attention.VALUES_DONE
        tile = max(beats * digits * slots, slots * drain)
        # Issue of the last tile's last beat for slot 0, from which its drain counts.
        end = 1 + (tiles - 1) * tile + (beats * digits - 1) * slots
        element = DotPair if array.packed else DotElement
        drain_latency = ArrayControl.drain_latency(
            element.LATENCY, (array.groups - 1) * array.stages
        )
        last = end + EDGE + drain_latency + phase + row + tail
        return _Timing(
            ready=tiles * tile,
            last=last,
            beats=tiles * beats,
            lead=1 + (beats * digits - 1) * slots,
            drained=end + slots * drain,
        )

    def _tail(self, dest: Dest) -> int:
        if dest is Dest.LOGITS:
            return RowLane.RESIDUAL + Sampler.latency(self.settings)
        tail = _TAIL[dest]
        if self.model.shape.qk_norm and dest in (Dest.KEY, Dest.VALUE, Dest.QUERY):
            tail += HeadNorm.latency(self.model.shape.head_size)
        return tail

    def _softmax(self, instruction: Instruction) -> _Timing:
        words = -(-self._tokens(instruction) // BLOCK) * BLOCK // self.hardware.array.drain
        groups = self.slot_groups
        return _Timing(ready=Softmax.duration(groups, words), last=Softmax.latency(groups, words))

    def _context(self, instruction: Instruction) -> _Timing:
        blocks = self.rows * instruction.fields["blocks"]
        last = Attention.CONTEXT_BLOCK + blocks - 1 + Quantiser.LATENCY
        return _Timing(ready=blocks, last=last)


def predict(
    program: Program,
    hardware: HardwareConfig,
    model: QuantModel,
    *,
    rows: int,
    pos: int,
    sample: bool,
    settings: Settings = _GREEDY,
) -> Schedule:
    """The schedule of a pass of `rows` rows from position `pos` on.

    The sampler's `settings` matter where the pass samples: a list of candidates takes its time.

    Raises
    ------
    ValueError
        When the rows exceed the hardware's, or the program waits for something that never comes.
    TokenloomError
        When a unit would have more operations in flight than the chip can count.
    """
    if not 1 <= rows <= hardware.array.rows:
        raise ValueError(f"rows is {rows}; allowed: 1..{hardware.array.rows}")
    first_seen = first_token(
        pos=pos, window=model.shape.window, page_tokens=hardware.memory.page_tokens
    )
    one = _Pass(
        hardware=hardware,
        model=model,
        rows=rows,
        length=pos + rows,
        settings=settings,
        first=first_seen,
    )
    queues: dict[Unit, list[Instruction]] = {}
    for unit, instructions in program.queues.items():
        queue = []
        for instruction in instructions:
            if instruction.sample_only and not sample:
                break
            queue.append(instruction)
        queues[unit] = queue

    free = dict.fromkeys(Unit, 1)  # first cycle in which the unit's next one can be issued
    head = dict.fromkeys(Unit, 1)  # first cycle in which the queue's next one is at its head
    drained = 0  # first cycle in which the array may issue the last beat of an operation's tile
    result: dict[Unit, list[Operation]] = {unit: [] for unit in Unit}
    # First cycle in which so many instructions of a queue count as finished.
    finished: dict[Unit, list[int]] = {unit: [0] for unit in Unit}
    progress = True
    while progress:
        progress = False
        for unit, queue in queues.items():
            while len(finished[unit]) <= len(queue):
                instruction = queue[len(finished[unit]) - 1]
                if not one.runs(instruction):
                    head[unit] += 1
                    finished[unit].append(max(finished[unit][-1], head[unit]))
                    progress = True
                    continue
                if any(len(finished[u]) <= n for u, n in instruction.wait.items()):
                    break
                waits = [finished[u][n] for u, n in instruction.wait.items()]
                first = max([free[unit], head[unit], *waits])
                timing = one.timing(instruction)
                late = 0
                if unit is Unit.ARRAY:
                    late = max(0, drained - first - timing.lead)
                    drained = first + late + timing.drained
                head[unit] = first + 1
                free[unit] = first + late + max(1, timing.ready)
                last = first + late + timing.last
                if hardware.chunked and unit in PASSED_OVER:
                    _check_in_flight(result[unit], first)
                finished[unit].append(max(finished[unit][-1], last + 1))
                result[unit].append(
                    Operation(
                        unit=unit,
                        name=instruction.name,
                        first=first,
                        last=last,
                        beats=timing.beats,
                    )
                )
                progress = True
    stuck = [unit.name for unit, queue in queues.items() if len(finished[unit]) <= len(queue)]
    if stuck:
        raise ValueError(f"the program never ends: {', '.join(stuck)} wait for each other")
    operations = tuple(op for unit in Unit for op in result[unit])
    return Schedule(operations=operations, cycles=max(op.last for op in operations) + 1)


def _check_in_flight(before: list[Operation], first: int) -> None:
    """Whether the chip can count one more operation of a unit that is issued in cycle `first`."""
    if len(before) >= IN_FLIGHT and before[-IN_FLIGHT].last > first:
        one = before[-1]
        raise TokenloomError(
            f"more than {IN_FLIGHT} operations of unit {one.unit.name} in flight, behind "
            f"{one.name}; allowed: {IN_FLIGHT}"
        )
