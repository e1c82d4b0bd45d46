"""The hardware configuration: presets, overrides, and errors that say what is allowed."""

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from tokenloom.compiler.errors import ConfigError
from tokenloom.hw import config
from tokenloom.hw.config import HardwareConfig, load
from tokenloom.hw.config.preset_files import PRESETS
from tokenloom.hw.kv.kv_layout import KvLayout
from tokenloom.hw.sequencer.isa import DONE_BITS, OPERAND_BITS

ROOT = Path(__file__).resolve().parents[2]


def changed(name="mini", **sections):
    data = load(name).to_dict()
    for key, value in sections.items():
        data[key] = {**data[key], **value} if isinstance(value, dict) else value
    return HardwareConfig.from_dict(data)


@pytest.mark.parametrize("name", config.presets())
def test_presets_load_and_waste_nothing(name):
    hardware = load(name)
    assert hardware.name == name
    assert hardware.losses() == []
    assert HardwareConfig.from_dict(hardware.to_dict()) == hardware


def test_presets_are_there():
    assert {"mini", "sim"} <= set(config.presets())


BOARDS = [name for name in config.presets() if load(name).board.part]


def test_boards():
    assert BOARDS == ["u280", "u55c", "ulx3s", "vck5000"]
    board = load("u280").board
    assert board.bandwidth_gbs == 460
    assert board.bandwidth_gbs * board.memory.ceiling == pytest.approx(425, abs=0.1)
    assert board.memory.bytes == 8 * 2**30
    assert board.resources.block_ram_kbit == 2016 * 36
    assert board.resources.ultra_ram_kbit == 960 * 288
    assert board.resources.dsps - board.resources.shell_dsps == 8304
    assert load("u55c").board.memory.bytes == 16 * 2**30
    board = load("vck5000").board
    assert board.bandwidth_gbs == pytest.approx(76.8)
    assert board.memory.bytes == 12 * 2**30
    assert load("ulx3s").board.resources.block_ram_kbit == 208 * 18
    assert load("sim").board.bandwidth_gbs == pytest.approx(16 * 64 * 0.3)


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_has_what_its_chip_asks_for(name):
    hardware = load(name)
    have = hardware.board.resources
    buffers = hardware.array.columns * hardware.memory.buffer_words * hardware.memory.port_bits
    assert buffers / 1024 <= (have.ultra_ram_kbit or have.block_ram_kbit) / 2
    array = hardware.array
    assert array.macs // (2 if array.packed else 1) <= have.dsps - have.shell_dsps


@pytest.mark.parametrize("name", ["u280", "u55c"])
def test_a_large_board_has_an_array_to_match(name):
    hardware = load(name)
    assert hardware.array.macs >= 8000
    assert hardware.array.columns == hardware.board.memory.channels == 32
    assert hardware.array.groups == hardware.board.resources.slrs


@pytest.mark.parametrize("name", BOARDS)
def test_boards_are_documented(name):
    text = (ROOT / "docs" / "boards.md").read_text(encoding="utf-8")
    board = load(name).board
    for figure in (f"`{name}`", board.name.split(" 85F")[0], board.part, board.platform):
        assert figure in text
    if name != "vck5000":  # about as many
        assert f"{board.resources.luts:,}" in text
    assert f"{board.resources.dsps:,} {board.resources.dsp_kind}" in text
    assert f"{board.memory.channel_gbs:g}" in text


def test_an_override_reaches_a_section_that_the_file_leaves_out():
    assert load("mini", ["board.resources.luts=7"]).board.resources.luts == 7


def test_derived():
    hardware = load("sim")
    assert hardware.blocks_per_beat == 1
    assert hardware.width_blocks == 18
    assert hardware.max_group == 3
    assert hardware.head_blocks == 2
    assert hardware.pages_per_slot == 16
    # norm 18, context 18, hidden 48, queries 3 * 3 * 2 blocks
    assert hardware.operand_blocks == 18 + 1 + 18 + 48 + 18
    assert hardware.array_operations == 30 * (6 + 3 * (1 + 2)) + 1


def test_derived_of_wide_beats():
    """Every region of the operand buffer and every head is whole beats."""
    hardware = load("sim", ["array.lanes=128"])
    assert hardware.blocks_per_beat == 4
    assert (hardware.head_blocks, hardware.memory_dim_blocks) == (2, 4)
    # norm 18, context 18, hidden 48, queries 3 * 3 * 4 blocks
    assert hardware.operand_blocks == 20 + 20 + 48 + 36
    assert load("mini", ["array.lanes=64", "maxima.positions=20"]).attention_tokens == 128


def test_chunks():
    """A score buffer shorter than the context: chunks, and instructions for all of them."""
    whole, limited = load("mini"), load("mini", ["score_tokens=128"])
    assert not whole.chunked and whole.chunks(512) == 1 and whole.attention_tokens == 512
    assert limited.chunked and limited.attention_tokens == 128
    assert [limited.chunks(tokens) for tokens in (1, 128, 129, 512)] == [1, 1, 2, 4]
    # Four chunks: seven operations on keys, four on values; one more softmax per chunk but one.
    assert limited.array_operations == 8 * (6 + 4 * (7 + 4)) + 1
    assert limited.softmax_operations == 8 * 4 * (4 + 3)
    assert whole.softmax_operations == 8 * 4
    # A buffer for every position is no buffer of chunks.
    assert not load("mini", ["score_tokens=512"]).chunked
    assert limited.digest() != whole.digest()


def test_a_chip_without_chunks_keeps_its_digest():
    """The key is not in the digest where it says nothing."""
    data = load("mini").to_dict()
    assert data.pop("score_tokens") == 0
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    assert load("mini").digest() == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["score_tokens=96"], "score_tokens = 96 is impossible: allowed is 0 or a power of two"),
        (["score_tokens=32"], "power of two from 64 .whole pages"),
        (
            ["array.lanes=128", "score_tokens=128", "memory.page_tokens=128"],
            "power of two from 256 .*two beats of array.lanes = 128",
        ),
        (
            ["score_tokens=64", "maxima.positions=4097", "memory.pages=100"],
            "score_tokens in chunks of maxima.positions = 65 is impossible: allowed is up to 64",
        ),
        (
            ["score_tokens=64", "maxima.positions=4096", "maxima.layers=40"],
            "maxima.layers in operations of the array = .*because instructions wait",
        ),
    ],
)
def test_impossible_chunks(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load("mini", overrides)


def test_a_word_of_four_bit_codes_is_a_beat_at_least():
    with pytest.raises(ConfigError, match="at most memory.port_bits / 4"):
        load("mini", ["array.lanes=128", "memory.port_bits=256", "memory.page_tokens=128"])
    with pytest.raises(ConfigError, match=r"array.groups = 2 .* a pair of packed ones"):
        load("mini", ["array.multiplier=packed", "array.groups=2"])


def test_derived_of_odd_sizes():
    hardware = changed(maxima={"width": 100, "ffn": 172, "head_size": 8, "positions": 65})
    assert (hardware.width_blocks, hardware.ffn_blocks) == (4, 6)
    assert hardware.head_blocks == 1
    assert hardware.pages_per_slot == 2


@pytest.mark.parametrize("columns", [2, 4, 16])
@pytest.mark.parametrize("port", [256, 512])
@pytest.mark.parametrize("page", [64, 256])
@pytest.mark.parametrize("size", [8, 64, 128, 256])
def test_a_channel_keeps_the_exponents_of_a_page(columns, port, page, size):
    hardware = changed(
        array={"columns": columns},
        memory={"port_bits": port, "page_tokens": page},
        maxima={"head_size": size},
    )
    layout = KvLayout(
        columns=columns, port_bits=port, page_tokens=page, head_size=size, kv_heads=1, layers=1
    )
    words = layout.exponent_bytes // (port // 8)
    assert max(8, words) <= hardware.header_words < max(9, 2 * words)


@pytest.mark.parametrize("name", config.presets())
def test_presets_keep_no_more_exponents_than_scales_need(name):
    assert load(name).header_words == 8


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load("mini").norm_lanes = 8


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("array.columns=0", "power of two from 2 to 256"),
        ("array.columns=1", "RoPE takes a pair of values in successive cycles"),
        ("array.columns=512", "power of two from 2 to 256"),
        ("array.columns=3", "power of two from 2 to 256"),
        ("array.lanes=48", "32, 64 or 128, at most memory.port_bits / 4"),
        ("array.lanes=256", "32, 64 or 128, at most memory.port_bits / 4"),
        ("array.multiplier=booth", "plain or packed"),
        ("array.groups=0", "1 to 2, because"),
        ("array.groups=3", "1 to 2, because"),
        ("array.stages=-1", "0 to 8"),
        ("array.stages=9", "0 to 8"),
        ("array.rows=0", "a power of two, 1 to 16"),
        ("array.rows=3", "a power of two, 1 to 16"),
        ("array.rows=17", "all rows share one quantiser"),
        ("array.drain=3", "a power of two"),
        ("array.drain=4", "divides array.columns = 2"),
        ("array.drain=64", "up to 32 that divides"),
        ("memory.port_bits=128", "256 or 512"),
        ("memory.buffer_words=16", "power of two"),
        ("memory.buffer_words=48", "power of two"),
        ("memory.page_tokens=48", "power of two from 64 (the largest of array.lanes = 32"),
        ("memory.page_tokens=96", "power of two from 64 (the largest of array.lanes = 32"),
        ("memory.page_tokens=32", "memory.port_bits / 8) to 256"),
        ("memory.page_tokens=512", "to 256"),
        ("memory.pages=3", "to 65536"),
        ("memory.slots=0", "1 or more"),
        ("maxima.head_size=7", "even"),
        ("maxima.head_size=258", "up to 256"),
        ("maxima.kv_heads=3", "divisor of maxima.heads = 8"),
        ("maxima.layers=0", "1 or more"),
        ("norm_lanes=12", "8, 16 or 32"),
        ("board.clock_mhz=0", "above 0"),
        ("board.memory.channels=0", "above 0"),
        ("board.memory.channel_gbs=inf", "above 0"),
        ("board.memory.channel_mib=0", "above 0"),
        ("board.memory.ceiling=0", "share of the peak"),
        ("board.memory.ceiling=1.01", "share of the peak"),
        ("board.part=X", "1 or more, because board.part is 'X'"),
        ("board.resources.luts=-1", "0 or more"),
        ("board.resources.ultra_ram_kbit=-1", "0 or more"),
        ("board.resources.shell_dsps=1", "0 to board.resources.dsps = 0"),
        ("board.resources.slrs=0", "1 or more"),
    ],
)
def test_impossible_values_say_what_is_allowed_and_why(override, allowed):
    with pytest.raises(ConfigError, match=re.escape(allowed)) as caught:
        load("mini", [override])
    assert "because" in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "key", "limit"),
    [
        (["maxima.positions=131073", "memory.pages=2049"], "maxima.positions", 131072),
        (["maxima.positions=7", "array.rows=8"], "array.rows", 7),
        (["maxima.layers=256"], "maxima.layers", 255),
        (["maxima.heads=65", "maxima.kv_heads=65"], "maxima.kv_heads", 64),
        (
            ["maxima.heads=64", "maxima.kv_heads=64", "maxima.head_size=256"],
            "maxima.kv_heads * blocks per head",
            511,
        ),
        (["maxima.heads=64", "maxima.kv_heads=1"], "maxima.heads / maxima.kv_heads", 63),
        (
            ["maxima.heads=63", "maxima.kv_heads=1", "maxima.head_size=32", "array.rows=32"],
            "maxima.heads / maxima.kv_heads * array.rows",
            1023,
        ),
        (["maxima.vocab=131071"], "maxima.vocab", 131070),  # 65535 tiles of two columns
        (["array.columns=64", "maxima.vocab=1048576"], "maxima.vocab", 1048575),
        (["maxima.ffn=65536"], "maxima.ffn * 2", 131070),
        (["maxima.ffn=32737"], "maxima.ffn in blocks", 1023),
        (["maxima.width=32737"], "maxima.width in blocks", 1023),
        (
            ["norm_lanes=8", "maxima.width=32736", "maxima.layers=8"],
            "maxima.width in words, times norms",
            65536,
        ),
        (
            ["maxima.vocab=131070", "maxima.width=8193", "maxima.layers=1"],
            "maxima.width in blocks, times an operation's tiles",
            2**24 - 1,
        ),
        (
            ["maxima.ffn=32736", "maxima.width=32736", "maxima.layers=1", "norm_lanes=32"],
            "maxima.ffn and the other maxima in operand blocks",
            2**OPERAND_BITS,
        ),
        (
            [
                "maxima.layers=255",
                "maxima.heads=32",
                "maxima.kv_heads=32",
                "maxima.head_size=34",
            ],
            "maxima.layers in operations of the array",
            2**DONE_BITS - 1,
        ),
    ],
)
def test_maxima_beyond_the_instructions_fields(overrides, key, limit):
    page = ["memory.page_tokens=64", "memory.pages=1000"]
    with pytest.raises(ConfigError) as caught:
        load("mini", [*page, *overrides])
    text = str(caught.value)
    assert f"{key} = " in text
    assert f"is impossible: allowed is up to {limit}, because" in text


@pytest.mark.parametrize(
    "overrides",
    [
        ["maxima.positions=131072", "memory.pages=2048"],
        ["maxima.layers=255", "maxima.kv_heads=4", "maxima.head_size=16"],
        ["maxima.heads=63", "maxima.kv_heads=1"],
        ["maxima.vocab=131070"],
        ["maxima.vocab=131070", "maxima.width=8192", "maxima.layers=1"],
        ["memory.port_bits=256", "memory.page_tokens=32"],
        ["array.columns=64", "array.drain=32"],
    ],
)
def test_values_at_their_limits(overrides):
    load("mini", overrides)


def test_impossible_override_is_named():
    with pytest.raises(ConfigError, match=r"^-P array\.lanes=48: array\.lanes = 48 is impossible"):
        load("mini", ["array.lanes=48"])


def test_overrides():
    hardware = load("mini", ["array.rows=4", "board.clock_mhz = 250", "name=other"])
    assert hardware.array.rows == 4
    assert hardware.board.clock_mhz == 250.0
    assert isinstance(hardware.board.clock_mhz, float)
    assert hardware.name == "other"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("array.colums=4", r"unknown key array\.colums \(did you mean columns\?\); allowed: col"),
        ("arry.columns=4", r"unknown key arry \(did you mean array\?\); allowed: name, array"),
        ("columns=4", r"unknown key columns; allowed: name, array"),
        ("name.x=4", r"unknown key name"),
        ("array.columns.x=4", r"unknown key array\.columns"),
        ("array.columns", "key=value"),
        ("=4", "key=value"),
        ("array.columns=four", r"has to be a whole number, not 'four'"),
        ("array.columns=4.0", r"has to be a whole number, not 4\.0"),
        ("array.columns=true", r"has to be a whole number, not True"),
        ("array=4", r"array has to be a section, not 4"),
        ("board.clock_mhz=fast", r"has to be a number, not 'fast'"),
        ("name=4", r"has to be a text, not 4"),
        ("board.name=4", r"has to be a text, not 4"),
        ("board.memory.channel=4", r"unknown key board\.memory\.channel \(did you mean channels"),
        ("board.memory.channels=2.5", r"has to be a whole number, not 2\.5"),
        ("board.resources.lut=4", r"unknown key board\.resources\.lut \(did you mean luts\?\)"),
    ],
)
def test_wrong_overrides(override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load("mini", [override])
    assert str(caught.value).startswith(f"-P {override}: ")


def mini_text():
    return (PRESETS / "mini.toml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "place", "message"),
    [
        ("columns = 2", "  colums = 2", "6:3", r"unknown key array\.colums"),
        ("columns = 2", 'columns = "2"', "6:1", r"array\.columns has to be a whole number"),
        ("columns = 2", "columns = 3", "6:1", r"array\.columns = 3 is impossible"),
        ("[array]", "[ary]", "5:2", r"unknown key ary"),
        ("columns = 2\n", "", "5:2", r"the key array\.columns is missing"),
        ("norm_lanes = 16\n", "", None, "the key norm_lanes is missing"),
    ],
)
def test_errors_in_a_file_name_the_place(tmp_path, old, new, place, message):
    path = tmp_path / "mine.toml"
    text = mini_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}:{place}: " if place else f"{path}: ")


def test_file_that_is_no_toml(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("name = \n")
    with pytest.raises(ConfigError, match="not a TOML file.*line 1"):
        load(path)


def test_missing_presets():
    with pytest.raises(ConfigError, match="'u281' is no hardware preset; there are mini, sim"):
        load("u281")
    with pytest.raises(ConfigError, match="nowhere/x.toml: there is no such hardware file"):
        load("nowhere/x.toml")


SHAPE = SimpleNamespace(
    width=64,
    ffn=172,
    heads=8,
    kv_heads=4,
    head_size=8,
    vocab=512,
    positions=4096,
    layers=5,
    qk_norm=False,
)


def test_maxima_from_a_model():
    hardware = load("mini", maxima_from=SHAPE)
    assert hardware.maxima.ffn == 172
    assert hardware.maxima.positions == 512  # the preset's, which is shorter
    assert load("mini", ["maxima.ffn=192"], SHAPE).maxima.ffn == 192
    with pytest.raises(
        ConfigError, match=r"array\.rows = 16 is impossible: allowed is a power of two, 1 to 8"
    ):
        load("mini", ["array.rows=16"], SHAPE)


def test_check_model():
    load("mini").check_model(SHAPE)
    with pytest.raises(ConfigError, match="big does not fit hardware 'mini': its ffn is 1000"):
        load("mini").check_model(SimpleNamespace(**{**vars(SHAPE), "ffn": 1000}), "big")
    with pytest.raises(ConfigError, match="8 query heads per KV head"):
        load("mini").check_model(SimpleNamespace(**{**vars(SHAPE), "kv_heads": 1}))
    wide = load("mini", ["array.columns=16", "array.drain=8", "maxima.head_size=64"])
    for size in (8, 16, 48, 64):
        wide.check_model(SimpleNamespace(**{**vars(SHAPE), "head_size": size}))
    with pytest.raises(ConfigError, match="head_size is 12, allowed is a multiple of array.drain"):
        wide.check_model(SimpleNamespace(**{**vars(SHAPE), "head_size": 12}))
    with pytest.raises(ConfigError, match="head_size is 40, .*a tile of V lies in one block"):
        wide.check_model(SimpleNamespace(**{**vars(SHAPE), "head_size": 40}))


def test_losses():
    losses = load("mini", ["array.columns=8"]).losses()
    assert len(losses) == 1
    assert "array.columns = 8" in losses[0]


def test_digest():
    assert load("mini").digest() == load("mini").digest()
    assert load("mini").digest() != load("mini", ["array.rows=1"]).digest()
    assert load("mini", ["board.clock_mhz=100"]).digest() == load("mini").digest()
