"""Packed codes of K and V: golden functions, the unpacker, and the way through memory."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
import pytest

from tests.hw.array.lane_bench import STALLS, Item, Lane, expect, spread
from tokenloom.hw.kv.kv_layout import KvLayout
from tokenloom.hw.kv.kv_pack import pack_codes, unpack_codes, unpack_v
from tokenloom.hw.kv.kv_unpack import KvUnpack
from tokenloom.hw.numbers.formats import KV4_BITS, mx_quantise
from tokenloom.sim.bench import run_block, seeded

INPUTS = {"in_valid": 1, "in_is_v": 1, "in_bytes": 256}
OUTPUTS = {"out_valid": 1, "out_first": 256, "out_second": 256}


def number(codes: Any) -> int:
    return int.from_bytes(np.asarray(codes, dtype=np.int8).tobytes(), "little")


@cocotb.test()
async def unpacker(dut: Any) -> None:
    rng = seeded()
    bench = Lane(dut, INPUTS, OUTPUTS, rng=rng)
    await bench.reset()
    for stall in STALLS:
        for gap in (0.0, 0.5):
            stored = [bytes([17 * i] * 32) for i in range(16)]
            stored += [rng.randbytes(32) for _ in range(200)]
            items: list[Item] = []
            results = []
            for data in stored:
                is_v = rng.randrange(2)
                items.append({"in_valid": 1, "in_is_v": is_v, "in_bytes": number(list_of(data))})
                b = np.frombuffer(data, dtype=np.uint8)
                blocks = unpack_v(b) if is_v else unpack_codes(b, KV4_BITS).reshape(2, 32)
                first, second = (number(block) for block in blocks)
                results.append({"out_valid": 1, "out_first": first, "out_second": second})
            cycles = spread(items, rng, gap)
            places = [i for i, item in enumerate(cycles) if item is not None]
            expected = [
                (cycle + KvUnpack.LATENCY, result)
                for cycle, result in zip(places, results, strict=True)
            ]
            expect(await bench.run(cycles, stall=stall), expected)


def list_of(data: bytes) -> Any:
    return np.frombuffer(data, dtype=np.int8)


def test_kv_unpack() -> None:
    run_block(KvUnpack(), __name__)


def test_every_byte() -> None:
    stored = np.arange(256, dtype=np.uint8)
    assert np.array_equal(pack_codes(unpack_codes(stored, 4), 4), stored)
    assert np.array_equal(pack_codes(unpack_codes(stored, 8), 8), stored)
    low, high = unpack_v(stored)
    assert np.array_equal(unpack_codes(stored, 4), np.stack([low, high], axis=-1).reshape(-1))
    assert sorted(set(low.tolist())) == list(range(-8, 8))


@pytest.mark.parametrize(("columns", "port_bits", "head_size"), [(16, 512, 64), (4, 256, 40)])
def test_through_memory(columns: int, port_bits: int, head_size: int) -> None:
    """Quantised, packed, written byte by byte, read in the array's order, unpacked: the same."""
    layout = KvLayout(
        columns=columns, port_bits=port_bits, page_tokens=64, head_size=head_size, kv_heads=2,
        layers=1, code_bits=4,
    )  # fmt: skip
    where = {"page": 1, "layer": 0, "head": 1}
    rng = np.random.default_rng(1)
    padded = 32 * layout.dim_blocks
    values = rng.integers(-(2**20), 2**20, (2, 64, padded))
    values[..., head_size:] = 0
    codes = [mx_quantise(v.reshape(64, -1, 32), 3, 4)[0].reshape(64, padded) for v in values]
    memory = np.full((columns, 2 * layout.page_stride), 0xA5, dtype=np.uint8)
    writes = 0
    for token in range(64):
        k, v = (pack_codes(c[token], 4) for c in codes)
        for dim in range(0, padded, 2):
            memory[layout.k_code(**where, token=token, dim=dim)] = k[dim // 2]
            if dim < head_size:
                memory[layout.v_code(**where, token=token, dim=dim)] = v[dim // 2]
                writes += 1
    assert writes == 64 * head_size // 2
    base = layout.head_address(**where)
    for token in range(64):
        channel, address = layout.k_code(**where, token=token, dim=0)
        stored = memory[channel, address : address + layout.dim_blocks * 16]
        assert np.array_equal(unpack_codes(stored, 4), codes[0][token])
    for pair in range(head_size // 2):
        row = base + layout.v_offset + pair // columns * 64
        blocks = unpack_v(memory[pair % columns, row : row + 64])
        assert np.array_equal(blocks, codes[1][:, 2 * pair : 2 * pair + 2].T)


@pytest.mark.parametrize(
    ("codes", "bits", "message"),
    [([0, 0], 5, "8 or 4, not 5"), ([8, 0], 4, "-8..7"), ([0, -129], 8, "-128..127")],
)
def test_refusals(codes: list[int], bits: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack_codes(codes, bits)
