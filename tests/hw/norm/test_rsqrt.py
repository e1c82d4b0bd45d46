"""Rsqrt against formats.rsqrt."""

from __future__ import annotations

from typing import Any

import cocotb

from tests.hw.belt_bench import STALLS, Belt
from tokenloom.hw.norm.rsqrt import Rsqrt
from tokenloom.hw.numbers import formats
from tokenloom.sim.bench import run_block, seeded


def corners() -> list[int]:
    """Sums around every power of two, every table index, and both ends."""
    found = [*range(1, 66), (1 << formats.SUM_TOTAL_BITS) - 1]
    for n in range(7, formats.SUM_TOTAL_BITS):
        found += [(1 << n) - 1, 1 << n, (1 << n) + 1, 3 << (n - 1)]
    for i in range(256, 1024):
        found += [i << 40, (i << 40) + (1 << 40) - 1]
    return found


@cocotb.test()
async def sums(dut: Any) -> None:
    rng = seeded()
    bench = Belt(
        dut,
        {"in_valid": 1, "s": formats.SUM_TOTAL_BITS},
        {"out_valid": 1, "y": formats.RSQRT_FRAC, "k": 6},
        rng=rng,
        strobes=("in_valid",),
    )
    await bench.reset()
    for stall in STALLS:
        bench.stall = stall
        for gap in (0.0, 0.6):
            cases = corners() if gap == 0.0 else []
            cases += [
                rng.getrandbits(rng.randrange(1, formats.SUM_TOTAL_BITS + 1)) | 1
                for _ in range(400)
            ]
            due: dict[int, tuple[int, int]] = {}
            held = None
            while cases or due:
                found = await bench.next()
                want = due.pop(bench.now, None)
                assert found["out_valid"] == (want is not None), f"cycle {bench.now}"
                held = want or held
                if held is not None:
                    assert (found["y"], found["k"]) == held
                if cases and rng.random() >= gap:
                    s = cases.pop()
                    bench.drive(in_valid=1, s=s)
                    due[bench.now + Rsqrt.LATENCY] = formats.rsqrt(s)
                else:
                    bench.drive()


def test_rsqrt() -> None:
    run_block(Rsqrt(), __name__)
