"""Hardware configuration: one frozen tree of dataclasses, derived and validated in one place.

A chip is generated for a board and for *maxima*; a model's dimensions are program data below them.
Presets are TOML files in ``hw/presets``; :func:`load` reads one, applies overrides and validates.
"""

import dataclasses
import difflib
import hashlib
import json
import re
import tomllib
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tokenloom.compiler.errors import ConfigError
from tokenloom.hw.numbers.formats import BLOCK, TOKENS_MAX
from tokenloom.hw.sampler.settings import CANDIDATES_MAX, VOCAB_BITS_MAX
from tokenloom.hw.sequencer.isa import ARRAY_OP, CHUNKS_MAX, DONE_BITS, NORM_OP, TAPE_OP
from tokenloom.hw.sequencer.registers import MODEL

if TYPE_CHECKING:
    from tokenloom.compiler.checkpoint import ModelShape

__all__ = [
    "ArrayConfig",
    "BoardConfig",
    "BoardMemory",
    "BoardResources",
    "HardwareConfig",
    "Maxima",
    "MemoryConfig",
    "SamplerConfig",
    "load",
    "presets",
]

_PORT_BITS = (256, 512)
_WORDS_PER_DRAIN = 128  # of a tile; `ArrayControl` counts them in 8 bits
_GROUP_ROWS = 1023  # queries of a KV head in a pass; `ArrayControl.group_rows`
_STAGES_MAX = 8  # registers per border between column groups
_HEADER_WORDS = 8  # kept at least, so that scales are there before their codes
_PRESETS = Path(__file__).resolve().parent / "presets"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArrayConfig:
    """The array of dot-product elements: ``columns`` x ``rows`` elements of ``lanes`` products."""

    columns: int
    """C: memory channels, each with its own stream of weights."""
    lanes: int
    """K: products of an 8-bit and a 9-bit code per element and cycle."""
    rows: int
    """R: tokens per pass."""
    drain: int
    """W: sums that leave each row per cycle in attention."""
    multiplier: str = "plain"
    """What makes products: "plain", one multiplier each, or "packed", one for two columns'."""
    groups: int = 1
    """Groups of neighbouring columns, as dies have them; the first is next to the core."""
    stages: int = 0
    """Register stages on each border between groups."""

    @property
    def packed(self) -> bool:
        """Whether two neighbouring columns share their multipliers."""
        return self.multiplier == "packed"

    @property
    def macs(self) -> int:
        """Products of weights and activations per cycle."""
        return self.columns * self.lanes * self.rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """The memory behind the array: one channel per column."""

    port_bits: int
    """Width of a channel's data port."""
    buffer_words: int
    """Words of prefetch per channel."""
    page_tokens: int
    """Tokens per KV page, spread over all channels."""
    pages: int
    """KV pages in total."""
    slots: int
    """Sequences whose KV the chip holds at the same time."""
    retries: int
    """Further attempts after a memory's error response, before the request is given up."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """The sampler."""

    candidates: int = 0
    """Ids in the list in which top-k, top-p and min-p cut; 0: neither list nor penalty nor bias."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Maxima:
    """The largest model that the chip takes."""

    width: int
    """Values of the residual stream."""
    ffn: int
    """Hidden values of the feed-forward network."""
    heads: int
    """Query heads."""
    kv_heads: int
    """Key and value heads."""
    head_size: int
    """Values per head."""
    vocab: int
    """Tokens in the vocabulary."""
    positions: int
    """Context length."""
    layers: int
    """Transformer layers."""
    qk_norm: int = 0
    """1 for an RMSNorm of every head of q and k (Qwen3)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoardMemory:
    """The board's memory as the chip may use it; the figures' sources are in docs/boards.md."""

    kind: str
    """What it is made of, as HBM2."""
    channels: int
    """Independent channels; the array's columns are dealt out to them in turn."""
    channel_gbs: float
    """Peak of one channel in 10^9 bytes per second."""
    channel_mib: float
    """Capacity of one channel in 2^20 bytes."""
    ceiling: float
    """Share of the peak that linear reads have been seen to reach; 1 where nobody has measured."""
    tag: str = ""
    """What the vendor's platform calls channel `{n}`, as HBM[{n}]; empty where there is none."""

    @property
    def bytes(self) -> int:
        """Capacity of all channels."""
        return self.channels * int(self.channel_mib * 2**20)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoardResources:
    """What the FPGA has, before the vendor's shell; all 0 for a simulated board."""

    luts: int = 0
    """Look-up tables."""
    flip_flops: int = 0
    """Flip-flops."""
    dsps: int = 0
    """Multiplier blocks."""
    dsp_kind: str = ""
    """What such a block is, as DSP48E2."""
    block_ram_kbit: int = 0
    """Block memory in 1024 bits."""
    ultra_ram_kbit: int = 0
    """UltraRAM in 1024 bits."""
    shell_luts: int = 0
    """Of the look-up tables, those that the vendor's shell and memory connection take."""
    shell_flip_flops: int = 0
    """Of the flip-flops, the same."""
    shell_dsps: int = 0
    """Of the multiplier blocks, the same."""
    shell_block_ram_kbit: int = 0
    """Of the block memory, the same."""
    slrs: int = 1
    """Dies (super logic regions) that the FPGA consists of."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoardConfig:
    """The board that carries the chip."""

    name: str
    """Name for people."""
    part: str
    """The FPGA's part number; empty for a simulated board."""
    clock_mhz: float
    """Clock of the core, for figures derived from cycles: an assumption until placed and routed."""
    memory: BoardMemory
    """Its memory."""
    platform: str = ""
    """The vendor's platform (shell); empty where there is none."""
    missing: str = ""
    """What keeps the generated chip off this board; empty if nothing is known to."""
    resources: BoardResources = BoardResources()
    """What the FPGA has."""

    @property
    def bandwidth_gbs(self) -> float:
        """Peak memory bandwidth in 10^9 bytes per second, over all channels."""
        return self.memory.channels * self.memory.channel_gbs


@dataclasses.dataclass(frozen=True, kw_only=True)
class HardwareConfig:
    """Everything that the generator needs to know about a chip.

    Raises
    ------
    ConfigError
        If a value is impossible: the message has the key, the value, what is allowed, and why.
    """

    name: str
    """The preset's name."""
    array: ArrayConfig
    """The array."""
    memory: MemoryConfig
    """Memory channels and KV pages."""
    maxima: Maxima
    """The largest model."""
    board: BoardConfig
    """The board."""
    norm_lanes: int
    """Residual values that RMSNorm takes per cycle."""
    sampler: SamplerConfig = SamplerConfig()
    """The sampler."""
    score_tokens: int = 0
    """Tokens whose scores attention holds at a time; 0: all positions. Longer contexts come in
    chunks of that many tokens, and their keys are streamed up to twice."""

    def __post_init__(self) -> None:
        self.validate()

    # Derived: the array and its tapes.

    @property
    def blocks_per_beat(self) -> int:
        """Quantisation blocks that a column takes per cycle."""
        return self.array.lanes // BLOCK

    @property
    def width_blocks(self) -> int:
        """Blocks of the longest residual vector; the last may be padded."""
        return -(-self.maxima.width // BLOCK)

    @property
    def ffn_blocks(self) -> int:
        """Blocks of the longest feed-forward vector; the last may be padded."""
        return -(-self.maxima.ffn // BLOCK)

    # Derived: columns on the board's channels.

    @property
    def channel_columns(self) -> int:
        """Columns that the fullest channel of the board's memory serves."""
        return -(-self.array.columns // self.board.memory.channels)

    @property
    def column_gbs(self) -> float:
        """Peak that a column can count on: all run in step, so the fullest channel sets it."""
        return self.board.memory.channel_gbs / self.channel_columns

    @property
    def column_bytes(self) -> int:
        """Memory that a column can count on."""
        return int(self.board.memory.channel_mib * 2**20) // self.channel_columns

    # Derived: attention and its cache.

    @property
    def max_group(self) -> int:
        """Query heads per KV head."""
        return self.maxima.heads // self.maxima.kv_heads

    @property
    def head_blocks(self) -> int:
        """Quantisation blocks per head."""
        return -(-self.maxima.head_size // BLOCK)

    @property
    def memory_dim_blocks(self) -> int:
        """Blocks of a token and head in memory: whole beats."""
        return self._whole_beats(self.head_blocks)

    @property
    def attention_tokens(self) -> int:
        """Tokens that attention's buffers hold: whole blocks, two beats' at least."""
        return self.score_tokens if self.chunked else self._all_tokens

    @property
    def _all_tokens(self) -> int:
        return max(self._least_tokens, -(-self.maxima.positions // BLOCK) * BLOCK)

    @property
    def _least_tokens(self) -> int:
        return 2 * self.array.lanes if self.blocks_per_beat > 1 else BLOCK

    @property
    def chunked(self) -> bool:
        """Whether a context can be longer than attention's buffers."""
        return 0 < self.score_tokens < self._all_tokens

    def chunks(self, tokens: int) -> int:
        """Chunks in which attention takes a context of `tokens`."""
        return -(-tokens // self.score_tokens) if self.chunked else 1

    @property
    def pages_per_slot(self) -> int:
        """Pages of the longest sequence."""
        return -(-self.maxima.positions // self.memory.page_tokens)

    @property
    def header_words(self) -> int:
        """Words of scales, minima or exponents that a channel keeps: all exponents of a K page."""
        blocks = self.memory.page_tokens // self.array.columns * self.memory_dim_blocks
        page = -(-blocks // (self.memory.port_bits // 16))
        return max(_HEADER_WORDS, 1 << (page - 1).bit_length())

    @property
    def operand_blocks(self) -> int:
        """Blocks in an operand buffer at the maxima: norm output, the constant block for biases,
        context, hidden, queries.
        """
        top = self.maxima
        queries = top.kv_heads * self.max_group * self.memory_dim_blocks
        parts = (self.width_blocks + 1, -(-top.heads * top.head_size // BLOCK), self.ffn_blocks)
        return sum(map(self._whole_beats, parts)) + queries

    def _whole_beats(self, blocks: int) -> int:
        return -(-blocks // self.blocks_per_beat) * self.blocks_per_beat

    @property
    def array_operations(self) -> int:
        """Most operations of the array in a pass: six matmuls, scores and values of each layer.

        Of n chunks, n - 1 are scored twice.
        """
        top = self.maxima
        chunks = self.chunks(top.positions)
        per_head = 2 * chunks - 1 + chunks * self.head_blocks
        return top.layers * (6 + top.kv_heads * per_head) + 1

    @property
    def softmax_operations(self) -> int:
        """Most instructions of the softmax in a pass.

        Of a chunk that need not be the last, the first two are there twice: if it is, they wait
        for less.
        """
        top = self.maxima
        chunks = self.chunks(top.positions)
        return (
            top.layers
            * top.kv_heads
            * (chunks * self.head_blocks + (chunks - 1) * min(2, self.head_blocks))
        )

    # Checks.

    def validate(self) -> None:
        """Raise ConfigError for the first impossible value."""
        for key, value, good, allowed, why in self._rules():
            if not good:
                raise ConfigError(f"{key} = {value} is impossible: allowed is {allowed}, {why}")

    def _rules(self) -> Iterator[tuple[str, object, bool, str, str]]:
        array, memory, maxima = self.array, self.memory, self.maxima

        for section, part in (("memory", memory), ("maxima", maxima)):
            for field in dataclasses.fields(part):
                value = getattr(part, field.name)
                if field.name == "qk_norm":
                    yield (
                        f"{section}.{field.name}",
                        value,
                        value in (0, 1),
                        "0 or 1",
                        "because it is there or not",
                    )
                    continue
                yield (
                    f"{section}.{field.name}",
                    value,
                    value >= 1,
                    "1 or more",
                    "because the chip has at least one of each",
                )
        yield (
            "maxima.head_size",
            maxima.head_size,
            maxima.head_size % 2 == 0 and maxima.head_size <= 256,
            "an even number up to 256",
            "because RoPE rotates pairs and the query memory is built for eight blocks per head",
        )
        yield (
            "maxima.head_size",
            maxima.head_size,
            not self.chunked or maxima.head_size >= array.drain,
            f"array.drain = {array.drain} or more with contexts in chunks",
            "because a head's sums are kept in the words that the array drains",
        )
        yield (
            "maxima.kv_heads",
            maxima.kv_heads,
            maxima.heads % maxima.kv_heads == 0,
            f"a divisor of maxima.heads = {maxima.heads}",
            "because each KV head serves the same number of query heads",
        )
        yield (
            "array.columns",
            array.columns,
            _power_of_two(array.columns) and 2 <= array.columns <= 256,
            "a power of two from 2 to 256",
            "because tokens and embedding rows are dealt out to the columns by their lowest bits, "
            "each KV page (256 tokens at most) has a token in every column's channel, and RoPE "
            "takes a pair of values in successive cycles, so from one tile",
        )
        yield (
            "array.lanes",
            array.lanes,
            array.lanes in (BLOCK, 2 * BLOCK, 4 * BLOCK)
            # A port of an impossible width is named by its own rule.
            and (memory.port_bits not in _PORT_BITS or 4 * array.lanes <= memory.port_bits),
            f"{BLOCK}, {2 * BLOCK} or {4 * BLOCK}, at most memory.port_bits / 4",
            "because a beat is whole blocks, and a word of 4-bit codes is one beat or more",
        )
        yield (
            "array.multiplier",
            array.multiplier,
            array.multiplier in ("plain", "packed"),
            "plain or packed",
            "because a multiplier takes one product or two",
        )
        units = array.columns // (2 if array.packed else 1)
        yield (
            "array.groups",
            array.groups,
            1 <= array.groups <= units,
            f"1 to {units}",
            "because each group has a column, or a pair of packed ones",
        )
        yield (
            "array.stages",
            array.stages,
            0 <= array.stages <= _STAGES_MAX,
            f"0 to {_STAGES_MAX}",
            "because more than a few registers per border help nobody",
        )
        row_limit = min(BLOCK, maxima.head_size)
        yield (
            "array.rows",
            array.rows,
            _power_of_two(array.rows) and array.rows <= row_limit,
            f"a power of two, 1 to {row_limit} (the smaller of 32 and maxima.head_size)",
            "because a query's row and slot are bits of one number, and all rows share one "
            "quantiser, which accepts one block per cycle",
        )
        yield (
            "array.drain",
            array.drain,
            _power_of_two(array.drain)
            and array.drain <= BLOCK
            and array.columns % array.drain == 0
            and array.columns // array.drain <= _WORDS_PER_DRAIN,
            f"a power of two up to {BLOCK} that divides array.columns = {array.columns} into at "
            f"most {_WORDS_PER_DRAIN} parts",
            "because the columns' sums leave in equal words, and words make up a block",
        )
        yield (
            "memory.port_bits",
            memory.port_bits,
            memory.port_bits in _PORT_BITS,
            "256 or 512",
            "because these are the widths of the boards' memory ports",
        )
        yield (
            "memory.buffer_words",
            memory.buffer_words,
            memory.buffer_words >= 32 and _power_of_two(memory.buffer_words),
            "a power of two from 32 on",
            "because the buffer's pointers wrap and two AXI bursts of 16 beats have to fit",
        )
        page_least = max(array.lanes, array.columns, memory.port_bits // 8)
        yield (
            "memory.page_tokens",
            memory.page_tokens,
            _power_of_two(memory.page_tokens) and page_least <= memory.page_tokens <= 256,
            f"a power of two from {page_least} (the largest of array.lanes = {array.lanes}, "
            f"array.columns = {array.columns} and memory.port_bits / 8) to 256",
            "because a page is found by a token's upper bits, each channel holds the same share "
            "of it, and a dim of V takes whole memory words",
        )
        yield (
            "memory.pages",
            memory.pages,
            self.pages_per_slot <= memory.pages <= 65536,
            f"{self.pages_per_slot} to 65536",
            f"because one sequence of maxima.positions = {maxima.positions} tokens has to fit and "
            "a page number has 16 bits",
        )
        chunk_least = max(self._least_tokens, memory.page_tokens)
        yield (
            "score_tokens",
            self.score_tokens,
            self.score_tokens == 0
            or (_power_of_two(self.score_tokens) and self.score_tokens >= chunk_least),
            f"0 or a power of two from {chunk_least} (whole pages of memory.page_tokens = "
            f"{memory.page_tokens}, two beats of array.lanes = {array.lanes} or a block)",
            "because a chunk of a context is found by a token's upper bits, and begins and ends "
            "where a page does",
        )
        yield (
            "norm_lanes",
            self.norm_lanes,
            self.norm_lanes in (8, 16, 32),
            "8, 16 or 32",
            "because the quantiser behind RMSNorm collects whole blocks of 32",
        )
        candidates = self.sampler.candidates
        yield (
            "sampler.candidates",
            candidates,
            candidates == 0 or 2 <= candidates <= CANDIDATES_MAX,
            f"0, or 2 to {CANDIDATES_MAX}",
            "because a request's settings count candidates to that",
        )
        yield (
            "maxima.vocab",
            maxima.vocab,
            candidates == 0 or maxima.vocab <= 1 << VOCAB_BITS_MAX,
            f"up to {1 << VOCAB_BITS_MAX} with sampler.candidates = {candidates}",
            "because that is how many powers the sampler's sum holds",
        )
        yield from self._board_rules()
        yield from self._widths()

    def _board_rules(self) -> Iterator[tuple[str, object, bool, str, str]]:
        board, memory, resources = self.board, self.board.memory, self.board.resources
        yield (
            "board.clock_mhz",
            board.clock_mhz,
            0 < board.clock_mhz < float("inf"),
            "a number above 0",
            "because rates are derived from it",
        )
        for key, number in (
            ("board.memory.channels", memory.channels),
            ("board.memory.channel_gbs", memory.channel_gbs),
            ("board.memory.channel_mib", memory.channel_mib),
        ):
            yield (
                key,
                number,
                0 < number < float("inf"),
                "a number above 0",
                "because rates and contexts are derived from it",
            )
        yield (
            "board.memory.ceiling",
            memory.ceiling,
            0 < memory.ceiling <= 1,
            "above 0, up to 1",
            "because it is a share of the peak",
        )
        least = 1 if board.part else 0
        for key in ("luts", "flip_flops", "dsps", "block_ram_kbit"):
            number = getattr(resources, key)
            yield (
                f"board.resources.{key}",
                number,
                number >= least,
                f"{least} or more",
                f"because board.part is {board.part!r}, and every FPGA has some"
                if least
                else "because it is a number of things",
            )
        yield (
            "board.resources.ultra_ram_kbit",
            resources.ultra_ram_kbit,
            resources.ultra_ram_kbit >= 0,
            "0 or more",
            "because not every FPGA has UltraRAM, but none has less than nothing",
        )
        for key in ("luts", "flip_flops", "dsps", "block_ram_kbit"):
            shell, whole = getattr(resources, f"shell_{key}"), getattr(resources, key)
            yield (
                f"board.resources.shell_{key}",
                shell,
                0 <= shell <= whole,
                f"0 to board.resources.{key} = {whole}",
                "because the shell is part of the FPGA",
            )
        yield (
            "board.resources.slrs",
            resources.slrs,
            resources.slrs >= 1,
            "1 or more",
            "because an FPGA has at least one die",
        )

    def _widths(self) -> Iterator[tuple[str, object, bool, str, str]]:
        """Maxima that the fields of instructions and registers hold."""
        top, fits = self.maxima, self.array.columns
        field = {name: 2**part.width - 1 for name, part in (*MODEL, *ARRAY_OP, *NORM_OP)
                 if isinstance(part.shape, int)}  # fmt: skip
        norm_words = self.width_blocks * BLOCK // self.norm_lanes
        kv_blocks = top.kv_heads * self.head_blocks
        outputs = min(field["count"], field["tiles"] * fits)
        context = top.heads * top.head_size
        tape_blocks = max(
            -(-rows // fits) * -(-columns // BLOCK)
            for rows, columns in (
                (max(top.vocab, 2 * top.ffn, context), top.width),
                (top.width, max(top.ffn, context)),
            )
        )
        for key, what, number, limit, why in (
            ("maxima.positions", "", top.positions, TOKENS_MAX,
             "because a softmax's denominator has 35 bits"),
            ("array.rows", "", self.array.rows, top.positions,
             "because a pass's rows are tokens of one sequence (maxima.positions)"),
            ("maxima.layers", "", top.layers, field["layer"],
             "because that is how far an instruction's layer counts"),
            ("maxima.kv_heads", "", top.kv_heads, field["kv_head"] + 1,
             "because that is how far an instruction's KV head counts"),
            ("maxima.kv_heads", " * blocks per head", kv_blocks, field["layer_blocks"] // 2,
             "because a register holds the K and V blocks of a layer"),
            ("maxima.heads", " / maxima.kv_heads", self.max_group, field["group"],
             "because a register holds the query heads per KV head"),
            ("maxima.heads", " / maxima.kv_heads * array.rows", self.max_group * self.array.rows,
             _GROUP_ROWS, "because the array counts a KV head's queries to that"),
            ("maxima.vocab", "", top.vocab, outputs,
             "because that is how far an instruction's outputs and tiles count"),
            ("maxima.ffn", " * 2", 2 * top.ffn, outputs,
             "because gate and up are one operation, whose outputs and tiles count that far"),
            ("maxima.ffn", " in blocks", self.ffn_blocks, field["beats"],
             "because that is how far an instruction's beats count"),
            ("maxima.width", " in blocks", self.width_blocks, field["beats"],
             "because that is how far an instruction's beats count"),
            ("maxima.width", " in words of norm_lanes", norm_words, field["words"],
             "because that is how far an instruction's words count"),
            ("maxima.width", " in words, times norms", norm_words * (2 * top.layers + 1),
             field["gain_base"] + 1, "because an instruction addresses all gains"),
            ("maxima.ffn", " and the other maxima in operand blocks", self.operand_blocks,
             field["x_base"] + 1, "because an instruction addresses all of an operand buffer"),
            ("maxima.width", " in blocks, times an operation's tiles", tape_blocks,
             2 ** TAPE_OP["blocks"].width - 1,
             "because that is how far a tape instruction's blocks count"),
            ("maxima.layers", " in operations of the array", self.array_operations,
             2**DONE_BITS - 1, "because instructions wait for counts of that width"),
            ("maxima.layers", " in instructions of the softmax", self.softmax_operations,
             2**DONE_BITS - 1, "because instructions wait for counts of that width"),
            ("score_tokens", " in chunks of maxima.positions", self.chunks(top.positions),
             CHUNKS_MAX, "because that is how far an instruction's chunk counts"),
        ):  # fmt: skip
            yield f"{key}{what}", number, number <= limit, f"up to {limit}", why

    def losses(self) -> list[str]:
        """What the configuration wastes: legal, but worth a warning."""
        found = []
        beats = self.maxima.width // self.array.lanes
        if self.array.columns > beats:
            found.append(
                f"array.columns = {self.array.columns} is more than maxima.width / array.lanes = "
                f"{beats}: sums drain one column per cycle, so the array waits "
                f"{self.array.columns - beats} cycles after each tile of a width-long product"
            )
        return found

    def check_model(self, shape: "ModelShape", name: str = "the model") -> None:
        """Raise ConfigError if a model does not fit.

        A context longer than ``maxima.positions`` is no error: the chip then offers a shorter one.
        """
        for field in dataclasses.fields(Maxima):
            have, limit = int(getattr(shape, field.name)), getattr(self.maxima, field.name)
            if field.name != "positions" and have > limit:
                raise ConfigError(
                    f"{name} does not fit hardware '{self.name}': its {field.name} is {have}, "
                    f"maxima.{field.name} is {limit}; generate for this model, or override "
                    f"with -P maxima.{field.name}={have}"
                )
        group = shape.heads // shape.kv_heads
        if group > self.max_group:
            raise ConfigError(
                f"{name} does not fit hardware '{self.name}': it has {group} query heads per KV "
                f"head, the hardware (maxima.heads / maxima.kv_heads) {self.max_group}"
            )
        if shape.head_size % self.array.drain:
            raise ConfigError(
                f"{name} does not fit hardware '{self.name}': its head_size is {shape.head_size}, "
                f"allowed is a multiple of array.drain = {self.array.drain}, because values leave "
                "the array in words that lie in one head"
            )
        last = (shape.head_size - 1) % BLOCK + 1
        if shape.head_size > BLOCK and (BLOCK % self.array.columns or last % self.array.columns):
            raise ConfigError(
                f"{name} does not fit hardware '{self.name}': its head_size is {shape.head_size}, "
                f"allowed with array.columns = {self.array.columns} are columns that divide every "
                f"block of {BLOCK} dims, because a tile of V lies in one block"
            )
        # Row r speaks r cycles after row 0, so a row's short last block must not come to the shared
        # quantiser within `rows` cycles of the full block before it.
        rows = self.array.rows
        last_dims = (shape.head_size - 1) % BLOCK + 1
        last_hidden = 2 * ((shape.ffn - 1) % BLOCK + 1) if shape.ffn > BLOCK else rows
        if rows > min(last_dims, last_hidden):
            raise ConfigError(
                f"{name} does not fit hardware '{self.name}': array.rows is {rows}, allowed for a "
                f"head size of {shape.head_size} and an ffn of {shape.ffn} is at most "
                f"{min(last_dims, last_hidden)}, because the rows share one quantiser"
            )

    # As data.

    def to_dict(self) -> dict[str, Any]:
        """The tree as plain dictionaries; :func:`from_dict`'s inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "HardwareConfig":
        """Build and validate a tree from plain dictionaries."""
        return _build(data, lambda key: "")

    def digest(self) -> str:
        """SHA-256 of the canonical JSON form, as hexadecimal text."""
        data = self.to_dict()
        if not self.score_tokens:
            del data["score_tokens"]  # a chip without chunks is what it was before there were any
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


def presets() -> list[str]:
    """Names of the presets that come with tokenloom."""
    return sorted(path.stem for path in _PRESETS.glob("*.toml"))


def load(
    name_or_path: str | Path,
    overrides: Sequence[str] = (),
    maxima_from: "ModelShape | None" = None,
) -> HardwareConfig:
    """Read a preset, take the maxima from a model if one is given, apply overrides, validate.

    Parameters
    ----------
    name_or_path
        Name of a preset, or the path of a TOML file.
    overrides
        Texts of the form ``array.columns=8``; they win over file and model.
    maxima_from
        The model for which to build the chip. ``positions`` becomes the smaller one of model and
        preset, since the preset's is what the board has memory for.

    Raises
    ------
    ConfigError
        If the preset does not exist, or a key or value is wrong.
    """
    path = _find(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: is not a TOML file: {error}") from error

    places = {key: f"{path}:{line}:{column}: " for key, (line, column) in _places(text).items()}

    def where(key: str) -> str:
        return places.get(key, f"{path}: ")

    # Checked before the model and the overrides replace values, so that the file's errors show.
    _check_keys(data, HardwareConfig, "", where)
    if maxima_from is not None:
        maxima = {
            field.name: int(getattr(maxima_from, field.name))
            for field in dataclasses.fields(Maxima)
        }
        maxima["positions"] = min(maxima["positions"], data["maxima"]["positions"])
        data["maxima"] = maxima
        places.update({f"maxima.{key}": f"{path}, sized for the model: " for key in maxima})
    for override in overrides:
        places[_apply(data, override)] = f"-P {override}: "
    return _build(data, where)


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.suffix == ".toml" or len(path.parts) != 1:
        if not path.is_file():
            raise ConfigError(f"{path}: there is no such hardware file")
        return path
    if path.name not in presets():
        raise ConfigError(
            f"'{name_or_path}' is no hardware preset; there are {', '.join(presets())}, "
            "or give the path of a .toml file"
        )
    return _PRESETS / f"{path.name}.toml"


def _places(text: str) -> dict[str, tuple[int, int]]:
    """Line and column of each key, as far as a scan of the lines finds it."""
    found: dict[str, tuple[int, int]] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+\s*([\w.\-\"']+)\s*\]", line):
            section = header[1].replace('"', "") + "."
            found.setdefault(section[:-1], (number, header.start(1) + 1))
        elif pair := re.match(r"\s*([\w.\-\"']+)\s*=", line):
            found.setdefault(section + pair[1].replace('"', ""), (number, pair.start(1) + 1))
    return found


def _apply(data: dict[str, Any], override: str) -> str:
    """Set one value; return its key."""
    key, equals, text = (part.strip() for part in override.partition("="))
    if not equals or not key:
        raise ConfigError(f"-P {override}: has to be of the form key=value, as array.columns=8")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text

    def where(_: str) -> str:
        return f"-P {override}: "

    *sections, last = key.split(".")
    kind: type = HardwareConfig
    node = data
    prefix = ""
    for section in sections:
        fields = _fields(kind)
        if not dataclasses.is_dataclass(fields.get(section)):
            _unknown(prefix + section, section, kind, where)
        kind, node = fields[section], node.setdefault(section, {})
        prefix += section + "."
    fields = _fields(kind)
    if last not in fields:
        _unknown(key, last, kind, where)
    _check_type(key, value, fields[last], where)
    node[last] = value
    return key


def _fields(kind: type) -> dict[str, type]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _check_keys(
    data: Mapping[str, Any], kind: type, prefix: str, where: Callable[[str], str]
) -> None:
    fields = _fields(kind)
    for key, value in data.items():
        if key not in fields:
            _unknown(prefix + key, key, kind, where)
        _check_type(prefix + key, value, fields[key], where)
    for field in dataclasses.fields(kind):
        if field.name not in data and field.default is dataclasses.MISSING:
            place = where(prefix.rstrip("."))
            raise ConfigError(f"{place}the key {prefix}{field.name} is missing")


def _check_type(key: str, value: Any, kind: type, where: Callable[[str], str]) -> None:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where(key)}{key} has to be a section, not {_show(value)}")
        _check_keys(value, kind, key + ".", where)
        return
    good: tuple[type, ...] = (int, float) if kind is float else (kind,)
    if isinstance(value, bool) or not isinstance(value, good):
        name = {int: "a whole number", float: "a number", str: "a text"}[kind]
        raise ConfigError(f"{where(key)}{key} has to be {name}, not {_show(value)}")


def _show(value: Any) -> str:
    return f"the section {{{', '.join(value)}}}" if isinstance(value, Mapping) else repr(value)


def _unknown(key: str, last: str, kind: type, where: Callable[[str], str]) -> NoReturn:
    allowed = list(_fields(kind))
    close = difflib.get_close_matches(last, allowed, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ConfigError(f"{where(key)}unknown key {key}{hint}; allowed: {', '.join(allowed)}")


def _build(data: Mapping[str, Any], where: Callable[[str], str]) -> HardwareConfig:
    _check_keys(data, HardwareConfig, "", where)
    try:
        hardware = _instance(HardwareConfig, data)
        assert isinstance(hardware, HardwareConfig)
        return hardware
    except ConfigError as error:
        key = str(error).split(" ", 1)[0]
        raise ConfigError(f"{where(key)}{error}") from None


def _instance(kind: type, data: Mapping[str, Any]) -> Any:
    """An instance of dataclass `kind` from data that `_check_keys` has seen."""
    values: dict[str, Any] = {}
    for key, inner in _fields(kind).items():
        if key not in data:
            continue
        if dataclasses.is_dataclass(inner):
            values[key] = _instance(inner, data[key])
        else:
            values[key] = float(data[key]) if inner is float else data[key]
    return kind(**values)
