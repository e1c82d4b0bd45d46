"""The KV-cache manager in the catalog."""

from __future__ import annotations

from typing import Any

from tokenloom.hw.catalog.spec import BlockSpec, Parameter, Timing
from tokenloom.hw.kv.eviction import Eviction
from tokenloom.hw.kv.kv_manager import KvManager

__all__ = ["SPEC"]


def _build(
    *, slots: int, pages: int, positions: int, page_tokens: int, slot_pages: int
) -> KvManager:
    return KvManager(
        slots=slots,
        pages=pages,
        positions=positions,
        page_tokens=page_tokens,
        slot_pages=slot_pages or None,
    )


def _timing(
    *, slots: int, pages: int, positions: int, page_tokens: int, slot_pages: int
) -> list[Timing]:
    most = slot_pages or -(-positions // page_tokens)
    begin = KvManager.begin_cycles
    return [
        Timing("look-up", "1, one per cycle", 1, "addresses computed ahead"),
        Timing("begin within the pages held", "8", begin(written=1, new=0)),
        Timing(
            "begin that needs n new pages, here 1, and writes into w held ones, here 0",
            "6 + 2 w + 2 n",
            begin(written=0, new=1),
        ),
        Timing(
            "begin that copies a shared page and needs no other",
            "13 + cycles of copy_valid",
            begin(written=1, new=0, shared=1),
        ),
        Timing(
            "begin whose window moves on, n pages given back, here 1, 1 new",
            "6 + (2 n + 2) + 2",
            begin(written=0, new=1, trimmed=1),
        ),
        Timing("fork that shares n pages, here all", "4 + 2 n", KvManager.fork_cycles(most)),
        Timing("release of n pages, here all", "3 + 2 n", KvManager.release_cycles(most)),
        Timing(
            "evict among n pages of one slot, here all",
            f"5 + n + {Eviction.LATENCY}",
            KvManager.evict_cycles(most),
        ),
        Timing(
            "evict among n pages of all slots, here all pages",
            f"2 + 3 slots + n + {Eviction.LATENCY}",
            KvManager.evict_cycles(pages, slots),
        ),
    ]


async def _stimulus(ctx: Any, block: Any, parameters: dict[str, Any]) -> None:
    """A prompt of one and a half pages, a fork, and a token that has a page copied."""
    page = parameters["page_tokens"]

    async def play(name: str, **values: int) -> None:
        for field, value in values.items():
            ctx.set(getattr(block, f"{name}_{field}"), value)
        ctx.set(getattr(block, f"{name}_valid"), 1)
        await ctx.tick()
        ctx.set(getattr(block, f"{name}_valid"), 0)
        while not ctx.get(block.done):
            ctx.set(block.copy_ready, ctx.get(block.copy_valid))
            await ctx.tick()

    ctx.set(block.lookup_index, 1)
    await ctx.tick()
    await play("begin", slot=0, pos0=0, rows=page + page // 2)
    await play("fork", slot=0, to=1, tokens=page + page // 2)
    await play("begin", slot=0, pos0=page + page // 2, rows=1)
    await ctx.tick()


SPEC = BlockSpec(
    name="kv_cache_manager",
    title="KV-cache manager",
    summary=(
        "Pages of the KV cache: allocation, shared prefixes with copy on write, sliding windows, "
        "eviction by recency, frequency and attention."
    ),
    parameters=(
        Parameter("slots", 16, "2 or more", "Sequences at a time."),
        Parameter("pages", 65536, "1 to 65536", "Physical pages."),
        Parameter("positions", 65536, "1 or more", "Longest sequence, in tokens."),
        Parameter("page_tokens", 16, "a power of two from 2 to 256", "Tokens per page."),
        Parameter(
            "slot_pages", 0, "0 to positions / page_tokens", "Pages that a slot holds at most; "
            "0: all of a sequence.",
        ),
    ),  # fmt: skip
    build=_build,
    timing=_timing,
    formula=(
        "A page is free, or as many slots have it as its count says. Eviction takes, among the "
        "pages that one slot alone has, behind its sinks and before the page being written, the "
        "first one with the lowest `((w_recency (255 - age) + w_frequency frequency) << 8) + "
        "w_mass mass`: weights, age (in ticks) and frequency of 8 bits, mass (attention, added "
        "per use) of 16, all saturating; frequency and mass halve with each tick "
        "(`hw/kv/eviction_policy.py`). Every table is a block RAM; nothing has to be cleared."
    ),
    verified=(
        "Random operations against a Python model, with the answer, the cycles, every page table "
        "and the victim compared after each (`tests/hw/kv/test_kv_manager.py`); each part against "
        "a model of its own. That no page is lost, listed twice or shared by mistake is proved by "
        "induction (`tests/formal/kv/`): of the free list alone, and of the whole manager with two "
        "slots, three pages and sequences of four, whatever is chosen to be evicted."
    ),
    stimulus=_stimulus,
    signals=(
        "begin_valid", "begin_ready", "fork_valid", "done", "full", "free_pages", "copy_valid",
        "copy_ready", "copy_old", "copy_new", "copy_tokens", "lookup_page", "lookup_found",
    ),
    cycles=48,
    small=("slots=2", "pages=64", "positions=256"),
)  # fmt: skip
