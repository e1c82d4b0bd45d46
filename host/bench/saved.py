"""Rows already measured: kept in the build folder until the package's sources change."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from tokenloom.host.jsonfile import write_json

__all__ = ["Saved", "load", "save", "source_digest"]

_PACKAGES = ("compiler", "host", "hw", "sim")
_SUFFIXES = {".py", ".cpp", ".h", ".toml"}


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A row's result.

    Attributes
    ----------
    name, unit : str
    value : number or None
        None if nothing was measured.
    target : str or None
    how : str
        Kind of measurement and its details, or why there is no value.
    ok : bool or None
    date : str
        Day of the measurement, as 2026-01-31.
    seconds : float
        What it took.
    """

    name: str
    value: float | int | None
    unit: str
    target: str | None
    how: str
    ok: bool | None
    date: str
    seconds: float

    def entry(self) -> dict[str, object]:
        """What `tokenloom bench --json` writes of it."""
        keys = ("name", "value", "unit", "target", "how", "ok")
        return {key: getattr(self, key) for key in keys}


@cache
def source_digest() -> str:
    """Digest of the package's sources, as they were when first asked for."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in _SUFFIXES:
                name, data = path.relative_to(root).as_posix().encode(), path.read_bytes()
                digest.update(b"%d %d " % (len(name), len(data)) + name + data)
    return digest.hexdigest()[:16]


def _path(name: str) -> Path:
    from tokenloom.sim.toolchain import build_root

    return build_root() / "benchmarks" / source_digest() / f"{name}.json"


def load(name: str) -> Saved | None:
    """A row measured with the same sources; None if there is none, or its file is damaged."""
    try:
        return Saved(**json.loads(_path(name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def save(row: Saved) -> None:
    """Keep a row that has been measured.

    Raises
    ------
    TokenloomError
        If its file cannot be written.
    """
    write_json(_path(row.name), asdict(row))
