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
_SUFFIXES = {".py", ".cpp", ".hpp", ".toml"}
_BENCH = "host/bench"
_SHARED = {"registry.py", "runs.py"}  # of the bench, what every row uses


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
def source_digest(file: str = "") -> str:
    """Digest of the package's sources, as they were when first asked for.

    Of the bench itself only what all rows use counts, and `file`, the module with the row.
    """
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    counting = _SHARED | {f"{file}.py"}
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*")):
            other = path.parent == root / _BENCH and path.name not in counting
            if path.suffix in _SUFFIXES and not other:
                name, data = path.relative_to(root).as_posix().encode(), path.read_bytes()
                digest.update(b"%d %d " % (len(name), len(data)) + name + data)
    return digest.hexdigest()[:16]


def _path(name: str, file: str) -> Path:
    from tokenloom.hw.verilog.build_folder import build_root

    return build_root() / "benchmarks" / source_digest(file) / f"{name}.json"


def load(name: str, file: str = "") -> Saved | None:
    """A row measured with the same sources; None if there is none, or its file is damaged.

    Parameters
    ----------
    name : str
    file : str
        The module with the row.
    """
    try:
        return Saved(**json.loads(_path(name, file).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def save(row: Saved, file: str = "") -> None:
    """Keep a row that has been measured.

    Parameters
    ----------
    row : Saved
    file : str
        The module with the row.

    Raises
    ------
    TokenloomError
        If its file cannot be written.
    """
    write_json(_path(row.name, file), asdict(row))
