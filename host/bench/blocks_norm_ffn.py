"""Blocks that can be used alone: RMSNorm, SwiGLU FFN, embedding.

Cycles are counted in Amaranth's own simulator, which plays the blocks without Verilog.
"""

from __future__ import annotations

from typing import Any

from tokenloom.host.bench.player import pack_values, play_block
from tokenloom.host.bench.registry import Figure, group

_row = group("Blocks: norm, FFN, embedding")


@_row("rmsnorm_cycles", "cycles for 4096 values", "256 and the stated 27", how="simulated")
def rmsnorm_cycles() -> Figure:
    """From a vector's last values in to its last values out, 16 lanes."""
    import numpy as np

    from tokenloom.hw.norm.rmsnorm_unit import RmsNormUnit
    from tokenloom.hw.numbers import formats as fx

    width, lanes = 4096, 16
    unit = RmsNormUnit(width=width, norm_lanes=lanes)
    words = unit.words_for(width)
    rng = np.random.default_rng(1)
    stream = rng.integers(-(2**24), 2**24, width)
    gain = rng.integers(-32767, 32768, width)
    y, k = fx.rsqrt_rows(fx.norm_sums(fx.sum_squares(stream[None]), 1 << 16))
    expected = fx.norm(stream[None], gain, y, k)[0].reshape(-1, 32)
    found: list[tuple[int, int]] = []
    ends: list[int] = []

    async def drive(ctx: Any) -> None:
        ctx.set(unit.words, words)
        ctx.set(unit.eps, 1 << 16)
        ctx.set(unit.out_ready, 1)
        ctx.set(unit.cfg_we, 1)
        for word in range(words):
            ctx.set(unit.cfg_addr, word)
            ctx.set(unit.cfg_data, pack_values(gain[word * lanes : (word + 1) * lanes], 16))
            await ctx.tick()
        ctx.set(unit.cfg_we, 0)
        ctx.set(unit.in_valid, 1)
        now = 0
        for word in range(words):
            ctx.set(unit.in_values, pack_values(stream[word * lanes : (word + 1) * lanes], 32))
            await ctx.tick()
            now += 1
        ctx.set(unit.in_valid, 0)
        ends.append(now - 1)
        while len(found) < len(expected):
            _clk, _rst, valid, values = await ctx.tick().sample(unit.out_valid, unit.out_values)
            if valid:
                found.append((now, values))
            now += 1

    play_block(unit, drive)
    equal = [values for _, values in found] == [pack_values(block, 32) for block in expected]
    cycles = found[-1][0] - ends[0]
    overhead = unit.last_block(words=words) - words
    return Figure(
        value=cycles,
        detail=f"{words} cycles of scan and {overhead} for the root and the pipelines; the first "
        f"block after {found[0][0] - ends[0]}, a vector per {unit.interval(words=words)} cycles "
        f"when they come back to back (derived); values {'equal' if equal else 'DIFFER'}",
        ok=equal and cycles <= 256 + 27,
    )


@_row("rsqrt_error", "of 2^-16", "<= 1", how="golden function, every mantissa")
def rsqrt_error() -> Figure:
    """Largest relative error of the norm's reciprocal square root."""
    import numpy as np

    from tokenloom.hw.numbers import formats as fx

    worst, proved = 0.0, True
    for start in range(1 << 22, 1 << 24, 1 << 20):
        m22 = np.arange(start, start + (1 << 20), dtype=np.int64)
        y = fx.rsqrt_mantissa(m22)
        scale = 2 * fx.RSQRT_FRAC + 22 - 32
        # Integers: (1 - 2^-16)^2 < y^2 m / 4^17 < (1 + 2^-16)^2 at both ends of each mantissa.
        proved &= bool((y * y * m22 > (2**16 - 1) ** 2 << scale).all())
        proved &= bool((y * y * (m22 + 1) <= (2**16 + 1) ** 2 << scale).all())
        for end in (m22, m22 + 1):
            error = np.abs(y / 2.0**fx.RSQRT_FRAC * np.sqrt(end / 2.0**22) - 1)
            worst = max(worst, float(error.max()))
    return Figure(
        value=worst * 2**16,
        detail="all 12,582,912 mantissas at both ends of the sums that share them; the bound 1 is "
        + ("shown in integers" if proved else "BROKEN in integers"),
        ok=proved and worst < 2**-16,
    )


def _activation(name: str) -> Figure:
    import math

    import numpy as np

    from tokenloom.hw.numbers import formats as fx

    limit, worst, at = fx.SILU_LIMIT, 0.0, 0
    for start in range(-limit, limit + 1, 1 << 16):
        gate = np.arange(start, min(start + (1 << 16), limit + 1))
        x = gate / 65536
        if name == "silu":
            exact = x / (1 + np.exp(-x))
        else:
            exact = x / 2 * (1 + np.array([math.erf(v / math.sqrt(2)) for v in x]))
        error = np.abs(fx.activate(gate, name) / 65536 - exact)
        if error.max() > worst:
            worst, at = float(error.max()), int(gate[error.argmax()])
    return Figure(
        value=100 * worst / 12,
        detail=f"all {2 * limit + 1:,} inputs within ±12; {worst:.2e} at {at / 65536:.4f}; beyond "
        f"them the result is max(x, 0), less than 7.4e-5 off",
        ok=worst <= 12 * 1e-4,
    )


@_row("silu_error", "% of the range's end", "<= 0.01 % of 12", how="golden function, every input")
def silu_error() -> Figure:
    """Largest error of SiLU."""
    return _activation("silu")


@_row("gelu_error", "% of the range's end", "<= 0.01 % of 12", how="golden function, every input")
def gelu_error() -> Figure:
    """Largest error of GELU (erf)."""
    return _activation("gelu")


@_row("silu_cycles", "cycles of latency", "2", how="simulated")
def silu_cycles() -> Figure:
    """Latency at the quoted setting, a value per cycle."""
    from tokenloom.hw.ffn.activation import Activation
    from tokenloom.hw.numbers import formats as fx

    unit = Activation(stages=2)
    gates = [g << 10 for g in range(-1000, 1000, 7)]
    found: list[tuple[int, int]] = []

    async def drive(ctx: Any) -> None:
        ctx.set(unit.in_valid, 1)
        for now in range(len(gates) + unit.latency):
            ctx.set(unit.in_valid, now < len(gates))
            ctx.set(unit.in_value, gates[min(now, len(gates) - 1)])
            _clk, _rst, valid, value = await ctx.tick().sample(unit.out_valid, unit.out_value)
            if valid:
                found.append((now, value))

    play_block(unit, drive)
    equal = [value for _, value in found] == fx.silu(gates).tolist()
    return Figure(
        value=found[0][0],
        detail=f"{len(gates)} values in {len(gates)} cycles; the chip's setting has "
        f"{Activation.STAGES} stages, 1 to 5 can be had; values {'equal' if equal else 'DIFFER'}",
        ok=equal and found[0][0] == 2 and found[-1][0] == len(gates) + 1,
    )


@_row("embedding_ids", "ids per cycle", "8 after 3 cycles", how="simulated")
def embedding_ids() -> Figure:
    """Ids that the table on chip takes per cycle, all of them equal in every other cycle."""
    from tokenloom.hw.embedding.embedding_table import EmbeddingTable

    vocab, width, cycles = 16, 32, 32
    unit = EmbeddingTable(vocab=vocab, width=width, copies=8)
    single = EmbeddingTable(vocab=vocab, width=width)
    asked: list[list[int]] = []
    found: list[tuple[int, int]] = []

    async def drive(ctx: Any) -> None:
        ctx.set(unit.used_vocab, vocab)
        ctx.set(unit.shift, 1)
        ctx.set(unit.cfg_we, 1)
        for row in range(vocab):
            codes = sum((row + i) << 8 * i for i in range(width))
            ctx.set(unit.cfg_row, row)
            ctx.set(unit.cfg_data, 0x0400 << 8 * width | codes)
            await ctx.tick()
        ctx.set(unit.cfg_we, 0)
        ctx.set(unit.in_mask, 255)
        for now in range(cycles + unit.latency):
            ids = [(now * 5 + (i * 3 if now % 2 else 0)) % vocab for i in range(8)]
            ctx.set(unit.in_valid, now < cycles)
            ctx.set(unit.in_ids, sum(one << 32 * i for i, one in enumerate(ids)))
            if now < cycles:
                asked.append(ids)
            _clk, _rst, valid, values = await ctx.tick().sample(unit.out_valid, unit.out_values)
            if valid == 255:
                found.append((now, values))

    play_block(unit, drive)
    # A scale of 1024 and a shift of one: every value is 512 times its code.
    expected = [
        sum((512 * (row + i)) << 32 * (port * width + i) for port, row in enumerate(ids)
            for i in range(width))
        for ids in asked
    ]  # fmt: skip
    equal = [values for _, values in found] == expected
    return Figure(
        value=8 * len(found) / cycles,
        detail=f"copies=8, {cycles} cycles, first rows after {found[0][0]}, half of the ids eight "
        f"times the same; {unit.memory_bits // vocab} bits of memory per row of {width} values, in "
        f"one copy (8 ids in every 8th cycle) {single.memory_bits // vocab}; values "
        f"{'equal' if equal else 'DIFFER'}",
        ok=equal and len(found) == cycles and found[0][0] == 3,
    )
