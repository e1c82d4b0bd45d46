# amaranth: UnusedElaboratable=no
"""RmsNorm against formats.rsqrt and formats.norm, with its option against layer_norm."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
import pytest

from tests.deep import deep
from tests.hw.belt_bench import STALLS, Belt
from tests.hw.words import pack, unpack
from tokenloom.hw.norm import layer_norm as golden
from tokenloom.hw.norm.rmsnorm import RmsNorm
from tokenloom.hw.numbers import formats
from tokenloom.sim.bench import parameters, run_block, seeded

LOW, HIGH = -(2**31), 2**31 - 1


def bits(count: int) -> int:
    return max(1, (count - 1).bit_length())


def streams(generator: np.random.Generator, rows: int, width: int) -> np.ndarray:
    """Rows of different kinds: wide, small, zero, at the limits."""
    kinds = [
        generator.integers(LOW, HIGH + 1, width),
        generator.integers(-500, 500, width),
        np.zeros(width, dtype=np.int64),
        np.full(width, LOW),
        generator.choice([LOW, HIGH, 0, 1, -1], width),
        generator.integers(-(2**20), 2**20, width),
        np.eye(1, width, width - 1, dtype=np.int64)[0] * LOW,
    ]
    return np.stack([kinds[generator.integers(len(kinds))] for _ in range(rows)])


@cocotb.test()
async def scans(dut: Any) -> None:
    rng = seeded()
    generator = np.random.default_rng(rng.getrandbits(32))
    given = parameters()
    unit = RmsNorm(**given)
    rows, width, lanes, norms = (given[n] for n in ("rows", "width", "norm_lanes", "norms"))
    late, with_mean = given["read_latency"], given["layer_norm"]
    words_max, blocks_max = unit.words_max, -(-width // 32)
    bench = Belt(
        dut,
        {
            "start": 1,
            "rows_count": rows.bit_length(),
            "words": words_max.bit_length(),
            "gain_base": bits(norms * words_max),
            "eps": formats.EPS_BITS,
            "floor": 5,
            "ss": 80 * rows,
            "res_data": 32 * lanes,
            "cfg_we": 1,
            "cfg_addr": bits(norms * words_max),
            "cfg_data": 16 * lanes,
            **(
                {
                    "total": formats.TOTAL_BITS * rows,
                    "count": width.bit_length(),
                    "bias_we": 1,
                    "bias_addr": bits(norms * words_max),
                    "bias_data": 32 * lanes,
                }
                if with_mean
                else {}
            ),
        },
        {
            "res_en": 1,
            "res_row": bits(rows),
            "res_addr": bits(words_max),
            "data_row": bits(rows),
            "q_valid": 1,
            "q_values": 1024,
            "q_floor": 5,
            "q_row": bits(rows),
            "q_block": bits(blocks_max),
            "q_last": 1,
            "saturated": 1,
        },
        rng=rng,
        strobes=("start", "cfg_we", *(("bias_we",) if with_mean else ())),
        stable=("ss", *(("total",) if with_mean else ())),
    )
    await bench.reset()

    saturations = 0
    for stall in STALLS:
        bench.stall = stall
        # New gains for every stall rate; those beyond a model's width are 0.
        model = width if stall == 0.3 else generator.integers(1, width + 1)
        words = unit.words_for(int(model))
        gains = np.zeros((norms, words * lanes), dtype=np.int64)
        gains[:, :model] = generator.integers(-32767, 32768, (norms, model))
        gains[:, :1] = 32767
        biases = np.zeros_like(gains)
        biases[:, :model] = generator.integers(LOW, HIGH + 1, (norms, model))
        for word in range(norms * words):
            await bench.next()
            line = gains.reshape(-1, lanes)[word]
            more = {"bias_we": 1, "bias_addr": word} if with_mean else {}
            if with_mean:
                more["bias_data"] = pack(biases.reshape(-1, lanes)[word], 32)
            bench.drive(cfg_we=1, cfg_addr=word, cfg_data=pack(line, 16), **more)

        for count in [*range(1, rows + 1), rows, rows]:
            # What lies beyond the width is garbage.
            memory = generator.integers(LOW, HIGH + 1, (rows, words * lanes))
            memory[:, :model] = streams(generator, rows, int(model))
            sums = formats.sum_squares(memory[:, :model])
            totals = memory[:, :model].sum(axis=1)
            if (
                count == rows and not with_mean
            ):  # sums that do not belong to the row make values clamp
                sums[rng.randrange(rows)] >>= 40
            eps = rng.choice((1, rng.getrandbits(48) | 1, (1 << formats.EPS_BITS) - 1))
            floor, norm = rng.randrange(21), rng.randrange(norms)
            expected = {}
            for row in range(count):
                square = sums[row]
                if with_mean:
                    square = int(model) * square - int(totals[row]) ** 2
                y, k = formats.rsqrt_rows(formats.norm_sums([square], eps))
                for block in range(words * lanes // 32):
                    part = np.s_[block * 32 : block * 32 + 32]
                    line, gain = memory[row : row + 1, part], gains[norm, part]
                    if with_mean:
                        values, clamped = golden.layer_norm(
                            line, gain, biases[norm, part], y, k,
                            totals=totals[row : row + 1], width=int(model),
                        )  # fmt: skip
                    else:
                        values, clamped = formats.norm(line, gain, y, k)
                    expected[row, block] = (values[0].tolist(), clamped > 0)
            order = list(expected)
            await bench.next()
            zero = bench.now
            bench.drive(
                start=1,
                rows_count=count,
                words=words,
                gain_base=norm * words,
                eps=eps,
                floor=floor,
                ss=sum(s << (80 * r) for r, s in enumerate(sums)),
                **({"count": int(model)} if with_mean else {}),
                **({"total": pack(totals, formats.TOTAL_BITS)} if with_mean else {}),
            )
            seen, reads = [], {}
            end = zero + unit.duration(rows_count=count, words=words)
            while bench.now < end:
                found = await bench.next()
                reads[bench.now] = (
                    (found["res_row"], found["res_addr"]) if found["res_en"] else None
                )
                place = reads.get(bench.now - late)
                if place is None:
                    bench.drive()
                else:
                    row, word = place
                    assert found["data_row"] == row
                    line = memory[row, word * lanes :][:lanes]
                    bench.drive(res_data=pack(line, 32))
                assert found["q_last"] == (bench.now == end), f"{bench.now - zero}"
                if found["q_valid"]:
                    if not seen:
                        assert bench.now - zero == unit.first_block()
                    seen.append((found["q_row"], found["q_block"]))
                    values, clamped = expected[seen[-1]]
                    assert unpack(found["q_values"], 32, 32) == values, f"{seen[-1]}"
                    assert found["q_floor"] == floor
                    assert found["saturated"] == clamped
                    saturations += clamped
                else:
                    assert not found["saturated"]
            assert seen == order
            assert found["q_valid"]
            for _ in range(rng.choice((0, 0, 1, 20))):  # q_last, then nothing more
                found = await bench.next()
                assert not found["q_valid"] and not found["res_en"]
                bench.drive()
    assert saturations


CASES = [
    (4, 96, 32, 3, 1, False),
    deep(3, 576, 16, 2, 1, False),
    (5, 172, 8, 1, 2, False),
    (1, 40, 32, 1, 1, False),
    (3, 70, 8, 2, 2, True),
    deep(2, 576, 16, 2, 1, True),
]


@pytest.mark.parametrize("rows, width, norm_lanes, norms, read_latency, layer_norm", CASES)
def test_rmsnorm(
    rows: int, width: int, norm_lanes: int, norms: int, read_latency: int, layer_norm: bool
) -> None:
    given = {
        "rows": rows,
        "width": width,
        "norm_lanes": norm_lanes,
        "norms": norms,
        "read_latency": read_latency,
        "layer_norm": layer_norm,
    }
    run_block(RmsNorm(**given), __name__, parameters=given)


def test_parameters() -> None:
    good = {"rows": 2, "width": 64, "norm_lanes": 8, "norms": 1}
    for name, value in {"rows": 33, "width": 0, "norm_lanes": 12, "norms": 0}.items():
        with pytest.raises(ValueError, match=f"{name} = {value}"):
            RmsNorm(**{**good, name: value})
    with pytest.raises(ValueError, match="read_latency = 5"):
        RmsNorm(**good, read_latency=5)
    with pytest.raises(ValueError, match="width = 65537: with layer_norm"):
        RmsNorm(**{**good, "width": 65537}, layer_norm=True)
