"""run, generate and schedule: on a tiny random model, without Verilator."""

import dataclasses
import json
import subprocess
from typing import Any

import pytest

from tests.host.command_line import call, failed, run_golden, write_model
from tokenloom.compiler.errors import TokenloomError
from tokenloom.host import verilog_folder
from tokenloom.host.commands.schedule import prompt_length, trace_events
from tokenloom.host.device import open_device
from tokenloom.host.prepare import prepare, prompt_ids
from tokenloom.host.session import compare_with_golden
from tokenloom.hw.card.register_texts import c_header
from tokenloom.sim.chip_device import PassRecord
from tokenloom.sim.golden import Golden


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def ready(model):
    return prepare(str(model), "mini")


@pytest.fixture(scope="module")
def device(ready):
    return open_device("golden", ready.quantise(), ready.hardware)


# run


def test_run_on_the_golden_device(monkeypatch, capsys, tmp_path, model):
    file = tmp_path / "run.json"
    args = ["--prompt", "ab", "--max-tokens", 5, "--ignore-eos", "--check", "--json", file]
    assert run_golden(monkeypatch, model, *args) == 0
    out, err = capsys.readouterr()
    result = json.loads(file.read_text())
    assert out == result["text"] + "\n"
    assert "cycles predicted" in err and "derived" in err
    assert bytes(result["prompt_tokens"]) != b""
    assert len(result["prompt_tokens"]) == len("<user>ab<answer>")
    assert len(result["tokens"]) == 5
    assert result["golden_match"] is True and result["difference"] is None
    passes = result["passes"]
    assert [p["rows"] for p in passes] == [2] * 8 + [1] * 4
    assert [p["pos"] for p in passes] == [0, 2, 4, 6, 8, 10, 12, 14, 16, 17, 18, 19]
    assert [p["sample"] for p in passes] == [False] * 7 + [True] * 5
    assert all(p["predicted"] > 0 and p["elapsed"] == p["scheduled"] == 0 for p in passes)
    assert {p["array_busy"] for p in passes} == {None}
    assert result["summary"]["decode_passes"] == 4
    assert result["summary"]["scheduled"] is None


@pytest.mark.parametrize("weights", ["q8_0", "nf4", "mxfp4"])
def test_run_with_weights_of_a_kind(monkeypatch, tmp_path, model, weights):
    """Dense matrices become what --weights says, and the chip's schedule does not care."""
    file = tmp_path / "run.json"
    args = ["--prompt", "ab", "--raw", "--max-tokens", 3, "--ignore-eos", "--check"]
    assert run_golden(monkeypatch, model, *args, "--weights", weights, "--json", file) == 0
    result = json.loads(file.read_text())
    assert result["golden_match"] is True
    ready = prepare(str(model), "mini", weights=weights)
    assert ready.quantise().layers[0].q.bits == (8 if weights == "q8_0" else 4)


def test_weights_of_no_kind(monkeypatch, capsys, model):
    args = ("run", "--model", model, "--prompt", "a", "--weights", "q5_0")
    assert call(monkeypatch, *args) == 2
    told = capsys.readouterr().err
    assert "'q5_0'" in told and "nf4" in told and "Traceback" not in told


def test_run_raw_without_check(monkeypatch, tmp_path, model):
    file = tmp_path / "run.json"
    args = ["--prompt", "ab", "--raw", "--max-tokens", 1, "--json", file]
    assert run_golden(monkeypatch, model, *args) == 0
    result = json.loads(file.read_text())
    assert len(result["prompt_tokens"]) == 2
    assert result["golden_match"] is None
    assert result["summary"]["decode_passes"] == 0
    assert result["summary"]["board_tokens_per_second"] is None


def test_run_reports_the_first_difference(monkeypatch, capsys, tmp_path, model):
    from tokenloom.host.golden_device import GoldenDevice

    honest = GoldenDevice.generate

    def lying(self, prompt, new, eos=(), **options):
        for record in honest(self, prompt, new, eos, **options):
            if record.pos == 3:
                record.logits[0, 7] += 1
            yield record

    monkeypatch.setattr(GoldenDevice, "generate", lying)
    file = tmp_path / "run.json"
    args = ["--prompt", "abc", "--raw", "--max-tokens", 3, "--ignore-eos", "--check"]
    assert run_golden(monkeypatch, model, *args, "--json", file) == 1
    assert "pass 2, row 0, lane (vocabulary id) 7" in capsys.readouterr().err
    assert json.loads(file.read_text())["golden_match"] is False


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--memory", "hbm3"], "no such memory model; allowed are ideal, hbm2, ddr4, onchip"),
        (["--memory", "ddr4"], "--memory ddr4: the golden device has no memory to simulate"),
        (["--max-tokens", "100"], "--max-tokens 100: the prompt has 16 tokens and the context"),
        (["--temperature", "-0.5"], "temperature -0.5 is impossible; allowed: 0 (the most"),
        (["--seed", "-1"], "seed -1 is impossible; allowed: 0 to 18446744073709551615"),
        (["--prompt", "", "--raw"], "--prompt has no tokens"),
        (["-P", "array.colums=2"], "unknown key array.colums"),
        (["-P", "maxima.width=32"], "its width is 64, maxima.width is 32"),
        (["--board", "nope"], "'nope' is no hardware preset"),
    ],
)
def test_run_errors(monkeypatch, capsys, model, args, text):
    base = ["run", "--model", model, "--board", "mini", "--device", "golden", "--prompt", "ab"]
    assert text in failed(monkeypatch, capsys, *base, *args)


def test_run_with_temperature_and_seed(monkeypatch, tmp_path, model):
    base = ["run", "--model", model, "--board", "mini", "--device", "golden", "--prompt", "ab"]
    file = tmp_path / "run.json"

    def run(*args: Any) -> dict[str, Any]:
        assert call(monkeypatch, *base, "--max-tokens", 12, "--check", "--json", file, *args) == 0
        result = json.loads(file.read_text())
        assert result["golden_match"] is True
        return result

    greedy = run()
    assert (greedy["temperature"], greedy["seed"]) == (0.0, 0)
    assert run("--seed", 5)["tokens"] == greedy["tokens"]
    warm = run("--temperature", 1.5, "--seed", 5)
    assert (warm["temperature"], warm["seed"]) == (1.5, 5)
    assert run("--temperature", 1.5, "--seed", 5)["tokens"] == warm["tokens"]
    other = run("--temperature", 1.5, "--seed", 6, "-P", "array.rows=1")
    assert len({str(one["tokens"]) for one in (greedy, warm, other)}) == 3


def test_run_names_a_missing_model(monkeypatch, capsys, tmp_path):
    line = failed(monkeypatch, capsys, "run", "--model", tmp_path / "no.gguf", "--prompt", "a")
    assert "no.gguf" in line


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """pip as it fails without a network, and nothing fetched before."""

    def run(command, **options):
        return subprocess.CompletedProcess(command, 1, stdout="", stderr="ERROR: no network\n")

    monkeypatch.setenv("TOKENLOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tokenloom.compiler.models.subprocess.run", run)


STORY = ["--board", "mini", "--device", "golden", "--prompt", "Once upon a time"]


@pytest.mark.usefixtures("no_network")
def test_run_without_a_model_falls_back(monkeypatch, capsys, tmp_path):
    file = tmp_path / "run.json"
    args = [*STORY, "--max-tokens", 3, "--check", "--json", file]
    assert call(monkeypatch, "run", *args) == 0
    out, err = capsys.readouterr()
    assert "no network. Taking the model 'tiny' that ships with tokenloom instead" in err
    result = json.loads(file.read_text())
    assert (result["model"], result["golden_match"]) == ("tiny", True)
    assert out == result["text"] + "\n"
    assert call(monkeypatch, "run", "--model", "tiny", *args) == 0
    assert json.loads(file.read_text())["tokens"] == result["tokens"]
    assert "instead" not in capsys.readouterr().err


@pytest.mark.usefixtures("no_network")
def test_run_with_a_model_does_not_fall_back(monkeypatch, capsys):
    line = failed(monkeypatch, capsys, "run", "--model", "smollm2", *STORY)
    assert "pip could not fetch" in line and "no network" in line


@pytest.mark.parametrize("args", [["--device", "fpga"], ["--max-tokens", "0"], []])
def test_run_wrong_usage(monkeypatch, capsys, args):
    prompt = ["--prompt", "a"] if args else []
    failed(monkeypatch, capsys, "run", *prompt, *args)


def test_a_larger_model_gets_its_own_maxima(capsys, tmp_path, ready):
    wide = prepare(str(write_model(tmp_path / "wide", width=160)), "mini")
    err = capsys.readouterr().err
    assert "its width is 160, maxima.width is 128" in err
    assert "with maxima sized for wide" in err
    assert wide.resized and wide.hardware.maxima.width == 160
    assert not ready.resized and ready.hardware.maxima.width == 128


def test_prompt_without_template(tmp_path):
    text = prepare(str(write_model(tmp_path / "plain", template=None)), "mini").text
    assert prompt_ids(text, "ab") == prompt_ids(text, "ab", raw=True) == text.encode("ab")


# Devices


def test_golden_device_equals_the_golden_model(device, ready):
    prompt = prompt_ids(ready.text, "xyz")
    records = list(device.generate(prompt, 6))
    assert [r.token for r in records if r.sample] == Golden(device.model).greedy(prompt, 6)
    assert compare_with_golden(device.model, prompt, records) is None


def test_golden_device_stops_at_an_end_token(device):
    tokens = [r.token for r in device.generate([1, 2, 3], 6) if r.sample]
    stop = tokens[2]
    ended = [r.token for r in device.generate([1, 2, 3], 6, [stop]) if r.sample]
    assert ended == tokens[: tokens.index(stop) + 1]


def test_golden_device_refuses(device):
    with pytest.raises(TokenloomError, match="empty"):
        next(device.generate([], 1))
    with pytest.raises(TokenloomError, match="exceed the context of 64"):
        next(device.generate([1] * 60, 6))
    with pytest.raises(TokenloomError, match="no device 'fpga'"):
        open_device("fpga", device.model, device.hardware)


def test_comparison_finds_rows_lanes_and_tokens(device):
    prompt = [1, 2, 3, 4]

    def altered(number: int, **changes: Any) -> list[PassRecord]:
        records = list(device.generate(prompt, 3))
        records[number] = dataclasses.replace(records[number], **changes)
        return records

    good = list(device.generate(prompt, 3))
    logits = good[1].logits.copy()
    logits[0, 5] += 2  # not the last row
    found = compare_with_golden(device.model, prompt, altered(1, logits=logits))
    assert (found.number, found.row, found.lane) == (1, 0, 5)
    assert found.device - found.golden == 2
    token = good[2].token
    found = compare_with_golden(device.model, prompt, altered(2, token=token ^ 1))
    assert (found.number, found.lane, found.golden) == (2, None, token)
    assert "sampled token" in str(found)


# Schedules


def test_schedule_writes_a_trace(monkeypatch, capsys, tmp_path, model):
    out, file = tmp_path / "trace.json", tmp_path / "schedule.json"
    args = ["--rows", 2, "--pos", 6, "--out", out, "--json", file]
    assert call(monkeypatch, "schedule", "--model", model, "--board", "mini", *args) == 0
    result, trace = json.loads(file.read_text()), json.loads(out.read_text())
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert len(spans) == result["operations"] and result["equal"] is None
    assert max(e["ts"] + e["dur"] for e in spans) == result["cycles"]
    assert f"{result['cycles']:,} belt cycles" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--rows", 3], "--rows 3: hardware 'mini' has array.rows = 2"),
        (["--rows", 2, "--pos", 63], "beyond the context of 64 tokens"),
        (["--rows", 2, "--pos", 3, "--measure"], "--pos 3 never happens"),
        (["--rows", 1, "--pos", 2, "--measure", "--no-sample"], "never happens"),
        (["--checksums"], "--checksums needs --measure"),
    ],
)
def test_schedule_errors(monkeypatch, capsys, tmp_path, model, args, text):
    base = ["schedule", "--model", model, "--board", "mini", "--out", tmp_path / "t.json"]
    assert text in failed(monkeypatch, capsys, *base, *args)
    assert not (tmp_path / "t.json").exists()


@pytest.mark.parametrize("wrong", [False, True])
def test_checksums_in_a_trace(monkeypatch, capsys, tmp_path, model, wrong):
    """Of a chip that keeps to the schedule; one output is not the golden model's."""
    from tokenloom.compiler import schedule as schedules
    from tokenloom.host.commands import schedule as module
    from tokenloom.sim.measured import Measured

    seen = []
    predict = schedules.predict
    monkeypatch.setattr(
        schedules, "predict", lambda *args, **more: seen.append(predict(*args, **more)) or seen[0]
    )

    def measured(model, hardware, rows, pos, sample, checksums):
        assert checksums
        operations = {}
        for op in seen[0].operations:
            operations.setdefault(int(op.unit), []).append((op.first, op.last))
        crcs = [(int(op.unit), op.name, i, i) for i, op in enumerate(seen[0].operations)]
        if wrong:
            crcs[3] = (*crcs[3][:3], 0xDEAD)
        return Measured(cycles=seen[0].cycles, beats=seen[0].beats, operations=operations), crcs

    monkeypatch.setattr(module, "_measure", measured)
    out = tmp_path / "trace.json"
    args = ["schedule", "--model", model, "--board", "mini", "--measure", "--checksums"]
    assert call(monkeypatch, *args, "--out", out) == wrong
    printed = capsys.readouterr()
    spans = [e for e in json.loads(out.read_text())["traceEvents"] if e["ph"] == "X"]
    crcs = {pid: {(e["cat"], e["name"]): e["args"]["crc"] for e in spans if e["pid"] == pid}
            for pid in (1, 2)}  # fmt: skip
    different = [key for key in crcs[1] if crcs[1][key] != crcs[2][key]]
    name = (seen[0].operations[3].unit.name.lower(), seen[0].operations[3].name)
    assert different == ([name] if wrong else [])
    if wrong:
        assert "predicted 00000003, measured 0000dead" in printed.err
    else:
        assert "its output is the golden model's" in printed.out


def test_overlapping_operations_get_tracks_of_their_own():
    events = trace_events(1, "p", [(2, "array", "a", 0, 9, None),
                                   (2, "array", "b", 9, 12, 0xAB),
                                   (2, "array", "c", 10, 11, None)])  # fmt: skip
    spans = {e["name"]: e for e in events if e["ph"] == "X"}
    assert spans["a"]["tid"] == spans["c"]["tid"] != spans["b"]["tid"]
    assert spans["b"]["dur"] == 4
    assert spans["b"]["args"]["crc"] == "000000ab" and "crc" not in spans["a"]["args"]
    names = [e["args"]["name"] for e in events if e["name"] == "thread_name"]
    assert names == ["array", "array (2)"]


def test_prompts_that_lead_to_a_pass():
    assert prompt_length(1, 5, True, 2) == 5
    assert prompt_length(1, 0, True, 2) == 1
    assert prompt_length(2, 4, True, 2) == 6
    assert prompt_length(2, 4, False, 2) == 7


# generate


@pytest.fixture
def fake_verilog(monkeypatch):
    import tokenloom.sim.simulator as simulator

    texts = {"chip": "module chip();\nendmodule\n", "row": "module row();\nendmodule\n"}
    monkeypatch.setattr(simulator, "card_verilog", lambda hardware, identity: dict(texts))
    return texts


def test_generate(monkeypatch, capsys, tmp_path, model, fake_verilog):
    out, file = tmp_path / "out", tmp_path / "generate.json"
    args = ["generate", "--model", model, "--board", "mini", "--out", out, "--json", file]
    assert call(monkeypatch, *args) == 0
    assert {path.stem: path.read_text() for path in out.glob("*.v")} == fake_verilog
    assert (out / "tokenloom_registers.h").read_text() == c_header()
    result = json.loads(file.read_text())
    assert result["files"] == 2
    assert result["modules"] == {name: len(text) for name, text in fake_verilog.items()}
    assert result["bytes"] == sum(result["modules"].values())
    assert capsys.readouterr().out == f"2 files, {result['bytes']} bytes in {out}\n"
    # A later run takes its own old files away, and no others.
    fake_verilog.pop("row")
    assert call(monkeypatch, *args) == 0
    assert [path.name for path in out.glob("*.v")] == ["chip.v"]
    (out / "mine.v").write_text("")
    assert "mine.v" in failed(monkeypatch, capsys, *args)
    assert (out / "mine.v").exists()


def test_generate_into_a_file(monkeypatch, capsys, tmp_path, model, fake_verilog):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out"
    args = ["generate", "--model", model, "--board", "mini", "--out", out]
    assert "cannot be written" in failed(monkeypatch, capsys, *args)
    assert verilog_folder.listed(out, "modules") == []


def test_a_page_that_fails_costs_no_verilog(monkeypatch, tmp_path):
    out = tmp_path / "out"
    args = ["generate", "--block", "quantiser", "-P", "tag_bits=3", "--out", out]

    def fails(*_):
        raise RuntimeError("no wave")

    with monkeypatch.context() as patch:
        patch.setattr("tokenloom.hw.catalog.wave.wavedrom_source", fails)
        with pytest.raises(RuntimeError, match="no wave"):
            call(patch, *args)
    assert "module quantiser(" in (out / "quantiser.v").read_text()
    assert not json.loads((out / "tokenloom.json").read_text())["complete"]
    assert call(monkeypatch, *args) == 0
    text = (out / "quantiser.md").read_text()
    assert f"`tokenloom generate --block quantiser -P tag_bits=3 --out {out}`" in text


def test_a_block_refuses_in_one_line(monkeypatch, capsys, tmp_path):
    args = ["generate", "--block", "array", "-P", "columns=3", "--out", tmp_path / "out"]
    assert "allowed: divisors of columns = 3" in failed(monkeypatch, capsys, *args)
    assert not (tmp_path / "out").exists()
