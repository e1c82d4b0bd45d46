"""Chips with other arrays: wider beats, packed multipliers, registers between column groups.

Each against the golden model and `predict()`, with noise in every memory that is no table and in
the channels: with wide beats the blocks behind a head's or a context's last one are never written.
"""

import ctypes
from functools import cache

import numpy as np
import pytest

from tests.deep import deep
from tests.models_for_tests import SMALL, SMALLEST, prompt_for, random_model
from tokenloom.compiler.image import lay_out
from tokenloom.compiler.program import compile_program
from tokenloom.compiler.quantise import quantise
from tokenloom.compiler.schedule import predict
from tokenloom.host.session import compare_with_golden
from tokenloom.hw.config import load
from tokenloom.sim import chip_device
from tokenloom.sim.chip_device import Hold
from tokenloom.sim.measured import measured_passes, schedule_differences

ARRAYS = {
    "64-packed-crossed": ["array.columns=4", "array.lanes=64", "array.multiplier=packed",
                          "array.groups=2", "array.stages=1"],
    "64": ["array.lanes=64", "array.rows=1"],
    "128": ["array.lanes=128", "memory.page_tokens=128"],
    "crossed-twice": ["array.columns=4", "array.groups=3", "array.stages=2"],
    "packed": ["array.multiplier=packed", "array.rows=4"],
}  # fmt: skip
DEFAULT = ("64-packed-crossed", "128")

MODELS = {
    "plain": {},
    "smallest": SMALLEST,
    "small": SMALL,
    # Three blocks per head and five of width: neither fills its last beat.
    "head-72": dict(width=144, ffn=97, heads=4, kv_heads=2, head_size=72, vocab=33, kind="q4_1"),
    "head-64": dict(width=65, ffn=129, heads=2, kv_heads=1, head_size=64, layers=2, kind="q4_0"),
}


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(chip_device, "_PATIENCE", 300_000)


@cache
def hardware(array):
    return load("mini", ["maxima.width=160", "maxima.head_size=72", *ARRAYS[array]])


def with_noise(chip):
    """Noise wherever the image leaves the channels' memory alone."""
    size = chip.image.words * chip.hardware.memory.port_bits // 8
    rng = np.random.default_rng(3)
    for channel, data in enumerate(chip.image.channels):
        noise = rng.integers(0, 256, size, dtype=np.uint8)
        noise[: len(data)] = data
        chip._library.tl_memory(
            chip._chip, channel, noise.ctypes.data_as(ctypes.c_void_p), ctypes.c_uint64(size),
            ctypes.c_uint64(size),
        )  # fmt: skip
    return chip


def check(chip, records, count, new):
    """Play a prompt behind `records`: tokens, logits, each operation's first and last cycle."""
    model, made = chip.model, chip.hardware
    prompt, before = prompt_for(model, count), len(records)
    records += chip.generate(prompt, new)
    fresh = records[before:]
    assert compare_with_golden(model, prompt, fresh) is None
    program = compile_program(model, lay_out(model, made), made)
    passes = measured_passes(chip.events(), records)[before:]
    for one, measured in zip(fresh, passes, strict=True):
        schedule = predict(program, made, model, rows=one.rows, pos=one.pos, sample=one.sample)
        assert schedule_differences(schedule, measured) == []
        assert (schedule.cycles, schedule.beats) == (one.scheduled, one.beats)


CASES = [pytest.param(a, id=a) if a in DEFAULT else deep(a, id=a) for a in ARRAYS]


@pytest.mark.parametrize("array", CASES)
@pytest.mark.parametrize("name", MODELS)
def test_chip(array, name, device):
    made, shape = hardware(array), dict(MODELS[name])
    if name.startswith("head") and made.array.rows == 4:
        shape["ffn"] += 1  # the last block has to hold half as many values as there are rows
    model = quantise(random_model(**shape))
    chip = with_noise(device(model, hardware=made, power_up=1))
    records = []
    check(chip, records, 5, 4)
    chip.hold(Hold.RANDOM, 7)
    check(chip, records, 3, 3)
    chip.hold(Hold.NONE)
    # Over the end of a page, in prefill and in decode.
    check(chip, records, made.memory.page_tokens - 2, 5)


def test_a_window_on_wide_beats(device):
    """The mask of V's last beat is that of the operation that plays, not of the next one's tokens.

    From position 128 on three blocks are attended and five are there; the fourth, in the last
    beat, holds an earlier pass's probabilities, and memory has noise where its values would be.
    """
    made = load("mini", ["maxima.positions=192", "array.lanes=64", "array.rows=1"])
    model = quantise(random_model(**SMALL, window=64, positions=192))
    chip = with_noise(device(model, hardware=made, power_up=1))
    records = []
    check(chip, records, 124, 10)
    check(chip, records, 3, 2)
