"""A fault in the chip: the report names the operation, row and lane in which it shows first."""

import functools
import json
import sys

import numpy as np
import pytest

from tests.models_for_tests import KINDS, SMALL, SMALLEST, prompt_for, random_model
from tokenloom.compiler.image import lay_out
from tokenloom.compiler.program import compile_program
from tokenloom.compiler.quantise import quantise
from tokenloom.host.session import Difference, compare_with_golden, with_operation
from tokenloom.hw.attention.window import first_token
from tokenloom.hw.config import load
from tokenloom.hw.sequencer.isa import Unit
from tokenloom.hw.taps import tap_places, tap_words
from tokenloom.sim import chip_device
from tokenloom.sim.chip_device import ChipDevice
from tokenloom.sim.golden import Golden
from tokenloom.sim.request import Sampling
from tokenloom.sim.simulator import build, chip_verilog
from tokenloom.sim.taps import checksum, first_difference, pass_checksums

HARDWARE = load("mini")
WORD = HARDWARE.memory.port_bits // 8
PAGE = HARDWARE.memory.page_tokens
SHAPES = {
    "plain": {},
    "smallest": dict(SMALLEST, layers=2),
    "small": SMALL,
    "group-2": dict(width=65, ffn=97, heads=8, kv_heads=4, head_size=8, layers=3),
    "head-6": dict(width=31, ffn=65, heads=3, kv_heads=3, head_size=6, vocab=5),
}


@pytest.fixture(scope="module", autouse=True)
def simulator():
    build(HARDWARE, taps=True)


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A pass here takes a few thousand cycles; one that hangs shall not take minutes."""
    monkeypatch.setattr(chip_device, "_PATIENCE", 300_000)


@pytest.fixture
def device(device):
    """As everywhere, of the chip that shows every operation's output."""
    return functools.partial(device, taps=True)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_operation_is_equal(name, count, device):
    model = quantise(random_model(**SHAPES[name]))
    assert first_difference(device(model), model, prompt_for(model, count), 4) is None


@pytest.mark.parametrize("kind", KINDS)
def test_every_operation_is_equal_over_pages(kind, device):
    model = quantise(random_model(**SMALL, kind=kind))
    assert first_difference(device(model), model, prompt_for(model, PAGE - 3), 6) is None


def test_every_operation_is_equal_with_a_window(device):
    """Windowed operations count their tokens from the window's first page."""
    model = quantise(random_model(**SMALL, window=21, full_layers=(0,)))
    assert first_token(pos=PAGE + 30, window=21, page_tokens=PAGE) == PAGE
    assert first_difference(device(model), model, prompt_for(model, PAGE + 34), 2) is None


def test_a_sampled_request_is_played_as_it_was(device):
    model, sampling = quantise(random_model(**SMALL)), Sampling(temperature=1.5, seed=9)
    chip, tokens = device(model), []
    generate = chip.generate

    def recorded(*args, **options):
        for record in generate(*args, **options):
            tokens.append(record.token)
            yield record

    chip.generate = recorded
    assert first_difference(chip, model, [1, 2], 8, sampling=sampling) is None
    assert tokens == Golden(model).answer([1, 2], 8, sampling)


def test_the_normal_chip_has_no_taps():
    assert "tap_valid" in chip_verilog(HARDWARE, taps=True)["core"]
    for text in chip_verilog(HARDWARE).values():
        assert "tap_" not in text


def test_places_of_a_record():
    places = sorted((place.start, place.stop) for place in tap_places(HARDWARE).values())
    assert places[0][0] == 0 and places[-1][1] == tap_words(HARDWARE)
    assert all(stop == start for (_, stop), (start, _) in zip(places, places[1:], strict=False))


def test_checksums_of_a_pass(device):
    """Equal with the golden model; after a fault they differ from its operation on."""
    model = quantise(random_model(**SMALL))
    chip, prompt = device(model), prompt_for(model, 5)
    for number in (0, 2, 3):
        sums = pass_checksums(chip, model, prompt, 2, number)
        taken = {(op.unit, op.name) for op, _, _ in sums}
        assert len(taken) == len(sums)  # names say which operation is meant
        assert all(golden == here for _, golden, here in sums)
        assert len({golden for _, golden, _ in sums}) > len(sums) // 2
    with pytest.raises(ValueError, match="no pass 4"):
        pass_checksums(chip, model, prompt, 2, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chip_device, "lay_out", _altered(lay_out, weight_fault(1, "o", 0)))
        broken = device(model)
    sums = pass_checksums(broken, model, prompt, 2, 0)
    first = next(op.name for op, golden, here in sums if golden != here)
    assert first == "layer 1 o"


def test_checksum_sees_values_parts_and_order():
    parts = {"codes": np.arange(6), "shift": np.array([1, 2])}
    swapped = {"codes": np.array([1, 0, 2, 3, 4, 5]), "shift": parts["shift"]}
    renamed = {"codes": parts["codes"], "value": parts["shift"]}
    assert len({checksum(each) for each in (parts, swapped, renamed)}) == 3
    assert checksum(parts) == checksum(dict(reversed(parts.items())))


# Faults in what the chip holds.


def _altered(make, change):
    def made(*args):
        result = make(*args)
        change(result)
        return result

    return made


def weight_fault(layer, name, channel, block=0, code=0, flip=0x40):
    """Flip a bit of an 8-bit code: of `block` in the channel's part of a matrix."""

    def alter(image):
        segment = image.segments[layer, name]
        at = (segment.address + 1) * WORD + 32 * block + code
        image.channels[channel][at] ^= flip

    return alter


def play_with(device, model, *, image=lambda image: None, program=lambda program: None, count=3):
    """Play on a chip whose memory image or program was altered; the first difference."""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chip_device, "lay_out", _altered(lay_out, image))
        patch.setattr(chip_device, "compile_program", _altered(compile_program, program))
        chip = device(model)
    chip.program = compile_program(model, chip.image, HARDWARE)  # what it should be
    return first_difference(chip, model, prompt_for(model, count), 2)


@pytest.mark.parametrize("channel", range(HARDWARE.array.columns))
@pytest.mark.parametrize(
    ("layer", "name", "part"),
    [
        (0, "k", "codes"),
        (1, "v", "codes"),
        (0, "q", "codes"),
        (1, "o", "value"),
        (1, "gate_up", "codes"),
        (0, "down", "value"),
        (2, "head", "value"),
    ],
)
def test_a_wrong_weight(layer, name, part, channel, device):
    """The first block of channel c is the matrix's row c."""
    model = quantise(random_model(**SMALL))
    found = play_with(device, model, image=weight_fault(layer, name, channel))
    assert found.name == (f"layer {layer} {name}" if layer < 2 else name)
    assert (found.unit, found.part) == (Unit.ARRAY, part)
    if part == "value":
        assert (found.row, found.lane) == (0, channel)
    else:
        # Rotation and the block's shift spread it, but not out of the block; rounding to codes may
        # hide it in row 0.
        assert found.row < HARDWARE.array.rows and found.lane < 32
    # Only passes that sample play the head.
    assert found.number == (1 if name == "head" else 0)
    assert found.device != found.golden and found.device is not None


def test_a_wrong_weight_of_a_late_tile(device):
    """Row 7 of the matrix: channel 1, tile 3; two blocks per row."""
    model = quantise(random_model(**SMALL))
    fault = weight_fault(1, "o", 1, block=3 * 2 + 1, code=9)
    found = play_with(device, model, image=fault)
    assert (found.name, found.row, found.lane) == ("layer 1 o", 0, 7)


def test_a_wrong_embedding(device):
    """A token of the second row: the first row is right."""
    model = quantise(random_model(**SMALL))
    first, second, *_ = prompt_for(model, 3)
    assert first != second

    def alter(image):
        token_row = second // HARDWARE.array.columns
        word = image.embedding_base + token_row * image.embedding_stride
        # After the words of scales; an 8-bit row.
        image.channels[second % HARDWARE.array.columns][(word + 1) * WORD + 6] ^= 0x40

    found = play_with(device, model, image=alter)
    assert (found.name, found.unit, found.row, found.lane) == ("embedding", Unit.EMBED, 1, 6)


@pytest.mark.parametrize(
    ("norm", "name", "number"),
    [(0, "layer 0 attention norm", 0), (3, "layer 1 ffn norm", 0), (4, "final norm", 1)],
)
def test_a_wrong_gain(norm, name, number, device):
    model = quantise(random_model(**SMALL))

    def halve(program):
        program.gains[norm][37] //= 2

    found = play_with(device, model, program=halve)
    assert (found.name, found.unit, found.number) == (name, Unit.NORM, number)
    assert found.part in ("codes", "shift") and found.row == 0


@pytest.mark.parametrize(
    ("unit", "name", "field", "value"),
    [
        (Unit.ARRAY, "layer 1 scores of kv head 2", "shift", lambda old: old + 9),
        (Unit.SOFTMAX, "layer 1 softmax of kv head 2 block 0", "block", lambda old: 1 - old),
        (Unit.ARRAY, "layer 0 values of kv head 1 block 0", "aux_shift", lambda old: 1 - old),
        (Unit.CONTEXT, "layer 1 context to head 5", "floor", lambda old: 20),
        (Unit.NORM, "layer 1 ffn norm", "floor", lambda old: 20),
        (Unit.ARRAY, "layer 0 gate_up", "aux_shift", lambda old: old + 2),
    ],
)
def test_a_wrong_instruction(unit, name, field, value, device):
    model = quantise(random_model(**SMALL))

    def change(program):
        (operation,) = [op for op in program.queues[unit] if op.name == name]
        operation.fields[field] = value(operation.fields[field])

    found = play_with(device, model, program=change, count=5)
    assert (found.name, found.unit, found.number) == (name, unit, 0)


def test_an_output_that_never_comes(device):
    """The last half of a row's logits is left out of the record."""
    model = quantise(random_model(**SMALL))
    chip = device(model)
    honest, place = chip.taps, tap_places(HARDWARE)["logit_valid", 0].start

    def cut():
        records = honest()
        seen = np.flatnonzero(records[:, place])
        records[seen[len(seen) // 2 :], place] = 0
        return records

    chip.taps = cut
    found = first_difference(chip, model, prompt_for(model, 1), 1)
    half = SMALL["vocab"] // 2
    assert (found.name, found.row, found.lane, found.device) == ("head", 0, half, None)
    assert "the device gave nothing" in str(found)


# The report.


def test_the_operation_behind_a_difference(monkeypatch):

    def altered(*args):
        image = lay_out(*args)
        weight_fault(1, "o", 1)(image)
        return image

    monkeypatch.setattr(chip_device, "lay_out", altered)
    model = quantise(random_model(**SMALL))
    prompt = prompt_for(model, 5)
    chip = ChipDevice(model, HARDWARE)
    records = list(chip.generate(prompt, 3))
    chip.close()
    difference = compare_with_golden(model, prompt, records)
    assert difference.number == 2 and difference.operation is None
    found = with_operation(difference, chip, prompt, records)
    assert found.operation.name == "layer 1 o"
    assert (found.operation.number, found.operation.row, found.operation.lane) == (0, 0, 1)
    text = str(found)
    assert text.startswith("pass 2, row ")
    assert "first wrong operation: pass 0, operation " in text
    assert "'layer 1 o' (unit array), row 0, value of lane 1: the device has " in text


def test_a_difference_that_does_not_come_again():

    model = quantise(random_model(**SMALL))
    chip = ChipDevice(model, HARDWARE)
    records = list(chip.generate([1, 2], 1))
    chip.close()
    difference = Difference(number=0, row=0, lane=3, device=1, golden=2)
    assert "none in a second run" in str(with_operation(difference, chip, [1, 2], records))


def test_run_names_the_operation(monkeypatch, capsys, tmp_path):
    from tests.host.test_commands import write_model
    from tokenloom.host import cli

    folder = write_model(tmp_path / "tiny")

    def altered(*args):
        image = lay_out(*args)
        weight_fault(0, "down", 0)(image)
        return image

    monkeypatch.setattr(chip_device, "lay_out", altered)
    file = tmp_path / "run.json"
    args = ["--prompt", "abc", "--raw", "--max-tokens", "2", "--check", "--json", str(file)]
    monkeypatch.setattr(
        sys, "argv", ["tokenloom", "run", "--model", str(folder), "--board", "mini", *args]
    )
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    wanted = "'layer 0 down' (unit array), row 0, value of lane 0"
    assert wanted in json.loads(file.read_text())["difference"]
    assert wanted in " ".join(capsys.readouterr().err.split())
