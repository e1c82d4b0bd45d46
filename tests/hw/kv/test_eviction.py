"""The choice of a victim against `eviction_policy.choose`, bit for bit."""

import cocotb
import pytest
from cocotb.triggers import FallingEdge

from tests.deep import DEEP
from tests.hw.clocked import begin
from tests.hw.memory.test_tape_reader import configured
from tokenloom.hw.kv.eviction import Eviction
from tokenloom.hw.kv.eviction_policy import (
    AGE_MAX,
    FREQUENCY_MAX,
    MASS_MAX,
    SCORE_BITS,
    PageState,
    Weights,
    choose,
    score,
)
from tokenloom.sim.bench import run_block

VALUES = ("age", "frequency", "mass")
WEIGHTS = ("recency", "frequency", "mass")
INPUTS = ["clear", "valid", "tag", *VALUES, *(f"weight_{name}" for name in WEIGHTS)]


@cocotb.test()
async def random_candidates(dut):
    given, random, _ = configured()
    await begin(dut, INPUTS)

    def some(most):
        return random.choice([0, most, random.randrange(most + 1), random.randrange(4)])

    for _ in range(given["searches"]):
        weights = Weights(some(255), some(255), some(255))
        for name in WEIGHTS:
            getattr(dut, f"weight_{name}").value = getattr(weights, name)
        pages = [
            PageState(some(AGE_MAX), some(FREQUENCY_MAX), some(MASS_MAX))
            for _ in range(random.choice([0, 1, 2, 5, 20]))
        ]
        dut.clear.value, dut.valid.value = 1, 0
        await FallingEdge(dut.clk)
        dut.clear.value = 0
        tags = random.sample(range(256), len(pages))
        gap = random.choice([0, 0.5])
        for tag, page in zip(tags, pages, strict=True):
            while True:
                valid = random.random() >= gap
                shown = page if valid else PageState(AGE_MAX, 0, 0)
                dut.valid.value, dut.tag.value = valid, tag
                for name in VALUES:
                    getattr(dut, name).value = getattr(shown, name)
                await FallingEdge(dut.clk)
                if valid:
                    break
        dut.valid.value = 0
        # One cycle less, and the last candidate is not seen yet.
        for late in (1, 0):
            for _ in range(Eviction.LATENCY - 2 if late else 1):
                await FallingEdge(dut.clk)
            seen = pages[: len(pages) - late] if gap == 0 or not late else None
            if seen is not None:
                best = choose(seen, weights)
                assert int(dut.found.value) == (best is not None)
                if best is not None:
                    assert int(dut.best.value) == tags[best]


def test_eviction():
    run_block(
        Eviction(tag_bits=8),
        "tests.hw.kv.test_eviction",
        parameters={"searches": 20000 if DEEP else 600},
    )


def test_policy():
    page = PageState()
    for _ in range(300):
        page.use(300)
    assert page == PageState(0, FREQUENCY_MAX, MASS_MAX)
    page.tick()
    assert page == PageState(1, FREQUENCY_MAX >> 1, MASS_MAX >> 1)
    for _ in range(300):
        page.tick()
    assert page == PageState(AGE_MAX, 0, 0)
    most = score(PageState(0, FREQUENCY_MAX, MASS_MAX), Weights(255, 255, 255))
    assert most.bit_length() <= SCORE_BITS
    assert score(PageState(55, 7, 9), Weights(3, 5, 2)) == ((3 * 200 + 5 * 7) << 8) + 18
    assert choose([], Weights(1, 1, 1)) is None
    equal = [PageState(3, 1, 1), PageState(9, 0, 0), PageState(9, 0, 0)]
    assert choose(equal, Weights(1, 0, 0)) == 1


def test_refusals():
    with pytest.raises(ValueError, match="tag_bits .*0"):
        Eviction(tag_bits=0)
