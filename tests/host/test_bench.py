"""The benchmark's machinery, on rows that cost nothing."""

import json
import subprocess
import sys

import pytest

from tokenloom.compiler.errors import TokenloomError
from tokenloom.host import cli as cli_module
from tokenloom.host.bench import ahead, saved
from tokenloom.host.bench.registry import ROWS, Figure, Skip, group
from tokenloom.host.bench.table import command
from tokenloom.host.commands.bench import bench

REAL = dict(ROWS)
"""The rows of docs/benchmarks.md."""


def call(monkeypatch, *args):
    """Run `tokenloom bench` as the console script does; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["tokenloom", "bench", *map(str, args)])
    with pytest.raises(SystemExit) as caught:
        cli_module.main()
        sys.exit(0)
    return caught.value.code


@pytest.fixture(autouse=True)
def build(monkeypatch, tmp_path):
    monkeypatch.setenv("TOKENLOOM_BUILD", str(tmp_path / "build"))


@pytest.fixture
def only_mine():
    """An empty registry."""
    ROWS.clear()
    yield group("Mine")
    ROWS.clear()
    ROWS.update(REAL)


@pytest.fixture
def measured(only_mine):
    """Rows of every outcome; gives the names of those that were measured, in order."""
    names = []

    def add(title, name, outcome, target=None):
        def measure():
            names.append(name)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        group(title)(name, "s", target, how="derived")(measure)

    add("Mine", "good", Figure(value=1.23456, detail="a|b", ok=True), "<= 2")
    add("Mine", "none", Figure(value=7, detail="c"))
    add("Yours", "missed", Figure(value=3, detail="d", ok=False), "<= 2")
    add("Yours", "skipped", Skip("x is published at y"), "1")
    add("Yours", "broken", TokenloomError("it\n hangs"), "1")
    add("Yours", "crash", ZeroDivisionError("by nought"), "1")
    return names


def test_every_outcome(monkeypatch, capsys, tmp_path, measured):
    file, table = tmp_path / "bench.json", tmp_path / "bench.md"
    assert call(monkeypatch, "--json", file, "--markdown", table) == 1
    result = json.loads(file.read_text())
    assert [entry["name"] for entry in result] == measured == list(ROWS)
    result = {entry["name"]: entry for entry in result}
    assert result["good"] == {
        "name": "good", "value": 1.2346, "unit": "s", "target": "<= 2", "how": "derived: a|b",
        "ok": True,
    }  # fmt: skip
    assert (result["none"]["value"], result["none"]["ok"]) == (7, None)
    assert (result["missed"]["value"], result["missed"]["ok"]) == (3, False)
    assert result["skipped"]["how"] == "skipped: x is published at y"
    assert (result["skipped"]["value"], result["skipped"]["ok"]) == (None, None)
    assert result["broken"]["how"] == "failed: it hangs" and result["broken"]["ok"] is False
    assert result["crash"]["how"] == "failed: ZeroDivisionError: by nought"
    assert result["crash"]["ok"] is False
    out, err = capsys.readouterr()
    assert "broken: - (target 1): NOT OK" in out
    assert "6 of 6: crash" in err and "in measure" in err  # the rule, and the traceback
    text = table.read_text()
    assert "| good | 1.2346 s | <= 2 | yes | derived: a\\|b | `tokenloom bench --only good" in text
    assert text.index("## Mine") < text.index("| none |") < text.index("## Yours")
    assert f"Measured on {saved.load('good', 'test_bench').date} with" in text


def test_finished_rows_are_not_measured_again(monkeypatch, capsys, tmp_path, measured):
    first = bench()
    assert measured == list(ROWS)
    assert "same sources" not in capsys.readouterr().err
    measured.clear()
    assert [row.entry() for row in bench()] == [row.entry() for row in first]
    assert measured == ["skipped", "broken", "crash"]
    assert capsys.readouterr().err.count("with the same sources") == 3
    measured.clear()
    bench(["good"], again=True)
    assert measured == ["good"]
    assert call(monkeypatch, "--only", "good", "--again") == 0
    assert measured == ["good", "good"]


def test_an_interrupted_run_is_taken_up(monkeypatch, tmp_path, only_mine):
    measured = []

    def row(name, stop=False):
        def measure():
            measured.append(name)
            if stop and measured.count(name) == 1:
                raise KeyboardInterrupt
            return Figure(value=len(measured), detail="x")

        only_mine(name, "s", how="derived")(measure)

    row("first")
    row("second", stop=True)
    row("third")
    file = tmp_path / "bench.json"
    assert call(monkeypatch, "--json", file) == 130
    assert call(monkeypatch, "--json", file) == 0
    assert measured == ["first", "second", "second", "third"]
    assert [entry["value"] for entry in json.loads(file.read_text())] == [1, 3, 4]


def test_other_sources_measure_again(monkeypatch, measured):
    bench(["good"])
    monkeypatch.setattr(saved, "source_digest", lambda file="": "other")
    bench(["good"])
    assert measured == ["good", "good"]


def test_a_damaged_file_is_measured_again(tmp_path, measured):
    for damage in ("{", "[]", "{}", '{"name": "good"}'):
        bench(["good"])
        (file,) = (tmp_path / "build").rglob("good.json")
        file.write_text(damage)
    measured.clear()
    bench(["good"])
    assert measured == ["good"]


def test_the_digest_is_that_of_every_source(monkeypatch, tmp_path):
    def digest():
        saved.source_digest.cache_clear()
        return saved.source_digest("mine")

    place = tmp_path / "host" / "bench" / "saved.py"
    place.parent.mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(saved, "__file__", str(place))
        seen = [digest()]
        for name in ("hw/a.py", "hw/presets/b.toml", "sim/c.cpp", "sim/e.hpp", "compiler/d.py",
                     "host/x/y.py", "host/bench/runs.py", "host/bench/mine.py"):  # fmt: skip
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("1")
            seen.append(digest())
            path.write_text("2")
            seen.append(digest())
        assert len(set(seen)) == len(seen)
        (tmp_path / "hw" / "a.pyc").write_text("1")
        (tmp_path / "host" / "bench" / "another.py").write_text("1")
        assert digest() == seen[-1]
    assert digest() != seen[-1]


def test_a_table_with_gaps_replaces_nothing(monkeypatch, capsys, tmp_path, measured):
    table = tmp_path / "bench.md"
    table.write_text("whole")
    assert call(monkeypatch, "--markdown", table) == 2
    assert table.read_text() == "whole"
    err = capsys.readouterr().err
    assert f"{table}: left as it is, since the new table lacks skipped, broken, crash" in err
    for name in ("skipped", "broken", "crash"):
        del ROWS[name]
    assert call(monkeypatch, "--markdown", table) == 1  # one target is missed
    assert "| missed | 3 s | <= 2 | **no** |" in table.read_text()


def test_one_row(monkeypatch, capsys, tmp_path, measured):
    file = tmp_path / "bench.json"
    assert call(monkeypatch, "--only", "good", "--json", file) == 0
    assert [entry["name"] for entry in json.loads(file.read_text())] == measured == ["good"]
    assert call(monkeypatch, "--only", "nothing") == 2
    assert "allowed are good, none, missed" in capsys.readouterr().err
    table = tmp_path / "bench.md"
    assert call(monkeypatch, "--only", "good", "--markdown", table) == 2
    assert not table.exists()


def test_list(monkeypatch, capsys, measured):
    bench(["good"])
    capsys.readouterr()
    measured.clear()
    assert call(monkeypatch, "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Mine:" and lines[3] == "Yours:"
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(ROWS)
    assert "s, target <= 2 (derived); measured on " in lines[1]
    assert "measured" not in lines[2]
    assert measured == []


def test_two_rows_of_a_name(measured):
    with pytest.raises(ValueError, match="two rows good"):
        group("Mine")("good", "s", how="derived")(lambda: Figure(value=1, detail=""))


def test_the_real_rows():
    assert {"rtl_golden_stories260k", "rtl_golden_tinystories", "rtl_golden_smollm2"} <= set(REAL)
    assert len([name for name in REAL if name.startswith("prediction_")]) == 3
    assert {"ppl_stories260k", "ppl_smollm2", "smollm2_busy", "stories260k_cycles"} <= set(REAL)
    assert {"generate_seconds", "verilog_growth", "lint_wall"} <= set(REAL)
    titles = list(dict.fromkeys(row.group for row in REAL.values()))
    assert {"Correctness", "Numbers", "Speed", "Hostile memory"} <= set(titles)
    assert titles[-1] == "Generator"
    assert command("lint_wall") == "tokenloom bench --only lint_wall --again"


@pytest.mark.parametrize("name", ["rtl_golden_stories260k", "ppl_stories260k"])
def test_what_is_not_there_is_skipped(monkeypatch, tmp_path, name):
    monkeypatch.setenv("TOKENLOOM_SHARED", str(tmp_path))
    (row,) = bench([name])
    assert row.value is None and row.ok is None
    assert row.how.startswith("skipped: ") and "Hugging Face" in row.how


def test_wall_times_have_the_machine_for_themselves():
    beside = [row for rows in ahead.parts(list(REAL.values())).values() for row in rows]
    assert not [row.name for row in beside if row.how == "wall time"]
    # What shares its runs with them stays with them, so nothing is simulated twice.
    alone = {row.file for row in REAL.values()} - {row.file for row in beside}
    assert alone == {"speed", "correctness", "generate"}
    assert len(beside) > 40
    # Rows that share nothing are parts of their own.
    assert [row.name for row in ahead.parts(list(REAL.values()))["luts_ring"]] == ["luts_ring"]


def test_modules_are_measured_beside_each_other(monkeypatch, measured):
    started = []

    def run(command, *, env, stdout, stderr):
        started.append(command[3:])
        assert env["OPENBLAS_NUM_THREADS"] == "1"
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", run)
    bench(["good"])
    bench(["good", "none", "missed"], jobs=2)
    # One is saved; the others were not measured ahead after all.
    assert started == [["bench", "--only", "none", "--only", "missed"]]
    assert measured == ["good", "none", "missed"]
    bench(["good"], jobs=2, again=True)
    assert started[1:] == [["bench", "--only", "good", "--again"]]
    assert measured == ["good", "none", "missed"]
