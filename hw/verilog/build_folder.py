"""Where everything generated goes."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["build_root"]


def build_root() -> Path:
    """Folder for everything generated: $TOKENLOOM_BUILD or ./build."""
    return Path(os.environ.get("TOKENLOOM_BUILD", "build")).resolve()
