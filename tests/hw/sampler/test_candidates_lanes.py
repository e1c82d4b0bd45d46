# amaranth: UnusedElaboratable=no
"""A million logits through samplers with candidates, side by side; test_candidates_rtl has one."""

from __future__ import annotations

from typing import Any, NamedTuple

import cocotb
import numpy as np
import pytest

from tests.deep import deep
from tests.hw.many import MANY
from tests.hw.sampler.row_lanes import HIGH, LOW, row_size, send, some_rows
from tests.hw.sampler.test_candidates_rtl import FRACTION, VOCAB_BITS, settings_of
from tests.hw.side_by_side import Lanes, SideBySide
from tokenloom.hw.sampler.candidates import Choice, adjust, choose, log_probabilities
from tokenloom.hw.sampler.noise import SAMPLING
from tokenloom.hw.sampler.power_sum import OCTAVE_BITS
from tokenloom.hw.sampler.sampler import Sampler
from tokenloom.hw.sampler.settings import BIASES_MAX, WINDOW_MAX, Settings
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
LISTED = {"list_id": VOCAB_BITS, "list_logit": -32, "list_log": -32, "list_kept": 1}
OUTPUTS = {
    "token": VOCAB_BITS, "token_valid": 1, "list_valid": 1, **LISTED,
    "total": VOCAB_BITS + 49, "octave": -OCTAVE_BITS,
}  # fmt: skip


class Row(NamedTuple):
    """A row of one lane, and what comes out."""

    settings: Settings
    position: int
    recent: list[int]
    biases: list[tuple[int, int]]  # the whole table
    want: Choice
    listed: list[tuple[int, ...]]  # as LISTED names them

    @property
    def recent_count(self) -> int:
        return min(self.settings.window, len(self.recent)) if self.settings.window else 0

    @property
    def recent_word(self) -> int:
        latest = enumerate(reversed(self.recent[-WINDOW_MAX:]))
        return sum(token << VOCAB_BITS * place for place, token in latest)


def a_row(rng: Any, logits: np.ndarray, mask: np.ndarray) -> Row:
    """Any settings for these logits, and the golden answer."""
    size = len(logits)
    settings = settings_of(rng, CANDIDATES, BIASES_MAX)
    spread = max(1, size // rng.choice((1, 4)))
    recent = [rng.randrange(spread) for _ in range(rng.choice((1, 3, 64, 100)))]
    ids = range(BIASES_MAX)
    if rng.random() < 0.5:
        ids = sorted(rng.sample(range(1 << VOCAB_BITS), BIASES_MAX))
    biases = [(i, rng.choice((LOW, HIGH, 0, rng.randint(LOW, HIGH) >> 8))) for i in ids]
    inside = [entry for entry in biases[: settings.biases] if entry[0] < size]
    position = rng.getrandbits(20)
    want = choose(logits, position, settings, recent=recent, biases=inside, mask=mask)
    listed: list[tuple[int, ...]] = []
    if want.ids:
        window = recent[-settings.window :] if settings.window else ()
        values = adjust(logits, settings, window, inside)[want.ids]
        logs = log_probabilities(values, settings, want.total, want.octave)
        kept = [int(i < want.kept) for i in range(len(want.ids))]
        listed = list(zip(want.ids, values.tolist(), logs.tolist(), kept, strict=True))
    return Row(settings, position, recent, biases, want, listed)


async def play(lanes: Lanes, number: int, logits: np.ndarray, masks: np.ndarray) -> None:
    """A row in each lane; the settings say when a lane's token comes."""
    rows = [a_row(lanes.rng, *one) for one in zip(logits, masks, strict=True)]

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
