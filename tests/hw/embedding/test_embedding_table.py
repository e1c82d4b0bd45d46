# amaranth: UnusedElaboratable=no
"""EmbeddingTable against formats.embed: every slice in its cycle; unknown ids are refused."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
import pytest

from tests.deep import deep
from tests.hw.belt_bench import STALLS, Belt
from tests.hw.words import pack, unpack
from tokenloom.hw.embedding.embedding_table import EmbeddingTable
from tokenloom.hw.numbers import formats
from tokenloom.sim.bench import parameters, run_block, seeded


def bits(count: int) -> int:
    return max(1, (count - 1).bit_length())


@cocotb.test()
async def lookups(dut: Any) -> None:
    rng = seeded()
    npr = np.random.default_rng(rng.getrandbits(32))
    given = dict(parameters())
    wanted = given.pop("values")
    unit = EmbeddingTable(**given)
    vocab, ports, slices, size = given["vocab"], given["lookups"], unit.slices, unit.slice_values
    bench = Belt(
        dut,
        {
            "used_vocab": vocab.bit_length(),
            "shift": 6,
            "in_valid": 1,
            "in_mask": ports,
            "in_ids": 32 * ports,
            "cfg_we": 1,
            "cfg_row": bits(vocab),
            "cfg_slice": bits(slices),
            "cfg_data": unit.word_bits,
        },
        {
            "out_valid": ports,
            "out_slice": bits(slices) * ports,
            "out_values": 32 * size * ports,
            "out_refused": ports,
            "refused": 32,
            "saturated": 1,
        },
        rng=rng,
        strobes=("in_valid", "cfg_we"),
        stable=("used_vocab", "shift"),
    )
    await bench.reset()
    compared = refused = clamped_ever = 0
    for number in range(1 << 30):
        if number >= len(STALLS) and compared >= wanted:
            break
        bench.stall = STALLS[number % len(STALLS)] if not wanted else 0.0
        used = vocab if number % 2 == 0 else int(npr.integers(1, vocab + 1))
        shift = (0, 14, 40, 8, 20, 63)[number % 6]
        # The table, all of it: rows beyond `used` hold what must never be seen.
        scales = max(1, size // 32)
        codes = npr.integers(-128, 128, (vocab, slices, size))
        scale, minimum = (
            npr.integers(0, 2, (vocab, slices, scales)) << 15
            | npr.integers(0, 25, (vocab, slices, scales)) << 10
            | npr.integers(0, 1024, (vocab, slices, scales))
            for _ in range(2)
        )
        minimum[npr.random((vocab, slices)) < 0.3] = 0
        await bench.next()
        bench.drive(used_vocab=used, shift=shift)
        for row in range(vocab):
            for piece in range(slices):
                word = pack(codes[row, piece], 8)
                heads = np.stack([scale[row, piece], minimum[row, piece]], axis=1).reshape(-1)
                word |= pack(heads, 16) << 8 * size
                await bench.next()
                bench.drive(cfg_we=1, cfg_row=row, cfg_slice=piece, cfg_data=word)
        grouped = codes.reshape(vocab, slices, scales, min(size, 32))
        values, clamped = np.zeros_like(codes), np.zeros((vocab, slices), dtype=bool)
        for row in range(vocab):
            for piece in range(slices):
                found, count = formats.embed(
                    grouped[row, piece], scale[row, piece].astype(np.uint16),
                    minimum[row, piece].astype(np.uint16), shift,
                )  # fmt: skip
                values[row, piece], clamped[row, piece] = found.reshape(-1), count > 0
        zero = [0] * size

        # Ids as often as they may come, or with gaps; some twice, some unknown, some ports without.
        due: dict[int, dict[int, tuple[int, int | None]]] = {}
        free, limit = 0, bench.now + 40 * slices
        if wanted:
            limit = bench.now + 2000 * slices
        while bench.now < limit or due:
            found = await bench.next()
            now = due.pop(bench.now, {})
            assert found["out_valid"] == sum(1 << i for i in now), f"cycle {bench.now}"
            assert found["refused"] == refused
            over = False
            for i, (piece, row) in now.items():
                assert found["out_slice"] >> bits(slices) * i & ((1 << bits(slices)) - 1) == piece
                have = unpack(found["out_values"] >> 32 * size * i, 32, size)
                assert found["out_refused"] >> i & 1 == (row is None)
                assert have == (zero if row is None else values[row, piece].tolist())
                over |= row is not None and bool(clamped[row, piece])
                compared += size
            assert found["saturated"] == over
            clamped_ever += over
            if bench.now < limit and bench.now >= free and rng.random() < 0.9:
                mask = rng.choice(((1 << ports) - 1, rng.getrandbits(ports)))
                ids = [rng.randrange(used) for _ in range(ports)]
                for i in range(ports):
                    if rng.random() < 0.1:
                        ids[i] = rng.choice((used, vocab, vocab + 1, 1 << 31, (1 << 32) - 1))
                    if rng.random() < 0.2:
                        ids[i] = ids[0]
                bench.drive(in_valid=1, in_mask=mask, in_ids=pack(ids, 32))
                for i in range(ports):
                    if not mask >> i & 1:
                        continue
                    refused += ids[i] >= used
                    for q in range(slices):
                        piece = (i % slices + q) % slices
                        row = ids[i] if ids[i] < used else None
                        due.setdefault(bench.now + unit.latency + q, {})[i] = piece, row
                free = bench.now + slices
            else:
                bench.drive()
    assert clamped_ever and refused


CASES = [
    (50, 64, 8, 1, 3, 0),
    (24, 32, 8, 8, 3, 0),
    deep(33, 160, 4, 2, 5, 0),
    deep(64, 256, 8, 1, 4, 10**6),
    deep(7, 40, 1, 1, 3, 0),
    deep(40, 96, 16, 4, 3, 0),
]


@pytest.mark.parametrize("vocab, width, lookups, copies, stages, values", CASES)
def test_embedding_table(
    vocab: int, width: int, lookups: int, copies: int, stages: int, values: int
) -> None:
    given = {
        "vocab": vocab,
        "width": width,
        "lookups": lookups,
        "copies": copies,
        "stages": stages,
    }
    run_block(EmbeddingTable(**given), __name__, parameters={**given, "values": values})


def test_eight_ids_per_cycle_in_three_cycles() -> None:
    """The quoted case and what it costs; and the table in one copy."""
    full = EmbeddingTable(vocab=512, width=64, copies=8)
    assert (full.lookups_per_cycle, full.latency) == (8, 3)
    assert full.memory_bits == 8 * 512 * (64 * 8 + 2 * 32)
    single = EmbeddingTable(vocab=512, width=64)
    assert (single.lookups_per_cycle, single.latency) == (1, 3)
    # Slices of 8 values each bring their block's scale and minimum.
    assert single.memory_bits == 512 * 8 * (8 * 8 + 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"vocab": 0}, "vocab = 0"), ({"width": 0}, "width = 0"), ({"lookups": 3}, "lookups = 3"),
     ({"copies": 3}, "copies = 3"), ({"copies": 16}, "copies = 16"), ({"stages": 2}, "stages = 2")],
)  # fmt: skip
def test_refusals(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EmbeddingTable(**{"vocab": 10, "width": 64, **change})
