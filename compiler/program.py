"""The program: one queue of instructions per unit, and the tape's.

The order follows from the data: k, v and q (so that the write and the read-back of K and V hide
behind q's matmul), then attention with the next head's scores ahead of this head's values, the
output projection, and the feed-forward network. Every instruction names, per unit, how many
operations must have finished before it may start.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tokenloom.compiler.bias import ONES
from tokenloom.compiler.errors import TokenloomError
from tokenloom.compiler.image import MemoryImage
from tokenloom.compiler.quantise import QuantModel
from tokenloom.hw.array.operand_buffer import OPERAND_SUM
from tokenloom.hw.attention.head_gains import HeadGains
from tokenloom.hw.config import HardwareConfig
from tokenloom.hw.memory.tape_format import TapeKind
from tokenloom.hw.numbers.formats import ACTIVATION_BITS, BLOCK
from tokenloom.hw.sequencer.isa import (
    CHUNK,
    CHUNK_LAYOUTS,
    TAPE_OP,
    Dest,
    Kind,
    Unit,
    When,
    chunk_runs,
    pack,
)
from tokenloom.hw.sequencer.registers import MODEL, Select

__all__ = ["Instruction", "Program", "compile_program", "configuration"]


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One operation of one unit.

    Attributes
    ----------
    unit : Unit
    number : int
        Place in the order of the program, over all units: behind all that it depends on.
    name : str
        For people and traces, such as "layer 3 gate_up".
    wait : dict
        Unit -> operations of it that must be done.
    fields : dict
        Fields of the unit's layout.
    sample_only : bool
    chunk, when : int, When
        Operations on K, V or scores: the chunk of the context, and whether it is played if that is
        not, or is, the context's last one.
    """

    unit: Unit
    number: int
    name: str
    wait: dict[Unit, int]
    fields: dict[str, int]
    sample_only: bool = False
    chunk: int = 0
    when: When = When.ANY

    def runs(self, last_chunk: int) -> bool:
        """Whether it is played where that is the number of the context's last chunk."""
        return bool(chunk_runs(self.chunk, self.when, last_chunk))

    def word(self) -> int:
        """The instruction's bits."""
        waits = [self.wait.get(unit, 0) for unit in Unit]
        header = {"wait": waits, "sample_only": int(self.sample_only), "stop": 0}
        fields = self.fields
        if chunk := pack(CHUNK, {"number": self.chunk, "when": self.when}):
            fields = {**fields, "chunk" if self.unit is Unit.SOFTMAX else "y_base": chunk}
        return pack(CHUNK_LAYOUTS[self.unit], {"header": header, **fields})


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """Queues, tape, and the model's registers.

    Attributes
    ----------
    queues : dict
        Unit -> its instructions, in order.
    tape : list of int
        Instructions of the tape control, the last one is `stop`.
    registers : dict
        Name -> value of the model's registers.
    gains : list
        int16 gains of every norm in order, each padded to whole blocks of 32.
    frequencies : list of int
    codebook : tuple of int
        What the 16 codes of 4-bit tapes mean, int8.
    ones : int
        Operand block that holds the constant `bias.ONES`.
    head_gains : dict
        (layer, is query, dim) -> int16 gain of the norms of q and k; empty without.
    """

    queues: dict[Unit, list[Instruction]]
    tape: list[int]
    registers: dict[str, int]
    gains: list[list[int]]
    frequencies: list[int]
    codebook: tuple[int, ...]
    ones: int
    head_gains: dict[tuple[int, int, int], int] = field(default_factory=dict)

    def in_order(self) -> list[Instruction]:
        """Every unit's instructions, each behind all that it depends on."""
        every = [instruction for queue in self.queues.values() for instruction in queue]
        return sorted(every, key=lambda instruction: instruction.number)

    def words(self, unit: Unit) -> list[int]:
        """A queue's bits, with the stop at its end."""
        stop = pack(CHUNK_LAYOUTS[unit], {"header": {"wait": [0] * len(Unit), "stop": 1}})
        return [i.word() for i in self.queues[unit]] + [stop]


def configuration(program: Program, hardware: HardwareConfig) -> Iterator[tuple[int, int, int]]:
    """The configuration writes of a program: target (`registers.Select`), address, word.

    Raises
    ------
    TokenloomError
        When a value exceeds its register.
    """
    for unit in Unit:
        for address, word in enumerate(program.words(unit)):
            yield unit, address, word
    for address, word in enumerate(program.tape):
        yield Select.TAPE, address, word
    lanes = hardware.norm_lanes
    address = 0
    for gain in program.gains:
        for first in range(0, len(gain), lanes):
            value = 0
            for i, code in enumerate(gain[first : first + lanes]):
                value |= (code & 0xFFFF) << 16 * i
            yield Select.GAINS, address, value
            address += 1
    for address, frequency in enumerate(program.frequencies):
        yield Select.FREQUENCIES, address, frequency
    for address, code in enumerate(program.codebook):
        yield Select.CODEBOOK, address, code & 255
    dim_bits = HeadGains.dim_bits(hardware.maxima.head_size)
    for (layer, query, dim), code in program.head_gains.items():
        yield Select.HEAD_GAINS, (2 * layer + query) << dim_bits | dim, code & 0xFFFF
    # With shift 0, so the order of codes, shift and sum is all that matters here.
    value = sum(x << ACTIVATION_BITS * i for i, x in enumerate(ONES))
    yield Select.OPERANDS, program.ones, value | sum(ONES) << OPERAND_SUM
    value = 0
    for name, field_ in MODEL:
        number = program.registers[name]
        if number >> field_.width:
            raise TokenloomError(f"register {name} is {number}; it has {field_.width} bits")
        value |= number << field_.offset
    # Last: with it the tape begins.
    yield Select.REGISTERS, 0, value


@dataclass
class _Builder:
    queues: dict[Unit, list[Instruction]] = field(
        default_factory=lambda: {unit: [] for unit in Unit}
    )
    tape: list[int] = field(default_factory=list)

    def add(
        self, unit: Unit, name: str, wait: dict[Unit, int], *, sample_only: bool = False,
        chunk: int = 0, when: int = When.ANY, **fields: int,
    ) -> int:  # fmt: skip
        """Append an instruction; returns the unit's done count once it has finished."""
        self.queues[unit].append(
            Instruction(
                unit=unit,
                number=sum(map(len, self.queues.values())),
                name=name,
                wait=wait,
                fields=fields,
                sample_only=sample_only,
                chunk=chunk,
                when=When(when),
            )
        )
        return len(self.queues[unit])

    def detour(
        self, kind: TapeKind, address: int, layer: int, tiles: int, windowed: int,
        chunk: int, when: When = When.ANY,
    ) -> None:  # fmt: skip
        fields = {"kind": kind, "addr": address, "layer": layer, "tiles": tiles}
        fields["blocks"] = pack(CHUNK, {"number": chunk, "when": when})
        self.tape.append(pack(TAPE_OP, {**fields, "windowed": windowed}))


def _most_tokens(model: QuantModel, hardware: HardwareConfig, layer: int) -> int:
    """Most tokens that attention sees in a layer: a window begins with its first row's page."""
    window = model.shape.layer_window(layer)
    if window == 0:
        return model.positions
    return window + hardware.array.rows - 1 + hardware.memory.page_tokens - 1


class _Regions:
    """Block addresses in the operand buffer; every region and every head begins a beat."""

    def __init__(self, model: QuantModel, hardware: HardwareConfig) -> None:
        shape, lanes = model.shape, hardware.array.lanes

        def blocks(values: int) -> int:
            return -(-values // lanes) * hardware.blocks_per_beat

        self.key_blocks = -(-shape.head_size // BLOCK)
        self.head_blocks = blocks(shape.head_size)
        self.slots = max(1, hardware.max_group)
        self.norm = 0
        # Behind the norm a constant block, for biases: one more block of k, v and q.
        self.ones = self.norm + -(-shape.width // BLOCK)
        self.context = self.norm + blocks(shape.width + BLOCK)
        self.hidden = self.context + blocks(shape.heads * shape.head_size)
        self.query = self.hidden + blocks(shape.ffn)
        self.end = self.query + shape.kv_heads * self.slots * self.head_blocks


def compile_program(model: QuantModel, image: MemoryImage, hardware: HardwareConfig) -> Program:
    """Write the program of `model` for `hardware`.

    Raises
    ------
    ConfigError
        When the model does not fit the hardware.
    """
    shape, array = model.shape, hardware.array
    hardware.check_model(shape, shape.name)
    columns, word = array.columns, hardware.memory.port_bits // 8
    regions = _Regions(model, hardware)
    kv = image.kv
    build = _Builder()
    blocks = -(-shape.width // BLOCK)
    norm_words = blocks * BLOCK // hardware.norm_lanes
    gains: list[list[int]] = []
    dim_blocks = regions.key_blocks
    group = shape.heads // shape.kv_heads
    sizes = [min(BLOCK, shape.head_size - BLOCK * b) for b in range(dim_blocks)]

    def norm(name: str, gain: list[int], floor: int, wait: dict[Unit, int], tail: bool) -> int:
        gains.append(gain + [0] * (blocks * BLOCK - len(gain)))
        return build.add(
            Unit.NORM, name, wait, sample_only=tail,
            gain_base=(len(gains) - 1) * norm_words, floor=floor, words=norm_words,
            x_base=regions.norm,
        )  # fmt: skip

    def matmul(
        layer: int, name: str, dest: Dest, wait: dict[Unit, int], *, rows: int, x_base: int,
        blocks: int, shift: int, tail: bool = False, **fields: int,
    ) -> int:  # fmt: skip
        segment = image.segments[layer, name]
        build.tape.append(
            pack(
                TAPE_OP,
                {
                    "kind": segment.kind,
                    "addr": segment.address,
                    "blocks": segment.blocks,
                    "sample_only": tail,
                },
            )
        )
        label = name if layer == shape.layers else f"layer {layer} {name}"
        return build.add(
            Unit.ARRAY, label, wait, sample_only=tail, kind=Kind.MATMUL, dest=dest,
            tiles=-(-rows // columns), beats=-(-blocks // hardware.blocks_per_beat), count=rows,
            x_base=x_base, shift=shift,
            layer=min(layer, shape.layers - 1), **fields,
        )  # fmt: skip

    done_residual = build.add(
        Unit.EMBED, "embedding", {}, shift=model.embedding_shift, count=shape.width
    )
    wait_residual = {Unit.EMBED: done_residual}
    heads_done = 0  # kv heads so far in this pass
    scores_free: list[int] = []  # softmax count after which a kv head's scores are free
    weights_free = [0, 0]  # array count after which either half of the probabilities is free
    for number, layer in enumerate(model.layers):
        label = f"layer {number} "
        floor = layer.floor
        windowed = int(shape.layer_window(number) != 0)
        done_norm = norm(
            label + "attention norm", layer.attn_gain.codes.tolist(), floor["k"],
            wait_residual, False,
        )  # fmt: skip
        done_query = 0
        for name, dest, own_floor, kappa in (
            ("k", Dest.KEY, model.k_floor, 0),
            ("v", Dest.VALUE, model.v_floor, 0),
            ("q", Dest.QUERY, model.q_floor, model.kappa),
        ):
            tensor = getattr(layer, name)
            done_query = matmul(
                number, name, dest, {Unit.NORM: done_norm}, rows=tensor.rows,
                x_base=regions.norm, blocks=tensor.tape_blocks, shift=layer.shift[name],
                floor=own_floor, kappa=kappa, y_base=regions.query,
            )  # fmt: skip

        chunks = hardware.chunks(
            min(model.positions, hardware.maxima.positions, _most_tokens(model, hardware, number))
        )

        def keys(head: int, chunk: int, wait: dict[Unit, int], again: bool = False,
                 number: int = number, score_shift: int = layer.shift["score"],
                 windowed: int = windowed, chunks: int = chunks) -> int:  # fmt: skip
            when = When.EARLIER if again else When.ANY
            address = (number * kv.layer_stride + head * kv.head_stride) // word
            build.detour(TapeKind.K, address, number, 1, windowed, chunk, when)
            part = f" chunk {chunk}{' again' if again else ''}" if chunks > 1 else ""
            return build.add(
                Unit.ARRAY, f"layer {number} scores of kv head {head}{part}", wait, kind=Kind.KEYS,
                beats=regions.head_blocks // hardware.blocks_per_beat,
                x_base=regions.query + head * regions.slots * regions.head_blocks,
                shift=score_shift, layer=number, kv_head=head,
                parity=(number * shape.kv_heads + head) & 1, windowed=windowed,
                chunk=chunk, when=when,
            )  # fmt: skip

        def maxima(head: int, number: int = number, done_query: int = done_query,
                   chunks: int = chunks) -> list[int]:  # fmt: skip
            """First look at every chunk; returns the array's counts when they are done."""
            first = number * shape.kv_heads + head
            wait = {Unit.ARRAY: done_query}
            if first >= 2:
                wait[Unit.SOFTMAX] = scores_free[first - 2]
            return [keys(head, chunk, wait) for chunk in range(chunks)]

        done_context = len(build.queues[Unit.CONTEXT])
        context_blocks = 0
        done_keys = {0: maxima(0)}
        for head in range(shape.kv_heads):
            if head + 1 < shape.kv_heads:
                done_keys[head + 1] = maxima(head + 1)
            parity = heads_done & 1
            done_values = done_softmax = again = 0
            free_before = list(weights_free)
            # From the last chunk down: its scores are still there, and chunk 0 is in every pass.
            for chunk in reversed(range(chunks)):
                part = f" chunk {chunk}" if chunks > 1 else ""
                for b in range(dim_blocks):
                    # Neighbours alternate, from head to head too if the context is one chunk.
                    half = ((heads_done + chunk) * dim_blocks + b) & 1
                    first = max(done_keys[head][chunk], free_before[half])
                    looks = [(When.ANY, max(done_keys[head][chunk], weights_free[half]))]
                    if b < 2 and chunk + 1 < chunks:
                        # If it is the last chunk, nothing of those above has to be over: in the
                        # array's queue they lie behind the next head's scores.
                        looks = [(When.LAST, first), (When.EARLIER, max(again, weights_free[half]))]
                    for when, done_array in looks:
                        done_softmax = build.add(
                            Unit.SOFTMAX,
                            f"layer {number} softmax of kv head {head}{part} block {b}",
                            {Unit.ARRAY: done_array},
                            block=b,
                            scores=parity,
                            parity=half,
                            windowed=windowed,
                            chunk=chunk,
                            when=when,
                        )
                    if chunk and b == dim_blocks - 1:
                        # Ahead of the last values, which the next chunk's first scan overlaps.
                        again = keys(head, chunk - 1, {Unit.SOFTMAX: done_softmax}, again=True)
                    # The next softmax to the same half waits for this one's values.
                    tiles = -(-sizes[b] // columns)
                    address = (number * kv.layer_stride + head * kv.head_stride) // word
                    address += b * BLOCK // columns * kv.page_tokens // word
                    build.detour(TapeKind.V, address, number, tiles, windowed, chunk)
                    done_values = build.add(
                        Unit.ARRAY, f"layer {number} values of kv head {head}{part} block {b}",
                        {Unit.SOFTMAX: done_softmax}, kind=Kind.VALUES, tiles=tiles,
                        count=sizes[b], layer=number, kv_head=head, block=b,
                        parity=half, aux_shift=parity, windowed=windowed, chunk=chunk,
                    )  # fmt: skip
                    weights_free[half] = done_values
            scores_free.append(done_softmax)
            heads_done += 1
            ends = (head + 1) * group * shape.head_size
            last = head + 1 == shape.kv_heads
            ready = -(-ends // BLOCK) if last else ends // BLOCK
            if ready > context_blocks:
                done_context = build.add(
                    Unit.CONTEXT, f"layer {number} context to head {(head + 1) * group - 1}",
                    {Unit.ARRAY: done_values}, first=context_blocks,
                    blocks=ready - context_blocks, tail=min(BLOCK, ends - (ready - 1) * BLOCK),
                    floor=floor["o"], x_base=regions.context,
                )  # fmt: skip
                context_blocks = ready
        done = matmul(
            number, "o", Dest.RESIDUAL, {Unit.CONTEXT: done_context}, rows=layer.o.rows,
            x_base=regions.context, blocks=layer.o.blocks, shift=layer.shift["o"],
        )  # fmt: skip
        done_norm = norm(
            label + "ffn norm", layer.ffn_gain.codes.tolist(), floor["gate_up"],
            {Unit.ARRAY: done}, False,
        )  # fmt: skip
        done = matmul(
            number, "gate_up", Dest.GATE_UP, {Unit.NORM: done_norm}, rows=layer.gate_up.rows,
            x_base=regions.norm, blocks=blocks, shift=layer.shift["gate_up"],
            aux_shift=layer.shift["swiglu"], floor=floor["down"], y_base=regions.hidden,
        )  # fmt: skip
        done = matmul(
            number, "down", Dest.RESIDUAL, {Unit.ARRAY: done}, rows=layer.down.rows,
            x_base=regions.hidden, blocks=layer.down.blocks, shift=layer.shift["down"],
        )  # fmt: skip
        wait_residual = {Unit.ARRAY: done}
    done_norm = norm(
        "final norm", model.final_gain.codes.tolist(), model.head_floor, wait_residual, True
    )
    matmul(
        shape.layers, "head", Dest.LOGITS, {Unit.NORM: done_norm}, rows=model.head.rows,
        x_base=regions.norm, blocks=blocks, shift=model.head_shift, tail=True,
    )  # fmt: skip
    build.tape.append(pack(TAPE_OP, {"stop": 1}))

    registers = {
        "head_size": shape.head_size,
        "group": group,
        "key_blocks": dim_blocks,
        "eps": model.eps_int,
        "v_floor": model.v_floor,
        "kv_base": image.kv_base,
        "page_stride": kv.page_stride // word,
        "layer_stride": kv.layer_stride // word,
        "head_stride": kv.head_stride // word,
        "k_offset": kv.k_offset // word,
        "v_offset": kv.v_offset // word,
        "v_dim_words": kv.page_tokens // word,
        "embedding_base": image.embedding_base,
        "embedding_stride": image.embedding_stride,
        "embedding_blocks": image.embedding_blocks,
        "embedding_four_bit": int(image.embedding_four_bit),
        "width": shape.width,
        "vocab": shape.vocab,
        "window": shape.window,
        "head_eps": model.head_eps,
        "qk_norm": int(shape.qk_norm),
        "layer_blocks": 2 * shape.kv_heads * dim_blocks,
    }
    return Program(
        queues=build.queues,
        tape=build.tape,
        registers=registers,
        gains=gains,
        frequencies=[int(f) for f in model.freq],
        codebook=model.codebook,
        ones=regions.ones,
        head_gains={
            (number, query, dim): int(code)
            for number, layer in enumerate(model.layers)
            for query, gain in enumerate((layer.k_gain, layer.q_gain))
            if gain is not None
            for dim, code in enumerate(gain.codes)
        },
    )
