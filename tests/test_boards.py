"""The presets of real boards: each is a chip that the generator emits, and its memory holds."""

import re

import numpy as np
import pytest

from tests.deep import DEEP, deep
from tests.models_for_tests import random_model
from tokenloom.compiler.estimate import estimate, weightless
from tokenloom.compiler.image import plan
from tokenloom.compiler.program import compile_program
from tokenloom.compiler.quantise import quantise
from tokenloom.compiler.shapes import PUBLIC_MODELS
from tokenloom.hw.config import load
from tokenloom.hw.sequencer.isa import Unit
from tokenloom.sim.chip_device import ChipDevice
from tokenloom.sim.golden import Golden
from tokenloom.sim.simulator import chip_verilog

# The model and format for which each preset's pages are sized.
SIZED_FOR = [
    ("u280", "Llama-3-8B", 4),
    ("u55c", "Llama-3-8B", 8),
    ("vck5000", "Llama-3-8B", 8),
    ("ulx3s", "stories260K", 4),
]


@pytest.mark.parametrize(("board", "model", "bits"), SIZED_FOR)
def test_the_board_holds_the_model_and_all_pages(board, model, bits):
    hardware, shape = load(board), PUBLIC_MODELS[model].shape
    hardware.check_model(shape)
    assert hardware.losses() == []
    empty = weightless(shape, bits, hardware.maxima.positions)
    image = plan(empty, hardware)
    room = hardware.column_bytes - image.words * hardware.memory.port_bits // 8
    assert room >= 0
    # Every slot can hold a whole context, and one slot more would not fit.
    assert hardware.memory.pages == hardware.memory.slots * hardware.pages_per_slot
    assert room < hardware.pages_per_slot * image.kv.page_stride
    program = compile_program(empty, image, hardware)
    assert all(program.words(unit) for unit in Unit)
    assert estimate(board, PUBLIC_MODELS[model], f"Q{bits}_0", context=64).generated


@pytest.mark.parametrize("board", ["ulx3s", deep("u280"), deep("u55c"), deep("vck5000")])
def test_generate(board):
    hardware = load(board)
    texts = chip_verilog(hardware)
    columns, port = hardware.array.columns, hardware.memory.port_bits
    assert re.search(rf"\[{columns * port - 1}:0\] r_data;", texts["chip"])
    # One definition each, however many instances.
    packed = hardware.array.packed
    element = "dot_pair" if packed else "dot_element"
    units = columns // (2 if packed else 1)
    assert len(re.findall(r"^  column ", texts["array"], re.MULTILINE)) == units
    assert len(re.findall(rf"^  {element} ", texts["column"], re.MULTILINE)) == hardware.array.rows


@pytest.mark.skipif(not DEEP, reason="only with TOKENLOOM_DEEP=1: builds a simulator of its own")
def test_ulx3s_is_bit_exact():
    """Memory words of 256 bits, one row, 8 norm lanes: what no other chip test has."""
    model = quantise(
        random_model(
            width=64, ffn=172, heads=8, kv_heads=4, head_size=8, vocab=65, layers=2, kind="q4_0",
            positions=128,
        ),
        positions=128,
    )  # fmt: skip
    chip = ChipDevice(model, load("ulx3s"))
    try:
        prompt = np.random.default_rng(3).integers(0, 65, 37).tolist()
        found = [record.token for record in chip.generate(prompt, 40) if record.sample]
    finally:
        chip.close()
    session = Golden(model).session()
    expected = [int(np.argmax(session.prefill(prompt)))]
    while len(expected) < 40:
        expected.append(int(np.argmax(session.decode(expected[-1]))))
    assert found == expected
