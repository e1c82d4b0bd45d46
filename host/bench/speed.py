"""Speed: of the machine in cycles, and of its simulation in wall time."""

from __future__ import annotations

import os
from functools import cache

from tokenloom.host.bench.registry import Figure, group
from tokenloom.host.bench.runs import Run, prepared, smollm2, stories

_row = group("Speed")


@_row("smollm2_busy", "% of cycles with a beat", ">= 90 %", how="simulated")
def smollm2_busy() -> Figure:
    """The array's share of busy cycles up to context 128."""
    run = smollm2()
    worst = min(run.decode, key=lambda one: one.record.beats / one.record.elapsed).record
    share = 100 * worst.beats / worst.elapsed
    detail = (
        f"{run.where}; measured, worst decode pass up to context 128 (at context "
        f"{worst.pos + 1}: {worst.beats:,} of {worst.elapsed:,} cycles)"
    )
    return Figure(value=share, detail=detail, ok=share >= 90)


@_row("smollm2_prompt", "x a decode pass per prompt token, times rows", "<= 1.15", how="simulated")
def smollm2_prompt() -> Figure:
    """Cycles per prompt token: the rows of a pass share each weight beat."""
    run = smollm2()
    prompt = [one.record for one in run.played if one.record.pos + one.record.rows <= 64]
    tokens = sum(record.rows for record in prompt)
    cycles = sum(record.elapsed for record in prompt) / tokens
    decode = run.decode[0].record
    ratio = cycles / decode.elapsed * run.rows
    detail = (
        f"{run.where}; {cycles:,.0f} cycles per token of the first {tokens}, a decode pass at "
        f"context {decode.pos + 1} takes {decode.elapsed:,}; {run.rows} rows"
    )
    return Figure(value=ratio, detail=detail, ok=ratio <= 1.15)


@cache
def _smollm2_schedule(pos: int) -> tuple[int, int]:
    """Beats and cycles that `predict` gives for a decode pass."""
    from tokenloom.compiler.schedule import predict

    ready, model = prepared("smollm2", "sim")
    program = ready.program(model)
    found = predict(program, ready.hardware, model, rows=1, pos=pos, sample=True)
    return found.beats, found.cycles


def _busy_at(context: int) -> Figure:
    beats, cycles = _smollm2_schedule(context - 1)
    detail = (
        f"SmolLM2-135M on 'sim', predict() gives {beats:,} of {cycles:,} belt cycles of "
        f"a decode pass at context {context}"
    )
    return Figure(value=100 * beats / cycles, detail=detail)


@_row("smollm2_busy_512", "% of cycles with a beat", how="derived")
def smollm2_busy_512() -> Figure:
    """The array's predicted share of busy cycles at context 512."""
    return _busy_at(512)


@_row("smollm2_busy_2048", "% of cycles with a beat", how="derived")
def smollm2_busy_2048() -> Figure:
    """The array's predicted share of busy cycles at context 2048."""
    return _busy_at(2048)


@_row("stories260k_cycles", "cycles per token", "<= 8,000", how="simulated")
def stories260k_cycles() -> Figure:
    """Cycles of a decode pass at context 128."""
    run = stories()
    record = next(one.record for one in run.decode if one.record.pos + 1 == 128)
    detail = (
        f"{run.where}; the decode pass at context 128: {record.scheduled:,} belt cycles and "
        f"{sum(record.stalls.values()):,} stalled ones, at 64 weights per cycle"
    )
    return Figure(value=record.elapsed, detail=detail, ok=record.elapsed <= 8000)


def _rate(run: Run, limit: float) -> Figure:
    seconds = sum(one.seconds for one in run.decode)
    rate = len(run.decode) / seconds
    khz = sum(one.record.elapsed for one in run.decode) / seconds / 1e3
    detail = (
        f"{run.where}; wall time of {len(run.decode)} decode passes, the chip's clock at "
        f"{khz:.1f} kHz, {os.cpu_count()} cores, simulator of `run --guided`"
    )
    return Figure(value=rate, detail=detail, ok=rate >= limit)


@_row("smollm2_tokens_per_second", "tokens/s simulated", ">= 0.5", how="wall time")
def smollm2_tokens_per_second() -> Figure:
    """Rate of the SmolLM2 simulation."""
    return _rate(smollm2(), 0.5)


@_row("stories260k_tokens_per_second", "tokens/s simulated", ">= 60", how="wall time")
def stories260k_tokens_per_second() -> Figure:
    """Rate of the stories260K simulation."""
    return _rate(stories(), 60)
