"""A folder of generated Verilog: one run writes at a time, and no file of others is in it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenloom.compiler.errors import TokenloomError

__all__ = ["locked", "refuse_strangers", "write_folder"]

_MANIFEST = "tokenloom.json"


def write_folder(
    out: Path, texts: Mapping[str, str], result: Mapping[str, Any], extra: Mapping[str, str]
) -> dict[str, Any]:
    """Write one file per module, other files, and a list of all that is there.

    Parameters
    ----------
    out : Path
    texts : mapping
        Module -> Verilog.
    result : mapping
        What the list says besides.
    extra : mapping
        File name -> text.

    Returns
    -------
    dict
        The list: `result` with folder, file count, and each module's size in bytes.

    Raises
    ------
    TokenloomError
        If the folder cannot be written, has Verilog of another origin in it, or another run
        writes to it now.
    """
    from tokenloom.host.jsonfile import write_json, write_text
    from tokenloom.sim.simulator import write_verilog

    modules = {name: len(text.encode()) for name, text in sorted(texts.items())}
    whole = {
        **result,
        "out": str(out),
        "files": len(modules),
        "bytes": sum(modules.values()),
        "modules": modules,
        "complete": True,
    }
    with locked(out):
        refuse_strangers(out)
        # The list first, with the old names too: an interrupted run's files are known as ours.
        known = {**dict.fromkeys(_listed(out), 0), **modules}
        write_json(out / _MANIFEST, {**whole, "modules": known, "complete": False})
        write_verilog(dict(texts), out)
        for name, text in extra.items():
            write_text(out / name, text)
        write_json(out / _MANIFEST, whole)
    return whole


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep other runs out of the folder: two chips' files in it would make a third one."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        folder = os.open(out, os.O_RDONLY)
    except OSError as error:
        raise TokenloomError(f"{out}: cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TokenloomError(
                f"{out}: another run writes to this folder now; wait for it, or give another folder"
            ) from error
        yield
    finally:
        os.close(folder)


def refuse_strangers(out: Path) -> None:
    """Raise TokenloomError if somebody else's Verilog is in the folder."""
    strangers = _strangers(out)
    if strangers:
        raise TokenloomError(
            f"{out}: has Verilog that tokenloom did not write ({strangers[0]}); give an empty "
            "folder, since a tool that reads the folder would read both"
        )


def _listed(out: Path) -> list[str]:
    """Modules that an earlier run wrote."""
    try:
        data = json.loads((out / _MANIFEST).read_text(encoding="utf-8"))
        return list(data["modules"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _strangers(out: Path) -> list[str]:
    listed = set(_listed(out))
    return sorted(path.name for path in out.glob("*.v") if path.stem not in listed)
