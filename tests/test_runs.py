"""Whole runs on the simulated chip: two at once, one that was killed, Ctrl-C, traces, pictures."""

import collections
import json
import os
import shutil
import signal
import time

import matplotlib.image
import pytest

from tests.host.command_line import start
from tokenloom.host.plot import breakdown, points
from tokenloom.hw.config import load
from tokenloom.sim.simulator import build

TINY = ["--model", "tiny", "--board", "mini"]
STORY = ["run", *TINY, "--prompt", "Once upon a time", "--ignore-eos"]


@pytest.fixture
def simulator():
    build(load("mini"))


def wait_until(condition, run):
    while not condition():
        assert run.poll() is None, run.communicate()
        time.sleep(0.01)


def test_two_runs_at_once_after_one_that_was_killed(tmp_path):
    """One builds, the other waits; both answer, and nothing of the third one is left."""
    folder, out = tmp_path / "build", tmp_path / "out"
    env = {**os.environ, "TOKENLOOM_BUILD": str(folder)}
    args = [*STORY, "--max-tokens", 5, "--check", "--json", out / "run.json"]
    killed = start(*args, env=env)
    wait_until(lambda: list(folder.glob("simulator/*/verilate.log")), killed)
    killed.kill()
    killed.communicate()
    assert not list(folder.glob("simulator/*/.done")) and not out.exists()
    runs = [start(*args, env=env) for _ in range(2)]
    answers = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], answers
    assert answers[0][0] == answers[1][0] != ""
    said = [err.count("wait for the other run that builds this simulator: ") for _, err in answers]
    assert 1 in said
    built = [err.count("compile the simulator (minutes, once): ") for _, err in answers]
    assert sorted(built) == [0, 1]
    (simulator,) = (folder / "simulator").iterdir()
    assert sorted(path.name.split("-")[0] for path in simulator.iterdir()) == [
        ".done", ".lock", "libchip", "link.log", "make.log", "obj", "rtl", "verilate.log"
    ]  # fmt: skip
    assert [path.name for path in out.iterdir()] == ["run.json"]
    result = json.loads((out / "run.json").read_text())
    assert result["golden_match"] is True and result["complete"] is True
    assert result["text"] + "\n" == answers[0][0]
    shutil.rmtree(folder)  # pytest would keep it for some sessions


def test_ctrl_c_in_the_simulated_chip(simulator, tmp_path):
    """It does not wait for the rest of the request, and what has been played is right."""
    file = tmp_path / "run.json"
    run = start(*STORY, "--max-tokens", 240, "--json", file, "--plot", tmp_path / "run.png")
    first = os.read(run.stdout.fileno(), 99).decode()
    run.send_signal(signal.SIGINT)
    out, err = run.communicate()
    assert run.returncode == 130, err
    assert "Traceback" not in err and err.splitlines()[-1] == "interrupted"
    result = json.loads(file.read_text())
    assert result["complete"] is False
    assert 0 < len(result["tokens"]) < 240
    assert result["text"].startswith((first + out).rstrip("\n"))
    assert matplotlib.image.imread(tmp_path / "run.png").std() > 0
    again = start(*STORY, "--max-tokens", len(result["tokens"]), "--json", file)
    again.communicate()
    assert json.loads(file.read_text())["tokens"] == result["tokens"]


def test_the_picture_of_a_run(simulator, tmp_path):
    file, picture = tmp_path / "run.json", tmp_path / "run.png"
    run = start(*STORY, "--max-tokens", 4, "--json", file, "--plot", picture)
    _, err = run.communicate()
    assert run.returncode == 0, err
    result = json.loads(file.read_text())
    elapsed = [one["elapsed"] for one in result["passes"]]
    assert [sum(one) for one in zip(*breakdown(result).values(), strict=True)] == elapsed
    roof = result["roof"]
    for prefill, rows in ((True, 2), (False, 1)):
        for intensity, rate in points(result, prefill=prefill):
            most = roof["macs_per_cycle"] * rows / roof["rows"]
            assert 0 < rate <= min(most, intensity * roof["bytes_per_cycle"])
    assert matplotlib.image.imread(picture).shape[:2] > (300, 800)


def test_a_trace_with_both_lanes(simulator, tmp_path):
    """What the trace-event format asks for: named tracks, whole events, none over another."""
    file = tmp_path / "trace.json"
    run = start("schedule", *TINY, "--rows", 2, "--pos", 8, "--measure", "--out", file)
    out, err = run.communicate()
    assert run.returncode == 0, err
    assert "as predicted" in out
    trace = json.loads(file.read_text())
    events = trace["traceEvents"]
    assert trace["displayTimeUnit"] in ("ms", "ns")
    assert {event["ph"] for event in events} == {"M", "X"}
    processes = {e["args"]["name"]: e["pid"] for e in events if e["name"] == "process_name"}
    assert list(processes) == ["predicted", "measured"]
    named = {e["tid"]: e["pid"] for e in events if e["name"] == "thread_name"}
    assert 0 not in named and len(named) == sum(e["name"] == "thread_name" for e in events)
    spans = [event for event in events if event["ph"] == "X"]
    ends = collections.defaultdict(int)
    for event in sorted(spans, key=lambda e: e["ts"]):
        assert all(isinstance(event[key], int) for key in ("pid", "tid", "ts", "dur"))
        assert named[event["tid"]] == event["pid"]
        assert event["dur"] > 0 and event["ts"] >= ends[event["tid"]]
        ends[event["tid"]] = event["ts"] + event["dur"]
    lanes = [
        [(e["cat"], e["name"], e["ts"], e["dur"]) for e in spans if e["pid"] == pid]
        for pid in processes.values()
    ]
    assert lanes[0] == lanes[1] and len(lanes[0]) == trace["otherData"]["operations"]
