"""Prompts that do not fit, Ctrl-C, full disks and other runs: a clear answer, nothing corrupt."""

import fcntl
import json
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.host.command_line import (
    CONTEXT,
    VOCAB,
    call,
    failed,
    listen_to_ctrl_c,
    run_golden,
    start,
    write_model,
)
from tokenloom.compiler.errors import TokenloomError
from tokenloom.host.commands import run as run_module
from tokenloom.host.golden_device import GoldenDevice
from tokenloom.host.jsonfile import check_writable, write_text
from tokenloom.sim import simulator


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


def base(model):
    return ["run", "--model", model, "--board", "mini", "--device", "golden"]


# Prompts


@pytest.mark.parametrize(
    ("size", "new"), [(CONTEXT - 1, 1), (CONTEXT - 1, 2), (CONTEXT, 1)], ids=str
)
def test_prompts_that_fill_the_context(monkeypatch, tmp_path, model, size, new):
    file = tmp_path / "run.json"
    args = ["--prompt", "a" * size, "--raw", "--max-tokens", new, "--ignore-eos", "--check"]
    assert run_golden(monkeypatch, model, *args, "--json", file) == 0
    result = json.loads(file.read_text())
    assert (len(result["prompt_tokens"]), len(result["tokens"])) == (size, new)
    last = result["passes"][-1]
    assert last["pos"] + last["rows"] == size + new - 1 <= CONTEXT
    assert result["golden_match"] is True and result["complete"] is True


@pytest.mark.parametrize(
    ("size", "new", "text"),
    [
        (CONTEXT - 1, 3, "--max-tokens 3: the prompt has 63 tokens and the context of tiny on "
         "hardware 'mini' 64; allowed is up to 2"),
        (CONTEXT, 2, "--max-tokens 2: the prompt has 64 tokens and the context of tiny on "
         "hardware 'mini' 64; allowed is up to 1"),
        (CONTEXT + 1, 1, "--prompt has 65 tokens, chat template included, and the context of "
         "tiny on hardware 'mini' 64; allowed is a prompt of up to 64"),
    ],
    ids=str,
)  # fmt: skip
def test_prompts_beyond_the_context(monkeypatch, capsys, tmp_path, model, size, new, text):
    file = tmp_path / "run.json"
    args = ["--prompt", "a" * size, "--raw", "--max-tokens", new, "--json", file]
    assert failed(monkeypatch, capsys, *base(model), *args) == f"error: {text}"
    assert not file.exists()


def test_empty_prompt(monkeypatch, capsys, tmp_path, model):
    """With a chat template it is a turn that says nothing, and otherwise nothing at all."""
    file = tmp_path / "run.json"
    assert run_golden(monkeypatch, model, "--prompt", "", "--max-tokens", 1, "--json", file) == 0
    assert len(json.loads(file.read_text())["prompt_tokens"]) == len("<user><answer>")
    plain = write_model(tmp_path / "plain", template=None)
    for args in ([model, "--raw"], [plain]):
        line = failed(monkeypatch, capsys, *base(args[0]), "--prompt", "", *args[1:])
        assert line == "error: --prompt has no tokens; allowed is a text of at least one"


def test_tokens_that_the_model_does_not_have(monkeypatch, capsys, tmp_path):
    model = write_model(tmp_path / "more", beyond=["<z>"])
    text = f"error: token {VOCAB} is none of the model's; allowed: 0 to {VOCAB - 1}"
    assert failed(monkeypatch, capsys, *base(model), "--prompt", "a<z>", "--raw") == text
    (tmp_path / "text").write_text("abc<z>")
    args = ["eval", "--model", model, "--board", "mini", "--window", 16]
    assert failed(monkeypatch, capsys, *args, "--text", tmp_path / "text") == text
    assert run_golden(monkeypatch, model, "--prompt", "a", "--raw", "--max-tokens", 1) == 0


def test_characters_without_a_token(monkeypatch, capsys, tmp_path):
    model = write_model(tmp_path / "less", without="qz", template=None)
    file = tmp_path / "run.json"
    args = ["--prompt", "azbqz", "--max-tokens", 1, "--json", file]
    assert run_golden(monkeypatch, model, *args) == 0
    assert "has no token for 'z', 'q': the model does not see" in capsys.readouterr().err
    assert len(json.loads(file.read_text())["prompt_tokens"]) == 2
    assert run_golden(monkeypatch, model, "--prompt", "ab", "--max-tokens", 1) == 0
    assert "no token" not in capsys.readouterr().err
    assert "--prompt has no tokens" in failed(monkeypatch, capsys, *base(model), "--prompt", "zq")


def test_a_prompt_that_is_no_text(monkeypatch, capsys, model):
    """As Python reads a byte of the command line that is not UTF-8."""
    prompt = os.fsdecode(b"ab\xff")
    line = failed(monkeypatch, capsys, *base(model), "--prompt", prompt)
    assert "--prompt" in line and "not UTF-8" in line


def test_an_answer_that_the_terminal_cannot_show(tmp_path, model):
    file = tmp_path / "run.json"
    args = ["--prompt", "abc", "--max-tokens", 20, "--ignore-eos", "--json", file]
    run = start(*base(model), *args, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    out, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    text = json.loads(file.read_text())["text"] + "\n"
    assert not text.isascii()
    assert out == text.encode("ascii", "backslashreplace").decode()


# Ctrl-C


@pytest.fixture
def interrupted(monkeypatch):
    """Ctrl-C in the golden device after so many passes."""
    honest = GoldenDevice.generate

    def after(passes):
        def generate(self, prompt, new, eos=(), **options):
            for number, record in enumerate(honest(self, prompt, new, eos, **options)):
                if number == passes:
                    raise KeyboardInterrupt
                yield record

        monkeypatch.setattr(GoldenDevice, "generate", generate)

    return after


STORY = ["--raw", "--prompt", "abcd", "--ignore-eos", "--check"]


@pytest.mark.parametrize(("passes", "tokens"), [(0, 0), (1, 0), (2, 1), (4, 3)], ids=str)
def test_ctrl_c_leaves_what_there_is(
    monkeypatch, capsys, tmp_path, model, interrupted, passes, tokens
):
    file = tmp_path / "run.json"
    args = [*STORY, "--max-tokens", 6, "--json", file]
    assert run_golden(monkeypatch, model, *args) == 0
    whole = json.loads(file.read_text())
    capsys.readouterr()
    interrupted(passes)
    assert run_golden(monkeypatch, model, *args) == 130
    out, err = capsys.readouterr()
    assert err.splitlines()[-1] == "interrupted"
    result = json.loads(file.read_text())
    assert whole["complete"] is True and result["complete"] is False
    assert result["golden_match"] is None
    assert len(result["passes"]) == passes
    assert result["tokens"] == whole["tokens"][:tokens]
    assert out == result["text"] + "\n"


def test_ctrl_c_while_comparing(monkeypatch, capsys, tmp_path, model):
    def compare(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("tokenloom.host.session.compare_with_golden", compare)
    file = tmp_path / "run.json"
    assert run_golden(monkeypatch, model, *STORY, "--max-tokens", 6, "--json", file) == 130
    result = json.loads(file.read_text())
    assert (len(result["tokens"]), result["complete"], result["golden_match"]) == (6, False, None)


def test_ctrl_c_before_the_first_pass(monkeypatch, capsys, tmp_path, model):
    def prepare(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("tokenloom.host.prepare.prepare", prepare)
    file = tmp_path / "run.json"
    assert run_golden(monkeypatch, model, *STORY, "--json", file) == 130
    assert capsys.readouterr() == ("", "\ninterrupted\n")
    assert not file.exists()


def test_a_real_ctrl_c(tmp_path):
    file = tmp_path / "run.json"
    args = ["--model", "tiny", "--board", "mini", "--device", "golden", "--prompt", "Once upon a"]
    run = start("run", *args, "--max-tokens", 240, "--ignore-eos", "--check", "--json", file)
    first = os.read(run.stdout.fileno(), 99).decode()  # the answer has begun
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert "Traceback" not in err and err.splitlines()[-1] == "interrupted"
    result = json.loads(file.read_text())
    assert out[-1] == "\n" and result["text"].startswith((first + out)[:-1])
    assert result["complete"] is False and 0 < len(result["tokens"]) <= 240


# Full disks


def small_files():
    """No file of this process or its children gets longer than that, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize(
    "command",
    [
        ["run", "--device", "golden", "--prompt", "abc", "--max-tokens", "9", "--json"],
        ["schedule", "--out"],
    ],
    ids=["run", "schedule"],
)
def test_a_file_that_cannot_be_finished(tmp_path, model, command, old):
    folder = tmp_path / "out"
    folder.mkdir()
    file = folder / "result.json"
    if old is not None:
        file.write_text(old)
    args = [*command, file, "--model", model, "--board", "mini"]
    run = start(*args, preexec_fn=small_files)  # noqa: PLW1509
    _, err = run.communicate(timeout=120)
    assert run.returncode == 2, err
    assert "Traceback" not in err
    assert err.splitlines()[-1] == f"error: {file}: cannot be written: File too large"
    assert [path.name for path in folder.iterdir()] == ([] if old is None else [file.name])
    assert old is None or file.read_text() == old


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_output_on_a_full_disk(model):
    args = [*base(model), "--prompt", "abc", "--max-tokens", "2"]
    run = start(*args, "--json", "/dev/full")
    _, err = run.communicate(timeout=120)
    assert run.returncode == 2
    full = "No space left on device"
    assert err.splitlines()[-1] == f"error: /dev/full: cannot be written: {full}"
    with open("/dev/full", "w") as out:
        run = start(*args, stdout=out)
        _, err = run.communicate(timeout=120)
    assert run.returncode == 2
    assert err.splitlines()[-1] == f"error: {full}"
    assert "Traceback" not in err


def test_a_reader_that_went_away(model):
    run = start(*base(model), "--prompt", "abc", "--max-tokens", "20", "--ignore-eos")
    run.stdout.close()
    err = run.stderr.read()
    run.stderr.close()
    assert run.wait(timeout=120) == 1
    assert "Traceback" not in err and "Exception ignored" not in err


def test_verilog_that_cannot_be_finished(monkeypatch, tmp_path):
    """Each file is the old one or the new one; a later run finishes the work."""
    folder = tmp_path / "rtl"
    old = {"a": "old a", "b": "old b", "gone": "old"}
    simulator.write_verilog(old, folder)
    new = {"a": "new a", "b": "new b"}
    write = type(folder).write_text

    def full(path, text, **options):
        if "b" in path.name:
            write(path, text[:2])
            raise OSError(28, "No space left on device")
        return write(path, text, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(folder), "write_text", full)
        with pytest.raises(TokenloomError, match="rtl: cannot be written: No space left"):
            simulator.write_verilog(new, folder)
    found = {path.name: path.read_text() for path in folder.iterdir()}
    assert found == {"a.v": "new a", "b.v": "old b", "gone.v": "old"}
    simulator.write_verilog(new, folder)
    assert {path.stem: path.read_text() for path in folder.iterdir()} == new


def test_files_are_checked_before_the_work(monkeypatch, capsys, tmp_path, model):
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "new" / "x.json"
    monkeypatch.setattr(run_module, "run", None)  # not reached
    line = failed(monkeypatch, capsys, *base(model), "--prompt", "a", "--json", target)
    assert line == f"error: {target}: cannot be written: {tmp_path / 'file'} is not a folder"
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(TokenloomError, match="no permission to write in"):
        check_writable(tmp_path / "x.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_only_files_are_replaced(tmp_path):
    """A rename onto /dev/stdout or /dev/null would take them away."""
    pipe, link, file = tmp_path / "pipe", tmp_path / "link", tmp_path / "file"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    check_writable(pipe)
    write_text(pipe, "text")
    assert os.read(reader, 99) == b"text"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    file.write_text("old")
    link.symlink_to(file)
    write_text(link, "new")
    assert link.is_symlink() and file.read_text() == "new"


# Other runs, and runs that were killed


def test_generate_into_a_folder_in_use(monkeypatch, capsys, tmp_path, model):
    texts = {"chip": "module chip();\nendmodule\n"}
    monkeypatch.setattr(simulator, "card_verilog", lambda hardware, identity: texts)
    out = tmp_path / "out"
    out.mkdir()
    args = ["generate", "--model", model, "--board", "mini", "--out", out]
    other = os.open(out, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    assert "another run writes to this folder now" in failed(monkeypatch, capsys, *args)
    assert list(out.iterdir()) == []
    os.close(other)
    assert call(monkeypatch, *args) == 0
    manifest = out / "tokenloom.json"
    assert json.loads(manifest.read_text())["complete"] is True

    def stopped(texts, folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(simulator, "write_verilog", stopped)
        assert call(monkeypatch, *args) == 130
    assert json.loads(manifest.read_text())["complete"] is False
    assert call(monkeypatch, *args) == 0
    assert json.loads(manifest.read_text())["complete"] is True


KILLED = """
import sys
from pathlib import Path
from tokenloom.sim.simulator import _locked, _run
folder = Path(sys.argv[1])
with _locked(folder / "lock", print) as lock:
    # As make: the tool that is started starts another one, which writes.
    script = "sleep 1000 & echo $! > child; mv child done; wait"
    _run(["sh", "-c", f"cd {folder}; {script}"], {"PATH": "/usr/bin:/bin"}, folder / "log", lock)
"""


def gone(process):
    """Whether it has ended; its parent may not have asked yet."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(condition):
    for _ in range(600):
        if condition():
            return
        subprocess.run(["sleep", "0.05"], check=True)
    raise AssertionError("waited for 30 seconds")


def free(lock):
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="no /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_the_lock_lives_as_long_as_anyone_writes(tmp_path, number):
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path],
        stderr=subprocess.PIPE,
        preexec_fn=listen_to_ctrl_c,
    )
    wait_until((tmp_path / "done").exists)
    child = int((tmp_path / "done").read_text())
    assert not free(tmp_path / "lock")
    run.send_signal(number)
    run.communicate(timeout=30)
    if number == signal.SIGKILL:
        assert not gone(child) and not free(tmp_path / "lock")
        os.kill(child, signal.SIGKILL)
    wait_until(lambda: gone(child))
    wait_until(lambda: free(tmp_path / "lock"))


def test_a_tool_that_is_missing(tmp_path):
    with simulator._locked(tmp_path / "lock", print) as lock:
        with pytest.raises(TokenloomError, match="'no-such-tool' is not installed"):
            simulator._run(["no-such-tool"], {}, tmp_path / "log", lock)


@pytest.mark.parametrize("code", [0, 3])
def test_a_tool_on_a_full_disk(monkeypatch, tmp_path, code):
    """Verilator ends with 0 there."""
    command = ["sh", "-c", f"echo said; exit {code}"]
    with simulator._locked(tmp_path / "lock", print) as lock:
        if code:
            with pytest.raises(TokenloomError, match=r"^sh failed, see \S+/log:\nsaid$"):
                simulator._run(command, {"PATH": "/usr/bin:/bin"}, tmp_path / "log", lock)
        else:
            simulator._run(command, {"PATH": "/usr/bin:/bin"}, tmp_path / "log", lock)
        monkeypatch.setattr(simulator.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
        with pytest.raises(TokenloomError, match="^sh failed since the disk of .* is full, see"):
            simulator._run(command, {"PATH": "/usr/bin:/bin"}, tmp_path / "log", lock)


class Tools:
    """Verilator, make and g++ as far as files go; the one named fails halfway."""

    def __init__(self, monkeypatch):
        self.fails, self.ran = "", []
        monkeypatch.setattr(simulator, "_run", self.run)
        monkeypatch.setattr(simulator, "chip_verilog", lambda *args: {"chip": "module chip"})
        monkeypatch.setattr(simulator, "_bench_top", lambda *args: "module bench_top")
        monkeypatch.setattr(simulator, "environment", lambda: {"VERILATOR_ROOT": "/nowhere"})
        monkeypatch.setattr(simulator.ctypes, "CDLL", lambda path: path)

    def run(self, command, env, log, lock):
        tool, folder = command[0], log.parent
        self.ran.append(tool)
        assert not free(folder / ".lock")
        out = folder / "obj" / {"verilator": "Vchip.cpp", "make": "Vchip.o"}.get(tool, "")
        if tool == "verilator":
            assert not (folder / "obj").exists(), "objects of another run"
            out.parent.mkdir()
        elif tool == "g++":
            out = type(folder)(command[-1])
        out.write_text("half")
        if tool == self.fails:
            raise self.error
        out.write_text("whole")


@pytest.mark.parametrize("error", [TokenloomError("no space"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("tool", ["verilator", "make", "g++"])
def test_a_build_that_was_ended_does_not_count(monkeypatch, tmp_path, tool, error):
    from tokenloom.hw.config import load

    monkeypatch.setenv("TOKENLOOM_BUILD", str(tmp_path))
    tools = Tools(monkeypatch)
    tools.fails, tools.error = tool, error
    with pytest.raises(type(error)):
        simulator.build(load("mini"))
    (folder,) = (tmp_path / "simulator").iterdir()
    assert list(folder.glob("*.so")) == []
    assert (folder / ".done").exists() == (tool == "g++")
    assert free(folder / ".lock")
    tools.fails, tools.ran = "", []
    library = simulator.build(load("mini"))
    assert tools.ran == (["g++"] if tool == "g++" else ["verilator", "make", "g++"])
    assert [str(path) for path in folder.glob("*.so")] == [library]
    assert {path.read_text() for path in (folder / "obj").iterdir()} == {"whole"}
    tools.ran = []
    assert simulator.build(load("mini")) == library and tools.ran == []


@pytest.mark.parametrize(
    "ended", ["", "rehearse", "no counts", "make 0", "make 1", "g++ 0", "g++ 1"]
)
def test_a_guided_build_is_compiled_twice_or_not_at_all(monkeypatch, tmp_path, ended):
    from tokenloom.hw.config import load

    monkeypatch.setenv("TOKENLOOM_BUILD", str(tmp_path))
    tools, commands, played, loaded = Tools(monkeypatch), [], [], set()

    class Library:
        def __init__(self, path):
            # A process that loads a path again gets the library it has.
            assert path not in loaded or "libchip" in path
            loaded.add(path)
            self.counts = Path(path).parents[1]

        def tl_counted(self):
            played.append("counted")
            if ended != "no counts":
                (self.counts / "chip.gcda").touch()

    def run(command, env, log, lock):
        tools.fails = ""
        if ended == f"{command[0]} {tools.ran.count(command[0])}":
            tools.fails, tools.error = command[0], KeyboardInterrupt()
        if command[0] == "make":
            assert not (log.parent / "obj" / "Vchip.o").exists(), "objects of the first time"
        commands.append(" ".join(command))
        tools.run(command, env, log, lock)

    def rehearse(library):
        played.append("rehearsed")
        if ended == "rehearse":
            raise KeyboardInterrupt

    monkeypatch.setattr(simulator, "_run", run)
    monkeypatch.setattr(simulator.ctypes, "CDLL", Library)
    if ended:
        error = TokenloomError if ended == "no counts" else KeyboardInterrupt
        with pytest.raises(error):
            simulator.build(load("mini"), rehearse=rehearse)
        (folder,) = (tmp_path / "simulator").iterdir()
        assert list(folder.glob("*.so")) == []
        # Only the last link need not be done again with all that is before it.
        assert (folder / ".done").exists() == (ended == "g++ 1")
        assert free(folder / ".lock")
        again, ended = ended, ""
        tools.ran, commands[:], played[:] = [], [], []
        simulator.build(load("mini"), rehearse=rehearse)
        if again == "g++ 1":
            assert tools.ran == ["g++"] and not played
            return
    else:
        simulator.build(load("mini"), rehearse=rehearse)
    assert tools.ran == ["verilator", "make", "g++", "make", "g++"]
    assert played == ["rehearsed", "counted"]
    _, first, counting, second, final = commands
    assert "-fprofile-generate" in first and "-fprofile-use" in second
    assert "-DTL_COUNTING" in counting and "-DTL_COUNTING" not in final
    # A simulator of its own, beside the one that is compiled once; there from now on.
    simulator.build(load("mini"))
    assert len(list((tmp_path / "simulator").iterdir())) == 2
    tools.ran = []
    simulator.build(load("mini"), rehearse=rehearse)
    assert tools.ran == [] and played == ["rehearsed", "counted"]


def test_waiting_is_said(tmp_path):
    said = []
    with open(tmp_path / "lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def step(text):
            said.append(text)
            fcntl.flock(other, fcntl.LOCK_UN)

        with simulator._locked(tmp_path / "lock", step):
            pass
        with simulator._locked(tmp_path / "lock", step):
            pass
    assert said == ["wait for the other run that builds this simulator"]
