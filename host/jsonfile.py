"""Files that are either whole or not there."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from tokenloom.compiler.errors import TokenloomError

__all__ = ["check_writable", "write_bytes", "write_json", "write_text"]


def write_json(path: str | Path, data: Any) -> None:
    """Write data as JSON: to a temporary file beside the target first, then renamed onto it.

    Raises
    ------
    TokenloomError
        If the file cannot be written.
    """
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write a text in UTF-8, as `write_bytes` does.

    Raises
    ------
    TokenloomError
        If the file cannot be written.
    """
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write bytes: to a temporary file beside the target first, then renamed onto it.

    A link stays one and its target is written; a device or a pipe gets the bytes as they are.

    Raises
    ------
    TokenloomError
        If the file cannot be written.
    """
    path = Path(path)
    temporary = None
    try:
        target = path.resolve()
        if _special(target):
            target.write_bytes(data)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise TokenloomError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def check_writable(path: str | Path) -> None:
    """Refuse a file whose folder cannot take it, before the work whose result it shall hold.

    Raises
    ------
    TokenloomError
        If the folder, or the nearest one above that exists, is none or does not let us write.
    """
    target = Path(path).resolve()
    if _special(target):
        return
    folder = target.parent
    while not (folder.exists() or folder.is_symlink()):
        folder = folder.parent
    if not folder.is_dir():
        raise TokenloomError(f"{path}: cannot be written: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise TokenloomError(f"{path}: cannot be written: no permission to write in {folder}")


def _special(path: Path) -> bool:
    """Whether a rename would put a file in the place of something that is none, as /dev/stdout."""
    return path.exists() and not path.is_file() and not path.is_dir()
