"""`run --plot`: the pictures show the passes' record, as a PNG."""

import dataclasses
import io
import json

import matplotlib.image
import pytest

from tests.host.command_line import call, failed, write_model
from tokenloom.host.golden_device import GoldenDevice
from tokenloom.host.plot import breakdown, draw, png, points

STALLS = {"tape": 5, "row": 7, "kv": 11, "other": 13}


@pytest.fixture
def timed(monkeypatch):
    """The golden device with cycles of its own making, under the simulated chip's name."""
    honest = GoldenDevice.generate

    def generate(self, prompt, new, eos=(), **options):
        for record in honest(self, prompt, new, eos, **options):
            stalls = {cause: cycles * (1 + record.pos) for cause, cycles in STALLS.items()}
            yield dataclasses.replace(
                record,
                beats=1000 + record.pos,
                scheduled=1500 + 2 * record.pos,
                stalls=stalls,
                elapsed=1500 + 2 * record.pos + sum(stalls.values()),
            )

    monkeypatch.setattr(GoldenDevice, "generate", generate)
    monkeypatch.setattr(GoldenDevice, "timed", True)
    monkeypatch.setattr(
        "tokenloom.host.device.open_device",
        lambda name, model, hardware, *rest, **more: GoldenDevice(model, hardware),
    )


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "tiny", template=None)


@pytest.fixture
def files(monkeypatch, tmp_path, model, timed):
    out, picture = tmp_path / "run.json", tmp_path / "run.png"
    args = ["--prompt", "abcde", "--max-tokens", 4, "--ignore-eos", "--json", out]
    common = ["run", "--model", model, "--board", "mini"]
    assert call(monkeypatch, *common, *args, "--plot", picture) == 0
    return json.loads(out.read_text()), picture.read_bytes()


def test_the_pictures_show_the_record(files):
    result, content = files
    passes = result["passes"]
    assert [one["rows"] for one in passes] == [2, 2, 1, 1, 1, 1]
    parts = breakdown(result)
    assert [sum(cycles) for cycles in zip(*parts.values(), strict=True)] == [
        one["elapsed"] for one in passes
    ]
    roofline, stalls = draw(result).axes
    drawn = {bars.get_label(): [bar.get_height() for bar in bars] for bars in stalls.containers}
    assert drawn == {f"{name}: {sum(cycles):,}": cycles for name, cycles in parts.items()}
    assert drawn["stalled: kv: 330"] == [11 * (1 + one["pos"]) for one in passes]
    assert drawn["beats: 6,024"] == [one["beats"] for one in passes]
    found = [scatter.get_offsets().tolist() for scatter in roofline.collections]
    assert found == [[list(p) for p in points(result, prefill=x)] for x in (True, False)]
    assert [len(some) for some in found] == [3, 3]
    for one, (x, y) in zip(passes, sum(found, []), strict=True):
        assert (x, y) == (one["macs"] / one["bytes"], one["macs"] / one["elapsed"])
    labels = roofline.get_xlabel() + roofline.get_ylabel() + stalls.get_ylabel()
    assert "derived" in labels and "simulated" in labels
    image = matplotlib.image.imread(io.BytesIO(content), format="png")
    assert image.shape[0] > 300 and image.shape[1] > 800
    assert len({tuple(pixel) for pixel in image.reshape(-1, image.shape[2])[::97].tolist()}) > 5
    assert content == png(result)


def test_a_pass_costs_the_macs_of_its_weights(files):
    """The random model's matrices, counted by hand; a row sees itself and all before it."""
    result, _ = files
    layer = 64 * (2 * 64 + 2 * 32 + 3 * 96)
    head = 64 * 260
    for one in result["passes"]:
        seen = sum(range(one["pos"] + 1, one["pos"] + one["rows"] + 1))
        attention = 2 * 4 * 16 * seen
        assert one["macs"] == one["rows"] * (layer + head * one["sample"]) + attention
        # Codes and scales of the weights are the least; padding of tiles and words comes on top.
        least = (layer + head * one["sample"]) * 34 / 32
        assert least < one["bytes"] < 2 * least


def test_the_roof_is_above_every_point(files):
    result, _ = files
    roof = result["roof"]
    # mini: 2 rows, 2 columns, a block of 32 weights per beat; ports of 512 bits.
    assert roof == {"rows": 2, "macs_per_cycle": 128, "bytes_per_cycle": 128}
    for x, y in points(result, prefill=True) + points(result, prefill=False):
        assert 0 < y <= min(roof["macs_per_cycle"], x * roof["bytes_per_cycle"])


def test_an_untimed_device_has_no_picture(monkeypatch, capsys, tmp_path, model):
    args = ["run", "--model", model, "--board", "mini", "--device", "golden", "--prompt", "a"]
    line = failed(monkeypatch, capsys, *args, "--plot", tmp_path / "run.png")
    assert line == "error: --plot draws clock cycles; allowed is only --device verilator"
    assert not (tmp_path / "run.png").exists()
