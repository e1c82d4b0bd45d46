"""Files that are either whole or not there."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from tokenloom.compiler.errors import TokenloomError

__all__ = ["write_json", "write_text"]


def write_json(path: str | Path, data: Any) -> None:
    """Write data as JSON: to a temporary file beside the target first, then renamed onto it.

    Raises
    ------
    TokenloomError
        If the file cannot be written.
    """
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write a text: to a temporary file beside the target first, then renamed onto it.

    Raises
    ------
    TokenloomError
        If the file cannot be written.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise TokenloomError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
