"""A folder of generated Verilog: one run writes at a time, and no file of others is in it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenloom.compiler.errors import TokenloomError

__all__ = [
    "MANIFEST",
    "listed",
    "locked",
    "refuse_others",
    "refuse_strangers",
    "write_folder",
]

MANIFEST = "tokenloom.json"
"""The list of what a run wrote."""


def write_folder(
    out: Path,
    texts: Mapping[str, str],
    result: Mapping[str, Any],
    extra: Callable[[], Mapping[str, str]] = dict,
) -> dict[str, Any]:
    """Write one file per module, other files, and a list of all that is there.

    Parameters
    ----------
    out : Path
    texts : mapping
        Module -> Verilog.
    result : mapping
        What the list says besides.
    extra : callable
        File name -> text; called when the Verilog is there, which a failure of it must not cost.

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
        known = {**dict.fromkeys(listed(out, "modules"), 0), **modules}
        write_json(out / MANIFEST, {**whole, "modules": known, "complete": False})
        write_verilog(dict(texts), out)
        for name, text in extra().items():
            write_text(out / name, text)
        write_json(out / MANIFEST, whole)
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
    listed_files = [f"{module}.v" for module in listed(out, "modules")]
    refuse_others(out, ("*.v",), listed_files, "Verilog")


def refuse_others(out: Path, patterns: Sequence[str], ours: Iterable[str], what: str) -> None:
    """Raise TokenloomError if a file of these patterns in the folder is none of `ours`."""
    paths = [path for pattern in patterns for path in out.glob(pattern)]
    others = sorted({str(path.relative_to(out)) for path in paths} - set(ours))
    if others:
        raise TokenloomError(
            f"{out}: has {what} that tokenloom did not write ({others[0]}); give an empty "
            "folder, since a tool that reads the folder would read both"
        )


def listed(out: Path, key: str) -> list[str]:
    """What an earlier run's list names under `key`; nothing if there is no list."""
    try:
        return [str(name) for name in json.loads((out / MANIFEST).read_text("utf-8"))[key]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
