"""The embedding table in the catalog."""

from __future__ import annotations

from typing import Any

from tokenloom.hw.catalog.spec import BlockSpec, Parameter, Timing
from tokenloom.hw.embedding.embedding_table import EmbeddingTable

__all__ = ["SPEC"]


def _timing(**parameters: Any) -> list[Timing]:
    unit = EmbeddingTable(**parameters)
    return [
        Timing("an id to its row's first slice", "stages", unit.latency, "3 cycles"),
        Timing("a row, slice by slice", "slices = lookups / copies", unit.slices),
        Timing("cycles between ids of a port", "slices", unit.slices),
        Timing("rows per cycle", "copies", unit.lookups_per_cycle, "8 tokens per cycle (copies=8)"),
        Timing("memory in bits", "copies · vocab · slices · word_bits", unit.memory_bits),
    ]


async def _stimulus(ctx: Any, block: Any, parameters: dict[str, Any]) -> None:
    """A few rows, then three times ids on every port, one of them unknown."""
    lookups, slices = parameters["lookups"], parameters["lookups"] // parameters["copies"]
    size = len(block.out_values) // (32 * lookups)
    ctx.set(block.used_vocab, 4)
    for row in range(4):
        for piece in range(slices):
            codes = sum((16 * row + piece) << 8 * i for i in range(size))
            scales = sum(0x0C00 << 32 * i for i in range(max(1, size // 32)))
            ctx.set(block.cfg_we, 1)
            ctx.set(block.cfg_row, row)
            ctx.set(block.cfg_slice, piece)
            ctx.set(block.cfg_data, scales << 8 * size | codes)
            await ctx.tick()
    ctx.set(block.cfg_we, 0)
    for number in range(3):
        ids = [(port + number) % 4 for port in range(lookups)]
        if number == 1:
            ids[0] = 9
        ctx.set(block.in_mask, (1 << lookups) - 1)
        ctx.set(block.in_ids, sum(one << 32 * port for port, one in enumerate(ids)))
        ctx.set(block.in_valid, 1)
        await ctx.tick()
        ctx.set(block.in_valid, 0)
        if slices > 1:
            await ctx.tick().repeat(slices - 1)


SPEC = BlockSpec(
    name="embedding",
    title="Embedding table on chip",
    summary="Rows of a table for several ids in one cycle, whatever the ids, dequantised.",
    parameters=(
        Parameter("vocab", 512, "1..1048576", "Largest number of rows."),
        Parameter("width", 64, "1 or more", "Largest number of values per row."),
        Parameter("lookups", 8, "1, 2, 4, 8 or 16", "Ids at once."),
        Parameter("copies", 1, "a power of two up to lookups", "Copies of the table."),
        Parameter("stages", 3, "3..5", "Pipeline depth."),
    ),
    build=EmbeddingTable,
    timing=_timing,
    formula=(
        "`drain((code · m) << sw + m_min << sw_min, shift)`, points 2 and 3 of "
        "[numbers.md](../numbers.md), for each value of the rows asked for. Ports take turns at "
        "the banks, each of which holds a slice of every row "
        "([decision 21](../decisions/0021-embedding-table.md))."
    ),
    verified=(
        "Every slice of every port in its cycle against `formats.embed`, with ids twice, unknown "
        "ids, ports without an id and stalls (`tests/hw/embedding/test_embedding_table.py`; a "
        "million values with TOKENLOOM_DEEP=1)."
    ),
    stimulus=_stimulus,
    signals=("cfg_we", "in_valid", "in_mask", "out_valid", "out_slice", "out_refused", "refused"),
    cycles=66,
    small=("vocab=64", "width=32", "lookups=2"),
)
