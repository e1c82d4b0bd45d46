"""What the benchmark measures of the ring, as cocotb tests of a `RingSystem`.

`run_block` names what is to be measured and a file for the result, which is JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cocotb
import numpy as np

from tokenloom.hw.ring.collective import Op, collective, command, duration, hop_cycles, sends
from tokenloom.hw.ring.ring import Ring
from tokenloom.sim.bench import parameters, seeded
from tokenloom.sim.ring_bench import Rings, vectors

_LIMIT = 200_000


def _write(result: dict[str, Any]) -> None:
    Path(parameters()["out"]).write_text(json.dumps(result))


@cocotb.test(skip="busy" not in parameters())
async def busy(dut: Any) -> None:
    """Cycles of an ALL_REDUCE, per case [nodes, words, latency, frames, per so many cycles]."""
    random = np.random.default_rng(seeded().getrandbits(32))
    rings = Rings(dut)
    rows = []
    for nodes, words, latency, num, den in parameters()["busy"]:
        await rings.reset(nodes, latency=latency, pace=(num, den), seed=7)
        chunk = words // nodes
        hop = hop_cycles(latency, Ring.OWN)
        given = command(Op.ALL_REDUCE, chunk, hop=-(-hop * num // den))
        data = vectors(random, nodes, words)
        await rings.load_all(data)
        took = await rings.run(given, _LIMIT)
        assert (await rings.read_all(words) == collective(given, data)).all()
        crossing = sends(Op.ALL_REDUCE, nodes) * chunk
        if num == den:
            assert took == duration(given, nodes, hop=hop)
        rows.append({"took": took, "busy": 100 * crossing * den / num / took})
    _write({"rows": rows})


@cocotb.test(skip="errors" not in parameters())
async def errors(dut: Any) -> None:
    """Words that crossed links which hurt frames, and what of them was wrong."""
    given = parameters()["errors"]
    nodes, words = given["nodes"], given["words"]
    random = np.random.default_rng(seeded().getrandbits(32))
    rings = Rings(dut)
    await rings.reset(nodes, latency=given["latency"], faults=given["faults"], seed=11)
    chunk = words // nodes
    asked = command(Op.ALL_REDUCE, chunk, hop=hop_cycles(given["latency"], Ring.OWN))
    crossing = nodes * sends(Op.ALL_REDUCE, nodes) * chunk
    data = vectors(random, nodes, words, corners=True)
    await rings.load_all(data)
    right = wrong = cycles = 0
    while right + wrong < given["total"]:
        cycles += await rings.run(asked, _LIMIT)
        want = collective(asked, data)
        found = await rings.read_all(words)
        bad = int((found != want).any(axis=2).sum())
        wrong += bad
        right += crossing if not bad else 0
        # Every node holds the sum now; one begins anew, so that no sum becomes zero.
        node = int(random.integers(nodes))
        data = found.copy()
        data[node] = vectors(random, 1, words)[0]
        await rings.load(node, data[node])
    _write(
        {
            "right": right,
            "wrong": wrong,
            "cycles": cycles,
            "frames": int(dut.frames.value),
            "again": int(dut.again.value),
            "faults": rings.counts(),
        }
    )
