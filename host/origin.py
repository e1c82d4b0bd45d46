"""Which generator this is: what the cards that it writes say of themselves."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tokenloom.hw.card.identity import Identity

__all__ = ["origin"]

_ROOT = Path(__file__).resolve().parents[1]


def origin(root: Path = _ROOT) -> Identity:
    """Version, and the commit when the sources at `root` are a git checkout."""
    try:
        found = re.match(r"\d+\.\d+\.\d+", version("tokenloom"))
    except PackageNotFoundError:
        found = None
    git = _git(root, "rev-parse", "HEAD") if (root / ".git").exists() else None
    return Identity(
        version=found[0] if found else "0.0.0",
        git=git,
        modified=git is not None and _git(root, "status", "--porcelain", "-uno") != "",
    )


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-c", "safe.directory=*", *arguments]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
