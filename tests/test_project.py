"""The project itself: make targets, packages, and what may lie in the tree."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tokenloom.hw.config import load, presets

ROOT = Path(__file__).resolve().parents[1]
TARGETS = "setup run test generate blocks synth sim lint bench estimate verify clean help".split()


@pytest.fixture(scope="module")
def tracked():
    """Files that git has or would add."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "-co", "--exclude-standard"]
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("arguments", [[], ["help"]])
def test_help_lists_every_target(arguments):
    done = subprocess.run(
        ["make", *arguments], cwd=ROOT, capture_output=True, check=True, text=True
    )
    listed = re.findall(r"^  (\w+) ", done.stdout, re.MULTILINE)
    assert sorted(listed) == sorted(TARGETS)


def test_every_target_but_help_and_clean_sets_up_first():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(TARGETS) - {"help", "clean", "verify"}:
        assert re.search(rf"^{target}: \$\(STAMP\)", makefile, re.MULTILINE), target


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("arguments", "named"), [([], None), (["MODEL=smollm2"], "smollm2"), (["MODEL=tiny"], "tiny")]
)
def test_only_a_model_that_was_asked_for_is_named(arguments, named):
    """The default model may be replaced by the shipped one, one that was asked for may not."""
    environment = {key: value for key, value in os.environ.items() if key != "MODEL"}
    # As if .venv were up to date: otherwise make would first print how it sets it up.
    command = ["make", "-n", "--assume-old=.venv/.stamp", "run", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, check=True, text=True, env=environment
    )
    assert "tokenloom run" in done.stdout
    found = re.findall(r"--model (\S+)", done.stdout)
    assert found == ([] if named is None else [f'"{named}"'])


def test_every_package_is_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        "tokenloom." + ".".join(path.parent.relative_to(ROOT).parts)
        for top in project["package-dir"].values()
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert found == set(project["packages"])


def test_presets_load():
    assert {load(name).name for name in presets()} == set(presets())


def test_nothing_large_is_tracked(tracked):
    assert [path.name for path in tracked if path.stat().st_size > 1 << 20] == []
