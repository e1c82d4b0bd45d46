"""Where everything generated goes, and how a file gets there."""

from __future__ import annotations

import os
import threading
from pathlib import Path

__all__ = ["build_root", "write_whole"]


def build_root() -> Path:
    """Folder for everything generated: $TOKENLOOM_BUILD or ./build."""
    return Path(os.environ.get("TOKENLOOM_BUILD", "build")).resolve()


def write_whole(path: Path, text: str) -> None:
    """Write a file of the build folder that others may read meanwhile: they see all of it or none.

    Raises
    ------
    OSError
        When it cannot be written; what was there stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
