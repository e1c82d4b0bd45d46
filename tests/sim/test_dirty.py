"""No bit depends on what registers and memories held before: noise at power-up, another model."""

import re

import pytest

from tests.deep import DEEP
from tests.models_for_tests import SMALLEST, prompt_for, random_model
from tokenloom.compiler.errors import TokenloomError
from tokenloom.compiler.quantise import quantise
from tokenloom.host.session import compare_with_golden
from tokenloom.hw.config import load
from tokenloom.sim import chip_device
from tokenloom.sim.power_up import without_initial_values
from tokenloom.sim.simulator import build, chip_verilog

HARDWARE = load("mini")
PAGE = HARDWARE.memory.page_tokens
SHAPES = {
    "plain": {},
    "smallest": SMALLEST,
    # Heads and vectors that do not fill their last block.
    "odd": dict(width=40, ffn=50, heads=6, kv_heads=3, head_size=10, vocab=33, layers=2),
    "context-of-18": dict(width=31, ffn=65, heads=3, kv_heads=3, head_size=6, vocab=5),
    "narrow": dict(width=2, ffn=1, heads=1, kv_heads=1, head_size=2, vocab=2, layers=2),
    "four-bit": dict(width=33, ffn=31, heads=4, kv_heads=2, head_size=6, kind="q4_1"),
}
LARGEST = dict(width=128, ffn=384, heads=8, kv_heads=4, vocab=301, layers=8)


@pytest.fixture(scope="module", autouse=True)
def simulator():
    build(HARDWARE)
    build(HARDWARE, power_up=True)


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(chip_device, "_PATIENCE", 300_000)


def check(chip, count, new=4):
    """Play a prompt; nothing may differ from the golden model."""
    prompt = prompt_for(chip.model, count, 7)
    records = list(chip.generate(prompt, new))
    assert compare_with_golden(chip.model, prompt, records) is None
    return records


def test_nothing_but_tables_has_a_value_of_its_own():
    clean = chip_verilog(HARDWARE)
    dirty = without_initial_values(clean)
    given = re.compile(r"^  reg (?:\[\d+:0\] )?(\S+) += ", re.MULTILINE)
    assert sum(len(given.findall(text)) for text in clean.values()) > 1000
    assert {name for text in dirty.values() for name in given.findall(text)} == {"_initial_pass"}
    tables = {name for name, text in dirty.items() if "initial begin" in text}
    assert tables == {
        "log_total", "noise", "power_sum", "reciprocal", "rope", "rsqrt", "softmax",
    }  # fmt: skip
    # ... and nobody writes into them: a reset could not bring back what they held.
    filled = re.compile(r"^ +(\S+) ?\[\w+(?:\[\d+:0\])?\] = ", re.MULTILINE)
    for name in tables:
        for memory in set(filled.findall(dirty[name])):
            assert not re.search(rf"{re.escape(memory)} ?\[.*\] <= ", dirty[name]), (name, memory)
    for name in clean:  # no line but of values was lost
        kept = [line for line in clean[name].splitlines() if line in dirty[name].splitlines()]
        lost = len(clean[name].splitlines()) - len(kept)
        assert lost <= len(given.findall(clean[name])) + 6 * clean[name].count("initial begin")


def test_every_power_up_is_another(device):
    model = quantise(random_model(**SMALLEST))
    seen = set()
    for seed in (1, 2, 3):
        for _ in range(2):
            chip = device(model, power_up=seed)
            seen.add(chip._library.tl_power_up(chip._chip))
    assert len(seen) == 3
    for seed in (0, -1, 1 << 31):
        with pytest.raises(TokenloomError, match=f"power_up is {seed}; allowed: 1 to 2147483647"):
            device(model, power_up=seed)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_noise_at_power_up(name, count, device):
    model = quantise(random_model(**SHAPES[name]))
    clean = check(device(model), count)
    for seed in range(1, 41 if DEEP else 5):
        records = check(device(model, power_up=seed), count)
        assert [r.scheduled for r in records] == [r.scheduled for r in clean]
        assert [r.saturated for r in records] == [r.saturated for r in clean]


def test_noise_at_power_up_over_pages(device):
    check(device(quantise(random_model(**SHAPES["odd"])), power_up=9), PAGE - 2, 6)


@pytest.mark.parametrize("name", SHAPES)
def test_a_small_model_after_a_large_one(name, device):
    chip = device(quantise(random_model(**LARGEST)))
    check(chip, 9, 2)
    chip.replace(quantise(random_model(**SHAPES[name])))
    check(chip, 5)


def test_another_model_after_an_abandoned_request(device):
    chip = device(quantise(random_model(**LARGEST)))
    run = chip.generate(list(range(9)), 4)
    next(run)
    chip.replace(quantise(random_model(**SHAPES["odd"])))
    check(chip, 5)
    run.close()


@pytest.mark.parametrize("memory", ["ideal", "hbm2"])
def test_reset_in_mid_flight(memory, device):
    """Whatever a request has under way when the reset comes: the next one knows nothing of it."""
    model = quantise(random_model(**SHAPES["smallest"]))
    chip, pending = device(model, memory), 0
    for cycles in range(0, 260, 1 if memory == "ideal" else 5):
        chip.begin([1, 2, 3], 4, cycles, slot=1)
        pending += chip.pending() > 0
        chip.reset()
        check(chip, 2, 1)
    assert pending > 10
