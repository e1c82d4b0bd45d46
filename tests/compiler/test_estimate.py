"""Every formula of the estimates against numbers that were worked out by hand."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.models_for_tests import random_model
from tokenloom.compiler.checkpoint import ModelShape
from tokenloom.compiler.errors import ConfigError, ModelError
from tokenloom.compiler.estimate import (
    FORMATS,
    PassTime,
    estimate,
    kv_bytes_per_token,
    pass_time,
    weightless,
    weights_per_token,
)
from tokenloom.compiler.image import MemoryImage, Segment, lay_out, plan
from tokenloom.compiler.program import compile_program
from tokenloom.compiler.quantise import quantise
from tokenloom.compiler.schedule import Operation, Schedule, predict
from tokenloom.compiler.shapes import PUBLIC_MODELS, PublicModel, public_model
from tokenloom.host.cli import cli
from tokenloom.host.commands.estimate import estimates, line, markdown
from tokenloom.hw.config import load
from tokenloom.hw.kv.kv_layout import KvLayout
from tokenloom.hw.memory.tape_format import TapeKind
from tokenloom.hw.sequencer.isa import Unit

ROOT = Path(__file__).resolve().parents[2]


def shape_of(name):
    return PUBLIC_MODELS[name].shape


# Formulas.


def test_weights_per_token():
    # Llama-2-7B: a layer has 4 x 4096^2 + 3 x 4096 x 11008, the head 4096 x 32000.
    assert weights_per_token(shape_of("Llama-2-7B")) == 32 * 202_375_168 + 131_072_000
    assert weights_per_token(shape_of("Llama-2-7B"), head=False) == 6_476_005_376
    # Llama-3-8B: k and v have 1024 outputs: 2 x 4096^2 + 2 x 4096 x 1024 + 3 x 4096 x 14336.
    assert weights_per_token(shape_of("Llama-3-8B"), head=False) == 32 * 218_103_808


def test_kv_bytes_per_token():
    assert kv_bytes_per_token(shape_of("Llama-3-8B")) == 2 * 32 * 8 * (128 + 4)
    # A head of 8 has a block of its own.
    assert kv_bytes_per_token(shape_of("stories260K")) == 2 * 5 * 4 * (8 + 1)


def test_formats():
    assert (FORMATS["Q8_0"].bits, FORMATS["Q4_0"].bits) == (8.5, 4.5)


@pytest.mark.parametrize(
    ("model", "kind", "bytes_per_token"),
    [
        # 6,607,077,376 weights, 512 tokens of 270,336 bytes.
        ("Llama-2-7B", "Q8_0", 7_020_019_712 + 138_412_032),
        ("Llama-2-7B", "Q4_0", 3_716_481_024 + 138_412_032),
        # 7,504,658,432 weights, 512 tokens of 67,584 bytes.
        ("Llama-3-8B", "Q8_0", 7_973_699_584 + 34_603_008),
    ],
)
def test_decode_at_the_memory_peak(model, kind, bytes_per_token):
    found = estimate("u280", PUBLIC_MODELS[model], kind, context=512)
    assert found.decode_peak == pytest.approx(460e9 / bytes_per_token, rel=1e-12)


def test_prefill_at_the_memory_peak():
    # No head, 4 rows per pass, half of the prompt's K and V on average.
    found = estimate("u280", PUBLIC_MODELS["Llama-2-7B"], "Q8_0", context=512)
    expected = 4 * 460e9 / (6_476_005_376 * 8.5 / 8 + 256 * 270_336)
    assert found.prefill_peak == pytest.approx(expected, rel=1e-12)


def made_up_pass(overrides=(), *, length, sample):
    """On `mini` (64-byte words, 100 MHz, 6.4 GB/s per column): 1000 cycles, 800 beats.

    60 words of layers, 40 of head; a page of 64 tokens has 4 x (64 + 1024 + 512) bytes.
    """
    hardware = load("mini", overrides)
    kv = KvLayout(columns=2, port_bits=512, page_tokens=64, head_size=16, kv_heads=4, layers=1)
    assert kv.page_stride == 6400
    image = MemoryImage(
        channels=(),
        segments={
            (0, "k"): Segment(kind=TapeKind.Q8, address=0, blocks=1),
            (1, "head"): Segment(kind=TapeKind.Q8, address=60, blocks=1),
        },
        embedding_base=100,
        embedding_stride=1,
        embedding_blocks=1,
        embedding_four_bit=False,
        kv=kv,
        kv_base=128,
        words=1000,
    )
    one = Operation(unit=Unit.ARRAY, name="k", first=1, last=999, beats=800)
    schedule = Schedule(operations=(one,), cycles=1000)
    return pass_time(hardware, image, schedule, length=length, sample=sample)


def test_pass_time():
    # 100 words of weights, half a page of 100 words: 150 words or 9600 bytes per column.
    time = made_up_pass(length=32, sample=True)
    assert time.belt == pytest.approx(10e-6)
    assert time.array == pytest.approx(8e-6)
    assert time.port == pytest.approx(1.5e-6)
    assert time.memory == pytest.approx(9600 / 6.4e9)
    # Without the head 40 words less; at a full page 50 words more.
    time = made_up_pass(length=64, sample=False)
    assert time.port == pytest.approx(1.6e-6)
    # A ceiling of a half, and two columns on one channel: four times as long.
    slow = ["board.memory.ceiling=0.5", "board.memory.channels=1"]
    assert made_up_pass(slow, length=32, sample=True).memory == pytest.approx(6e-6)


@pytest.mark.parametrize(
    ("belt", "port", "memory", "array", "limit"),
    [
        (3, 2, 4, 3, "memory bandwidth"),
        (3, 5, 4, 3, "memory port"),
        (6, 5, 4, 4, "MACs"),
        (6, 5, 4, 2, "schedule"),
    ],
)
def test_the_slowest_binds(belt, port, memory, array, limit):
    time = PassTime(belt=belt, port=port, memory=memory, array=array)
    assert time.seconds == max(belt, port, memory)
    assert time.limit == limit


def test_columns_that_share_channels():
    # 16 columns on 3 channels of 25.6 GB/s and 4 GiB: the fullest has 6.
    hardware = load("vck5000")
    assert hardware.channel_columns == 6
    assert hardware.column_gbs == pytest.approx(25.6 / 6)
    assert hardware.column_bytes == 715_827_882
    assert load("u280").column_gbs == 14.375


def test_capacity_and_context():
    """Llama-3-8B, Q8_0, on a U280; bytes per column.

    A layer has 212,992 blocks of 34 bytes in each column, the head 4008 rows of 128 blocks, the
    embedding as much: 266,620,928, a multiple of 4096. A page of 256 tokens has 8 tokens in each
    column: 64 bytes of exponents, 1024 of K and 1024 of V, for 8 heads and 32 layers: 540,672.
    Three of them fit in the 1,814,528 bytes that 256 MiB leave.
    """
    found = estimate("u280", PUBLIC_MODELS["Llama-3-8B"], "Q8_0", context=512)
    assert found.weight_bytes == 32 * 266_620_928
    assert found.capacity_bytes == 8 * 2**30
    assert (found.longest_context, found.context_limit) == (3 * 256, "capacity")
    assert found.tape_bits == pytest.approx(8.5)
    assert estimate(
        "u280", PUBLIC_MODELS["Llama-3-8B"], "Q4_0", context=512
    ).tape_bits == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("board", "model", "kind", "longest", "limit"),
    [
        ("u55c", "Llama-3-8B", "Q8_0", 8160, "chip"),
        ("u55c", "TinyLlama-1.1B", "Q8_0", 2048, "model"),
        ("u280", "Llama-3-70B", "Q4_0", 0, "capacity"),
    ],
)
def test_what_bounds_the_context(board, model, kind, longest, limit):
    found = estimate(board, PUBLIC_MODELS[model], kind, context=512)
    assert (found.longest_context, found.context_limit) == (longest, limit)
    assert found.fits == (longest > 0)
    assert found.context == min(512, longest)
    assert (found.decode is None) == (longest == 0)


# The shape alone says what the chip does.


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_a_weightless_model_has_the_plan_and_the_schedule_of_a_real_one(kind):
    hardware = load("mini")
    real = quantise(random_model(kind=kind, layers=2, width=96, ffn=160, vocab=70))
    empty = weightless(real.shape, int(kind[1]), 256)
    image, bare = lay_out(real, hardware), plan(empty, hardware)
    assert all(len(channel) <= 64 * image.kv_base for channel in image.channels)
    assert (bare.segments, bare.embedding_base, bare.kv_base, bare.words) == (
        image.segments, image.embedding_base, image.kv_base, image.words,
    )  # fmt: skip
    for rows, pos, sample in ((1, 70, True), (2, 6, False)):
        schedules = [
            predict(
                compile_program(model, where, hardware), hardware, model,
                rows=rows, pos=pos, sample=sample,
            )
            for model, where in ((real, image), (empty, bare))
        ]  # fmt: skip
        assert schedules[0] == schedules[1]


def test_chip_rates_are_the_schedules():
    model, hardware = PUBLIC_MODELS["stories260K"], load("mini")
    found = estimate("mini", model, "Q8_0", context=100)
    empty = weightless(model.shape, 8, 512)
    sized = load("mini", maxima_from=model.shape)
    program = compile_program(empty, plan(empty, sized), sized)
    one = predict(program, sized, empty, rows=1, pos=99, sample=True)
    two = predict(program, sized, empty, rows=2, pos=49, sample=False)
    assert found.decode == pytest.approx(hardware.board.clock_mhz * 1e6 / one.cycles)
    assert found.prefill == pytest.approx(2 * hardware.board.clock_mhz * 1e6 / two.cycles)
    assert found.array_busy == pytest.approx(one.beats / one.cycles)
    used = weights_per_token(model.shape) * 8.5 / 8 + 100 * 360
    assert found.share == pytest.approx(used * found.decode / 12.8e9)


# What cannot be generated says so.


def test_missing_hardware_is_named():
    reason = "needs a sense of humour"
    model = dataclasses.replace(PUBLIC_MODELS["Qwen3-8B"], missing="a sense of humour")
    found = estimate("u55c", model, "Q4_0", context=512)
    assert not found.generated
    assert found.reason == reason
    assert f"not yet generated: {reason}" in line(found)
    row = markdown([found], 512).splitlines()[-1]
    assert f"not yet: {reason}" in row
    assert row.count("(") == 3  # the context's limit, and both rates of the chip


def made_up_model(**change):
    sizes = {
        "width": 64, "ffn": 96, "layers": 1, "heads": 4, "kv_heads": 2, "head_size": 16,
        "vocab": 64, "positions": 256,
    }  # fmt: skip
    shape = ModelShape(
        name="made up", **{**sizes, **change}, rope_theta=1e4, norm_eps=1e-5, tied=True, bos=None,
        eos=(),
    )  # fmt: skip
    return PublicModel(source="nowhere", shape=shape)


@pytest.mark.parametrize(
    ("board", "change", "reason", "rates"),
    [
        # 123 layers x (6 + 64 heads x 2) array operations: more than 14 bits count.
        (
            "mini",
            {"heads": 64, "kv_heads": 64, "layers": 123},
            "no chip: maxima.layers in operations",
            False,
        ),
        # Sums of V leave the array 8 at a time.
        ("u280", {"head_size": 34}, "no chip: .*multiple of array.drain = 8", False),
        # A tile of 32 columns would span the head's blocks of 32 and 16 values.
        ("u280", {"head_size": 48}, "no chip: .*head_size is 48, .* array.columns = 32", False),
        ("mini", {"head_size": 48}, "", True),
    ],
)
def test_programs_that_do_not_exist(board, change, reason, rates):
    found = estimate(board, made_up_model(**change), "Q8_0", context=64)
    assert re.match(reason, found.reason)
    assert found.generated == (not reason)
    assert (found.decode is not None) == rates
    assert found.decode_peak is not None


# Names.


def test_names():
    assert public_model("llama-3-8b").shape.name == "Llama-3-8B"
    with pytest.raises(ModelError, match=r"no shape is known of 'gpt-2'; allowed are stories260K,"):
        public_model("gpt-2")
    with pytest.raises(ModelError, match=r"no format 'Q5_0'; allowed are Q8_0, Q4_0"):
        estimate("mini", PUBLIC_MODELS["stories260K"], "Q5_0", context=1)
    with pytest.raises(ConfigError, match=r"'u281' is no hardware preset; there are mini, sim"):
        estimates(boards=["mini", "u281"], context=1)
    with pytest.raises(ModelError, match="no shape is known of 'x'"):
        estimates(models=["x"], context=1)


def test_shapes_are_unambiguous_and_sourced():
    assert len({name.lower() for name in PUBLIC_MODELS}) == len(PUBLIC_MODELS)
    for name, model in PUBLIC_MODELS.items():
        assert model.shape.name == name
        assert "/" in model.source


# The command.


def test_command(tmp_path):
    table, data = tmp_path / "e.md", tmp_path / "e.json"
    arguments = ["estimate", "--board", "mini", "--board", "ulx3s", "--model", "stories260K"]
    arguments += ["--context", "100", "-P", "board.clock_mhz=50"]
    done = CliRunner().invoke(cli, [*arguments, "--markdown", str(table), "--json", str(data)])
    assert done.exit_code == 0, done.output
    assert done.output.count("(derived)\n") == 4
    found = json.loads(data.read_text())
    assert [(e["board"], e["format"]) for e in found] == [
        (board, kind) for board in ("mini", "ulx3s") for kind in ("Q8_0", "Q4_0")
    ]
    assert {e["kind"] for e in found} == {"derived"}
    # Where 100 tokens do not fit, the table says which context the rates are for.
    assert [e["context"] for e in found] == [100, 100, 32, 100]
    assert "\n* `ulx3s` lacks room: 166 of 156 multipliers" in table.read_text()
    assert "`mini` lacks" not in table.read_text()
    rows = table.read_text().splitlines()[-4:]
    assert [" at 32 " in row for row in rows] == [False, False, True, False]
    again = estimate("mini", PUBLIC_MODELS["stories260K"], "Q8_0", context=100)
    assert found[0]["decode"] == pytest.approx(again.decode / 2)  # half of mini's clock


# What the documentation says.


@pytest.fixture(scope="module")
def written():
    return markdown(list(estimates(context=512)), 512)


def test_documented_estimates_are_these(written):
    path = ROOT / "docs" / "estimates.md"
    assert path.read_text(encoding="utf-8") == written, "run `make estimate`"


def test_readme_quotes_the_estimates(written):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [row for row in readme.splitlines() if " | Q8_0 | " in row or " | Q4_0 | " in row]
    assert len(rows) >= 4
    for row in rows:
        assert row in written.splitlines()
