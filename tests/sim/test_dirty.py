"""No bit depends on what the chip's memories held before: noise at power-up, another model."""

import ctypes

import pytest

from tests.models_for_tests import SMALLEST, prompt_for, random_model
from tokenloom.compiler.quantise import quantise
from tokenloom.host.session import compare_with_golden
from tokenloom.hw.config import load
from tokenloom.hw.sequencer.pass_control import EOS_IDS
from tokenloom.sim import chip_device
from tokenloom.sim.simulator import build, chip_verilog, with_dirty_memories

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
    build(HARDWARE, dirty=True)


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(chip_device, "_PATIENCE", 300_000)


def check(chip, count, new=4):
    """Play a prompt; nothing may differ from the golden model."""
    prompt = prompt_for(chip.model, count, 7)
    records = list(chip.generate(prompt, new))
    assert compare_with_golden(chip.model, prompt, records) is None
    return records


def test_buffers_are_dirty_and_tables_are_not():
    clean = chip_verilog(HARDWARE)
    dirty = with_dirty_memories(clean)
    changed = {name for name in clean if dirty[name] != clean[name]}
    assert {"context_buffer", "operand_buffer", "residual", "scores", "v_exponents"} <= changed
    assert {"dot_element", "page_table", "array_control", "tape_control"} <= changed
    assert not changed & {"softmax", "rsqrt", "reciprocal", "noise", "column", "chip"}
    assert with_dirty_memories(clean) == dirty


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_noise_at_power_up(name, count, device):
    model = quantise(random_model(**SHAPES[name]))
    records = check(device(model, dirty=True), count)
    clean = check(device(model), count)
    assert [r.scheduled for r in records] == [r.scheduled for r in clean]
    assert [r.saturated for r in records] == [r.saturated for r in clean]


def test_noise_at_power_up_over_pages(device):
    check(device(quantise(random_model(**SHAPES["odd"])), dirty=True), PAGE - 2, 6)


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


def test_reset_in_mid_flight(device):
    """Whatever a request has under way when the reset comes: the next one knows nothing of it."""
    model = quantise(random_model(**SHAPES["smallest"]))
    chip, token = device(model), ctypes.c_uint32()
    ends = (ctypes.c_uint32 * EOS_IDS)()
    prompt = (ctypes.c_uint32 * 3)(1, 2, 3)
    for cycles in range(260):
        chip._library.tl_request(chip._chip, prompt, len(prompt), 4, 1, ends, 0)
        status = chip._library.tl_run(chip._chip, ctypes.c_int64(cycles), ctypes.byref(token))
        assert status == 4, "the pass is still under way"
        chip.replace(model)
        check(chip, 2, 1)
