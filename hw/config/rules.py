"""What a hardware configuration allows, and why; which models it takes."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tokenloom.compiler.errors import ConfigError
from tokenloom.hw.config.sections import Maxima
from tokenloom.hw.numbers.formats import BLOCK, TOKENS_MAX
from tokenloom.hw.sampler.settings import CANDIDATES_MAX, VOCAB_BITS_MAX
from tokenloom.hw.sequencer.isa import ARRAY_OP, CHUNKS_MAX, DONE_BITS, NORM_OP, TAPE_OP
from tokenloom.hw.sequencer.registers import MODEL

if TYPE_CHECKING:
    from tokenloom.compiler.checkpoint import ModelShape
    from tokenloom.hw.config.hardware import HardwareConfig

__all__ = ["check", "check_model"]

_PORT_BITS = (256, 512)
_WORDS_PER_DRAIN = 128  # of a tile; `ArrayControl` counts them in 8 bits
_GROUP_ROWS = 1023  # queries of a KV head in a pass; `ArrayControl.group_rows`
_STAGES_MAX = 8  # registers per border between column groups

# Key, value, whether it is allowed, what is, and why.
Rule = tuple[str, object, bool, str, str]


def check(hardware: "HardwareConfig") -> None:
    """Raise ConfigError for the first impossible value."""
    for rules in (_counts, _maxima, _array, _memory, _units, _board, _widths):
        for key, value, good, allowed, why in rules(hardware):
            if not good:
                raise ConfigError(f"{key} = {value} is impossible: allowed is {allowed}, {why}")


def _counts(hardware: "HardwareConfig") -> Iterator[Rule]:
    """There is at least one of everything."""
    for section, part in (("memory", hardware.memory), ("maxima", hardware.maxima)):
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


def _maxima(hardware: "HardwareConfig") -> Iterator[Rule]:
    """Heads."""
    array, maxima = hardware.array, hardware.maxima
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
        not hardware.chunked or maxima.head_size >= array.drain,
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


def _array(hardware: "HardwareConfig") -> Iterator[Rule]:
    """The array."""
    array, memory, maxima = hardware.array, hardware.memory, hardware.maxima
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


def _memory(hardware: "HardwareConfig") -> Iterator[Rule]:
    """Channels, pages and chunks."""
    array, memory, maxima = hardware.array, hardware.memory, hardware.maxima
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
        hardware.pages_per_slot <= memory.pages <= 65536,
        f"{hardware.pages_per_slot} to 65536",
        f"because one sequence of maxima.positions = {maxima.positions} tokens has to fit and "
        "a page number has 16 bits",
    )
    chunk_least = max(hardware.least_tokens, memory.page_tokens)
    yield (
        "score_tokens",
        hardware.score_tokens,
        hardware.score_tokens == 0
        or (_power_of_two(hardware.score_tokens) and hardware.score_tokens >= chunk_least),
        f"0 or a power of two from {chunk_least} (whole pages of memory.page_tokens = "
        f"{memory.page_tokens}, two beats of array.lanes = {array.lanes} or a block)",
        "because a chunk of a context is found by a token's upper bits, and begins and ends "
        "where a page does",
    )


def _units(hardware: "HardwareConfig") -> Iterator[Rule]:
    """RMSNorm and the sampler."""
    maxima = hardware.maxima
    yield (
        "norm_lanes",
        hardware.norm_lanes,
        hardware.norm_lanes in (8, 16, 32),
        "8, 16 or 32",
        "because the quantiser behind RMSNorm collects whole blocks of 32",
    )
    candidates = hardware.sampler.candidates
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


def _board(hardware: "HardwareConfig") -> Iterator[Rule]:
    """The board."""
    board, memory, resources = hardware.board, hardware.board.memory, hardware.board.resources
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


def _widths(hardware: "HardwareConfig") -> Iterator[Rule]:
    """Maxima that the fields of instructions and registers hold."""
    top, fits, rows = hardware.maxima, hardware.array.columns, hardware.array.rows
    field = {name: 2**part.width - 1 for name, part in (*MODEL, *ARRAY_OP, *NORM_OP)
             if isinstance(part.shape, int)}  # fmt: skip
    norm_words = hardware.width_blocks * BLOCK // hardware.norm_lanes
    kv_blocks = top.kv_heads * hardware.head_blocks
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
        ("array.rows", "", rows, top.positions,
         "because a pass's rows are tokens of one sequence (maxima.positions)"),
        ("maxima.layers", "", top.layers, field["layer"],
         "because that is how far an instruction's layer counts"),
        ("maxima.kv_heads", "", top.kv_heads, field["kv_head"] + 1,
         "because that is how far an instruction's KV head counts"),
        ("maxima.kv_heads", " * blocks per head", kv_blocks, field["layer_blocks"] // 2,
         "because a register holds the K and V blocks of a layer"),
        ("maxima.heads", " / maxima.kv_heads", hardware.max_group, field["group"],
         "because a register holds the query heads per KV head"),
        ("maxima.heads", " / maxima.kv_heads * array.rows", hardware.max_group * rows,
         _GROUP_ROWS, "because the array counts a KV head's queries to that"),
        ("maxima.vocab", "", top.vocab, outputs,
         "because that is how far an instruction's outputs and tiles count"),
        ("maxima.ffn", " * 2", 2 * top.ffn, outputs,
         "because gate and up are one operation, whose outputs and tiles count that far"),
        ("maxima.ffn", " in blocks", hardware.ffn_blocks, field["beats"],
         "because that is how far an instruction's beats count"),
        ("maxima.width", " in blocks", hardware.width_blocks, field["beats"],
         "because that is how far an instruction's beats count"),
        ("maxima.width", " in words of norm_lanes", norm_words, field["words"],
         "because that is how far an instruction's words count"),
        ("maxima.width", " in words, times norms", norm_words * (2 * top.layers + 1),
         field["gain_base"] + 1, "because an instruction addresses all gains"),
        ("maxima.ffn", " and the other maxima in operand blocks", hardware.operand_blocks,
         field["x_base"] + 1, "because an instruction addresses all of an operand buffer"),
        ("maxima.width", " in blocks, times an operation's tiles", tape_blocks,
         2 ** TAPE_OP["blocks"].width - 1,
         "because that is how far a tape instruction's blocks count"),
        ("maxima.layers", " in operations of the array", hardware.array_operations,
         2**DONE_BITS - 1, "because instructions wait for counts of that width"),
        ("maxima.layers", " in instructions of the softmax", hardware.softmax_operations,
         2**DONE_BITS - 1, "because instructions wait for counts of that width"),
        ("score_tokens", " in chunks of maxima.positions", hardware.chunks(top.positions),
         CHUNKS_MAX, "because that is how far an instruction's chunk counts"),
    ):  # fmt: skip
        yield f"{key}{what}", number, number <= limit, f"up to {limit}", why


def check_model(hardware: "HardwareConfig", shape: "ModelShape", name: str = "the model") -> None:
    """Raise ConfigError if a model does not fit.

    A context longer than ``maxima.positions`` is no error: the chip then offers a shorter one.
    """
    for field in dataclasses.fields(Maxima):
        have, limit = int(getattr(shape, field.name)), getattr(hardware.maxima, field.name)
        if field.name != "positions" and have > limit:
            raise ConfigError(
                f"{name} does not fit hardware '{hardware.name}': its {field.name} is {have}, "
                f"maxima.{field.name} is {limit}; generate for this model, or override "
                f"with -P maxima.{field.name}={have}"
            )
    group = shape.heads // shape.kv_heads
    if group > hardware.max_group:
        raise ConfigError(
            f"{name} does not fit hardware '{hardware.name}': it has {group} query heads per KV "
            f"head, the hardware (maxima.heads / maxima.kv_heads) {hardware.max_group}"
        )
    if shape.head_size % hardware.array.drain:
        raise ConfigError(
            f"{name} does not fit hardware '{hardware.name}': its head_size is {shape.head_size}, "
            f"allowed is a multiple of array.drain = {hardware.array.drain}, because values leave "
            "the array in words that lie in one head"
        )
    columns = hardware.array.columns
    last = (shape.head_size - 1) % BLOCK + 1
    if shape.head_size > BLOCK and (BLOCK % columns or last % columns):
        raise ConfigError(
            f"{name} does not fit hardware '{hardware.name}': its head_size is {shape.head_size}, "
            f"allowed with array.columns = {columns} are columns that divide every "
            f"block of {BLOCK} dims, because a tile of V lies in one block"
        )
    # Row r speaks r cycles after row 0, so a row's short last block must not come to the shared
    # quantiser within `rows` cycles of the full block before it.
    rows = hardware.array.rows
    last_dims = (shape.head_size - 1) % BLOCK + 1
    last_hidden = 2 * ((shape.ffn - 1) % BLOCK + 1) if shape.ffn > BLOCK else rows
    if rows > min(last_dims, last_hidden):
        raise ConfigError(
            f"{name} does not fit hardware '{hardware.name}': array.rows is {rows}, allowed for a "
            f"head size of {shape.head_size} and an ffn of {shape.ffn} is at most "
            f"{min(last_dims, last_hidden)}, because the rows share one quantiser"
        )


def _power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0
