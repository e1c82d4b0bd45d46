"""The command line: help, errors on one line, JSON files."""

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from tokenloom.compiler.errors import ModelError, TokenloomError
from tokenloom.host import cli as cli_module
from tokenloom.host import progress
from tokenloom.host.cli import cli
from tokenloom.host.commands.eval import cut
from tokenloom.host.jsonfile import write_json


def call(monkeypatch, *args):
    """Run `main` as the console script does; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["tokenloom", *args])
    with pytest.raises(SystemExit) as caught:
        cli_module.main()
        sys.exit(0)
    return caught.value.code


def test_every_command_has_help_and_the_common_options():
    assert cli.commands
    for name, command in cli.commands.items():
        result = CliRunner().invoke(cli, [name, "--help"])
        assert result.exit_code == 0
        # The benchmark's models and boards are part of its rows; the catalog has neither, a project
        # is for every model.
        few = {
            "bench": ("--json",),
            "blocks": ("--markdown", "--json"),
            "synth": ("--board", "-P", "--json"),
        }
        options = few.get(name, ("--model", "--board", "-P", "--json"))
        for option in options:
            assert option in result.output
        assert command.help


def test_help_needs_no_heavy_import():
    code = (
        "import sys; from tokenloom.host.cli import cli;"
        "sys.exit(bool({'numpy', 'amaranth', 'cocotb'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_user_errors_are_one_line(monkeypatch, capsys):
    @click.command("fail")
    def fail():
        raise ModelError("model.gguf: tensor x\n  is truncated")

    monkeypatch.setitem(cli.commands, "fail", fail)
    assert call(monkeypatch, "fail") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: model.gguf: tensor x is truncated\n"


def test_other_errors_keep_their_traceback(monkeypatch):
    @click.command("crash")
    def crash():
        raise ZeroDivisionError

    monkeypatch.setitem(cli.commands, "crash", crash)
    monkeypatch.setattr(sys, "argv", ["tokenloom", "crash"])
    with pytest.raises(ZeroDivisionError):
        cli_module.main()


@pytest.mark.parametrize(
    "args, text",
    [
        (["evil"], "allowed: bench, blocks, estimate"),
        (["eval"], "'--text'"),
        (["eval", "--text", "x", "--tokens", "1"], "x>=2"),
        (["blocks", "--jsn", "x"], "did you mean --json?"),
        (["blocks", "--frob", "x"], "allowed: --help, --json, --markdown"),
        (["run", "--device", "fpga", "--prompt", "a"], "'golden', 'verilator'"),
        (["run", "--guided", "--device", "golden", "--prompt", "a"], "only --device verilator"),
    ],
)
def test_wrong_usage_is_one_line(monkeypatch, capsys, args, text):
    assert call(monkeypatch, *args) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert text in err


def test_no_command_is_help(monkeypatch, capsys):
    assert call(monkeypatch) == 2
    assert "Usage: " in capsys.readouterr().err


def test_blocks_as_json(monkeypatch, capsys, tmp_path):
    file = tmp_path / "blocks.json"
    assert call(monkeypatch, "blocks", "--json", str(file)) == 0
    found = {one["name"]: one for one in json.loads(file.read_text())}
    assert set(found) == {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert found["array"]["presets"]["classic"]["rows"] == 32
    assert found["sampler"]["parameters"][1]["default"] == 64


def test_eval_names_the_missing_text(monkeypatch, capsys, tmp_path):
    missing = tmp_path / "no.txt"
    assert call(monkeypatch, "eval", "--text", str(missing)) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {missing}: ")
    assert err.count("\n") == 1


LETTERS = SimpleNamespace(encode=lambda text, bos=True: [1] * bos + [ord(c) for c in text])


def test_cut_running_text():
    parts = cut(LETTERS, "abcdefgh", tokens=7, window=4)
    assert ["".join(map(chr, part)) for part in parts] == ["abcd", "efg"]


def test_cut_stories():
    text = "abcd<|endoftext|>efgh"
    assert [len(part) for part in cut(LETTERS, text, tokens=None, window=4)] == [4, 4]
    assert [len(part) for part in cut(LETTERS, text, tokens=None, window=8)] == [5, 5]
    assert [len(part) for part in cut(LETTERS, text, tokens=7, window=8)] == [5, 2]
    assert [len(part) for part in cut(LETTERS, text, tokens=6, window=8)] == [5]


def test_json_is_whole_or_absent(tmp_path):
    path = tmp_path / "new" / "x.json"
    write_json(path, {"tokens": 3})
    assert json.loads(path.read_text()) == {"tokens": 3}
    with pytest.raises(ValueError, match="nan"):
        write_json(path, {"ppl": float("nan")})
    assert json.loads(path.read_text()) == {"tokens": 3}
    assert [entry.name for entry in path.parent.iterdir()] == ["x.json"]


def test_json_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TokenloomError, match="cannot be written"):
        write_json(tmp_path / "file" / "x.json", {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(TokenloomError, match="folder: cannot be written"):
        write_json(tmp_path / "folder", {})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def test_a_long_step_off_a_terminal_says_that_it_is_under_way(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_PATIENCE", 0.0)
    with progress.step("compile [all]"):
        time.sleep(0.3)
    first, last = capsys.readouterr().err.splitlines()
    assert first == "compile [all] ..." and last.startswith("compile [all]: ")


def test_progress_off_a_terminal_is_a_line_per_step(capsys):
    with progress.step("read [model]"):
        pass
    assert list(progress.track([1, 2], "score", 2)) == [1, 2]
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("read [model]: ")
    assert lines[1].startswith("score: ")
