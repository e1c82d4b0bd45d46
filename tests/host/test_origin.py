"""Version and commit that a card says of itself."""

import shutil
import subprocess

import pytest

from tokenloom.host.origin import origin
from tokenloom.hw.card.identity import Identity


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_origin_of_a_checkout(tmp_path):
    def git(*arguments):
        names = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(
            ["git", *names, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    assert origin(tmp_path).git is None
    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "one")
    found = origin(tmp_path)
    assert found.git == git("rev-parse", "HEAD") and not found.modified
    (tmp_path / "file").write_text("2")
    assert origin(tmp_path).modified


@pytest.mark.parametrize(
    "bad", [{"version": "1.2"}, {"version": "1.256.0"}, {"git": "12ab"}, {"git": "X" * 40}]
)
def test_impossible_identities(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Identity(**bad)
