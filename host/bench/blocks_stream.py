"""Blocks that can be used alone: array, attention, KV-cache manager, quantiser, sampler.

Cycles are counted in Amaranth's own simulator, those of the array in its Verilog.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tokenloom.host.bench.player import pack_values, play_block
from tokenloom.host.bench.registry import Figure, group

_row = group("Blocks: array, attention, KV cache, sampler")


@_row("array_classic", "products per cycle", ">= 95 % of 1024", how="simulated")
def array_classic() -> Figure:
    """A matmul in 32 x 32 elements of one multiplier, from its first beat to its last."""
    from tokenloom.hw.catalog.catalog import block_spec
    from tokenloom.sim.bench import run_block

    spec = block_spec("array")
    values = spec.arguments(preset="classic")
    case = {"tiles": 4, "beats": 40}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        given = {**values, **case, "out": str(out)}
        run_block(spec.made(values), "tokenloom.sim.quoted_bench", parameters=given)
        found = json.loads(out.read_text())
    products = found["sums"] * case["beats"] * 32
    value = products / found["cycles"]
    return Figure(
        value=value,
        detail=f"{values['columns']} columns x {values['rows']} rows x {values['lanes']} lane, "
        f"{case['tiles']} tiles of {case['beats']} blocks of 32: {products:,} products in "
        f"{found['cycles']:,} cycles, a beat per {found['per_step']}; {found['sums']:,} sums equal",
        ok=value >= 0.95 * 1024,
    )


@_row("attention_stream", "% of the KV stream used", ">= 95 %", how="simulated")
def attention_stream() -> Figure:
    """Codes of K and V that are needed, of those in the beats that are taken; and the cycles."""
    from tokenloom.hw.attention.softmax import Softmax
    from tokenloom.hw.attention.systolic_attention import SystolicAttention

    columns = drain = 8
    tokens, head, heads = 1000, 64, 4
    unit = SystolicAttention(
        columns=columns, rows=1, drain=drain, slots=heads, tokens_max=1024, head_max=head
    )
    timing = unit.timing(rows_used=1, group=heads, head_size=head, tokens=tokens)
    beats: list[int] = []
    blocks: list[int] = []

    async def drive(ctx: Any) -> None:
        ports = {
            "rows_used": 1, "group": heads, "head_size": head, "pos": tokens - 1, "score_shift": 8,
            "codes": pack_values(range(columns * 32), 8), "q_we": 1,
        }  # fmt: skip
        for name, value in ports.items():
            ctx.set(getattr(unit, name), value)
        for slot in range(heads):
            for block in range(head // 32):
                ctx.set(unit.q_addr, slot * (head // 32) + block)
                ctx.set(unit.q_codes, pack_values(range(slot, slot + 32), 9))
                await ctx.tick()
        ctx.set(unit.q_we, 0)
        ctx.set(unit.start, 1)
        await ctx.tick()
        ctx.set(unit.start, 0)
        for now in range(1, timing.last + 2):
            if ctx.get(unit.take):
                beats.append(now)
            if ctx.get(unit.block_valid):
                blocks.append(now)
            await ctx.tick()

    play_block(unit, drive)
    value = 100 * 2 * tokens * head / (len(beats) * columns * 32)
    words = -(-tokens // 32) * 32 // drain
    softmax = Softmax.duration(1, words)
    predicted = (len(beats), blocks[-1]) == (timing.beats, timing.last)
    return Figure(
        value=value,
        detail=f"one row, {heads} heads of {head} share K and V of {tokens} tokens, {columns} "
        f"columns: {len(beats)} beats, the last block {blocks[-1]:,} cycles after the start, "
        f"{'both' if predicted else 'NOT'} as predicted; {drain} softmax groups take {words} words "
        f"of {drain} scores in {softmax} cycles (derived)",
        ok=value >= 95 and predicted and len(blocks) == heads * head // 32,
    )


@_row("kv_lookups", "page addresses per cycle", "1, computed ahead", how="simulated")
def kv_lookups() -> Figure:
    """Look-ups of a sequence's pages, each answered in the next cycle."""
    from tokenloom.hw.kv.kv_manager import KvManager

    pages = 64
    unit = KvManager(slots=16, pages=65536, positions=65536, page_tokens=16)
    found: list[int] = []

    async def drive(ctx: Any) -> None:
        for name, value in {"slot": 3, "pos0": 0, "rows": 1}.items():
            ctx.set(getattr(unit, f"begin_{name}"), value)
        for page in range(pages):
            ctx.set(unit.begin_pos0, 16 * page)
            ctx.set(unit.begin_valid, 1)
            while not ctx.get(unit.begin_ready):
                await ctx.tick()
            await ctx.tick()
            ctx.set(unit.begin_valid, 0)
            while not ctx.get(unit.done):
                await ctx.tick()
        ctx.set(unit.lookup_slot, 3)
        for page in range(pages):
            ctx.set(unit.lookup_index, page)
            _clk, _rst = await ctx.tick()
            if ctx.get(unit.lookup_found):
                found.append(ctx.get(unit.lookup_page))

    play_block(unit, drive)
    return Figure(
        value=len(found) / pages,
        detail=f"65,536 pages of 16 tokens, 16 slots: {len(found)} look-ups in {pages} cycles, "
        f"each with its page a cycle later, {len(set(found))} different pages",
        ok=len(set(found)) == pages,
    )


@_row("quantiser_vectors", "vectors per cycle", "1", how="simulated")
def quantiser_vectors() -> Figure:
    """Vectors of 32 values that the quantiser takes, int8 and int4."""
    import numpy as np

    from tokenloom.hw.array.quantiser import Quantiser
    from tokenloom.hw.numbers import formats as fx

    count, equal, spans = 200, True, []
    rng = np.random.default_rng(1)
    for bits in (fx.KV_BITS, fx.KV4_BITS):
        unit = Quantiser(tag_bits=1, kv_bits=bits)
        values = rng.integers(-(2**31), 2**31, (count, fx.BLOCK)) >> rng.integers(0, 31, (count, 1))
        found: list[tuple[int, int]] = []

        async def drive(ctx: Any, unit: Quantiser = unit, values: Any = values,
                        found: list[tuple[int, int]] = found) -> None:  # fmt: skip
            ctx.set(unit.in_narrow, 1)
            for now in range(count + unit.LATENCY):
                ctx.set(unit.in_valid, now < count)
                ctx.set(unit.in_values, pack_values(values[min(now, count - 1)], 32))
                await ctx.tick()
                if ctx.get(unit.out_valid):
                    found.append((now, ctx.get(unit.narrow_codes)))

        play_block(unit, drive)
        codes, _shift, _sums = fx.mx_quantise(values, 0, bits)
        equal &= bits != fx.KV_BITS or [c for _, c in found] == [pack_values(c, 8) for c in codes]
        equal &= len(found) == count
        spans.append(found[-1][0] - found[0][0] + 1)
    return Figure(
        value=count / max(spans),
        detail=f"{count} vectors of 32 values in {max(spans)} cycles, as int8 and as int4, each "
        f"after {Quantiser.LATENCY}; int8 codes {'equal' if equal else 'DIFFER'}",
        ok=equal and max(spans) == count,
    )


@_row("sampler_top40", "cycles from the last logit to the token", "98, stated", how="simulated")
def sampler_top40() -> Figure:
    """A row of logits, one per cycle, among the 40 largest of which top-p cuts."""
    import numpy as np

    from tokenloom.hw.sampler.candidates import choose
    from tokenloom.hw.sampler.noise import Noise
    from tokenloom.hw.sampler.sampler import Sampler
    from tokenloom.hw.sampler.settings import make_settings

    count = 1000
    unit = Sampler(vocab_bits=10, candidates=64)
    settings = make_settings(
        fraction_bits=20, candidates=64, top_k=40, top_p=0.95, temperature=0.8, seed=7
    )
    logits = [int(v) for v in np.random.default_rng(1).normal(0, 2 << 20, count)]
    found: list[tuple[int, int]] = []

    async def drive(ctx: Any) -> None:
        ctx.set(unit.sampling, settings.word())
        ctx.set(unit.position, 11)
        ctx.set(unit.restart, 1)
        await ctx.tick()
        ctx.set(unit.restart, 0)
        await ctx.tick().repeat(Noise.LEAD + 1)
        for now, logit in enumerate(logits):
            ctx.set(unit.in_valid, 1)
            ctx.set(unit.in_logit, logit)
            ctx.set(unit.in_start, now == 0)
            ctx.set(unit.in_last, now == count - 1)
            await ctx.tick()
        ctx.set(unit.in_valid, 0)
        for now in range(1, 2 * Sampler.latency(settings)):
            if ctx.get(unit.token_valid):
                found.append((now, ctx.get(unit.token)))
            await ctx.tick()

    play_block(unit, drive)
    wanted = choose(logits, 11, settings).token
    cycles = Sampler.latency(settings)
    return Figure(
        value=found[0][0],
        detail=f"{count} logits in {count} cycles, top-k 40, top-p 0.95, temperature 0.8; the "
        f"token {'equals' if found[0][1] == wanted else 'DIFFERS FROM'} the golden function's",
        ok=found == [(cycles, wanted)],
    )
