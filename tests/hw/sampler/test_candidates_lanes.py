# amaranth: UnusedElaboratable=no
"""A million logits through samplers with candidates, side by side; test_candidates_rtl has one."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
import pytest

from tests.deep import deep
from tests.hw.many import MANY
from tests.hw.sampler.candidate_rows import FRACTION, LISTED, a_row
from tests.hw.sampler.row_lanes import row_size, send, some_rows
from tests.hw.sampler.test_candidates_rtl import VOCAB_BITS
from tests.hw.side_by_side import Lanes, SideBySide
from tokenloom.hw.sampler.noise import SAMPLING
from tokenloom.hw.sampler.power_sum import OCTAVE_BITS
from tokenloom.hw.sampler.sampler import Sampler
from tokenloom.hw.sampler.settings import BIASES_MAX, WINDOW_MAX
from tokenloom.sim.bench import parameters, run_block, seeded

CANDIDATES, LANES = 64, 8
INPUTS = {
    "restart": 1, "in_valid": 1, "in_logit": -32, "in_start": 1, "in_last": 1, "in_masked": 1,
    "sampling": SAMPLING.size, "position": 20, "recent": WINDOW_MAX * VOCAB_BITS,
    "recent_count": 7, "bias_we": 1, "bias_addr": 5, "bias_id": VOCAB_BITS, "bias_value": -32,
}  # fmt: skip
# The table's too, whose noise between writes only takes time; test_candidates_rtl has it.
STABLE = (
    "sampling", "position", "recent", "recent_count", "bias_addr", "bias_id", "bias_value",
)  # fmt: skip
OUTPUTS = {
    "token": VOCAB_BITS, "token_valid": 1, "list_valid": 1, "list_id": VOCAB_BITS,
    "list_logit": -32, "list_log": -32, "list_kept": 1,
    "total": VOCAB_BITS + 49, "octave": -OCTAVE_BITS,
}  # fmt: skip


async def play(lanes: Lanes, number: int, logits: np.ndarray, masks: np.ndarray) -> None:
    """A row in each lane; the settings say when a lane's token comes."""
    rows = [
        a_row(lanes.rng, *one, candidates=CANDIDATES, vocab_bits=VOCAB_BITS)
        for one in zip(logits, masks, strict=True)
    ]

    def about(lane: int) -> str:
        row = rows[lane]
        return f"row {number} of {logits.shape[1]} logits, {row.settings}, position {row.position}"

    for place in range(BIASES_MAX):
        lanes.drive(
            bias_we=lanes.every, bias_addr=[place] * LANES,
            bias_id=[row.biases[place][0] for row in rows],
            bias_value=[row.biases[place][1] for row in rows],
        )  # fmt: skip
        await lanes.next()
    await send(
        lanes, logits, gap=lanes.rng.choice((0.0, 0.0, 0.0, 0.3)), masks=masks,
        sampling=[row.settings.word() for row in rows],
        position=[row.position for row in rows],
        recent=[row.recent_word for row in rows],
        recent_count=[row.recent_count for row in rows],
    )  # fmt: skip
    ends = [Sampler.latency(row.settings) for row in rows]
    listed: list[list[tuple[int, ...]]] = [[] for _ in rows]
    for cycle in range(1, max(ends) + 2):
        await lanes.next()
        lanes.drive()
        done = [int(cycle == end) for end in ends]
        lanes.same("token_valid", done, about)
        if lanes.word("list_valid"):
            found = zip(*(lanes.read(name) for name in LISTED), strict=True)
            valid = lanes.read("list_valid")
            for lane, entry in enumerate(found):
                if valid[lane]:
                    listed[lane].append(entry)
        if any(done):
            counted = [bool(row.settings.count) for row in rows]
            for name in ("token", "total", "octave"):
                some = done if name == "token" else np.logical_and(done, counted)
                wanted = [getattr(row.want, name) for row in rows]
                lanes.same(name, np.where(some, wanted, lanes.read(name)).tolist(), about)
    for lane, row in enumerate(rows):
        for i, name in enumerate(LISTED):
            column, wanted = ([entry[i] for entry in all_] for all_ in (listed[lane], row.listed))
            assert column == wanted, f"{name} of lane {lane}; {about(lane)}"


@cocotb.test()
async def choices(dut: Any) -> None:
    random = seeded()
    rng = np.random.default_rng(random.getrandbits(32))
    lanes = Lanes(
        dut, random, LANES, INPUTS, OUTPUTS, strobes=("restart", "in_valid", "bias_we"),
        stable=STABLE,
    )  # fmt: skip
    await lanes.reset()
    logits = rows = 0
    while logits < parameters()["values"]:
        size = row_size(random, 1 << VOCAB_BITS)
        share = rng.choice((0.1, 0.1, 0.5, 0.9, 1.0), (LANES, 1))
        each = some_rows(rng, LANES, size, FRACTION)
        lanes.stall = random.choice((0.0, 0.0, 0.0, 0.3))
        await play(lanes, rows, each, rng.random((LANES, size)) < share)
        logits += each.size
        rows += 1
    print(f"{logits} logits of {rows * LANES} rows compared")


@pytest.mark.parametrize("values", [deep(MANY, id="many")])
def test_candidates_lanes(values: int) -> None:
    block = SideBySide(lambda: Sampler(vocab_bits=VOCAB_BITS, candidates=CANDIDATES), LANES)
    run_block(block, __name__, parameters={"values": values})
