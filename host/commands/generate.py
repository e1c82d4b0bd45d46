"""`tokenloom generate`: writes the card's Verilog and its registers for C."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenloom.compiler.errors import TokenloomError
from tokenloom.host import progress

__all__ = ["generate", "locked"]

_MANIFEST = "tokenloom.json"
_HEADER = "tokenloom_registers.h"


def generate(*, model: str, board: str, overrides: Sequence[str], out: Path) -> dict[str, Any]:
    """Write one Verilog file per module (the top is `card`), a list of them, and a C header.

    Parameters
    ----------
    model : str
        Name or path; a model beyond the preset's maxima sets the maxima.
    board : str
    overrides : sequence of str
    out : Path
        The folder. Files of an earlier run that are no longer needed go away.

    Returns
    -------
    dict
        ``model``, ``board``, ``out``, ``files``, ``bytes``, ``modules`` (name -> bytes), and
        ``hardware``, ``complete``. The list in the folder has ``complete`` false until all
        files are there.

    Raises
    ------
    TokenloomError
        If the folder cannot be written, has Verilog of another origin in it, or another run
        writes to it now.
    """
    from tokenloom.host.jsonfile import write_json, write_text
    from tokenloom.host.origin import origin
    from tokenloom.host.prepare import prepare
    from tokenloom.hw.card.register_texts import c_header
    from tokenloom.sim.simulator import card_verilog, write_verilog

    _refuse_strangers(out)
    ready = prepare(model, board, overrides)
    with progress.step("generate Verilog"):
        texts = card_verilog(ready.hardware, origin())
    modules = {name: len(text.encode()) for name, text in sorted(texts.items())}
    result = {
        "model": ready.name,
        "board": ready.hardware.name,
        "out": str(out),
        "files": len(modules),
        "bytes": sum(modules.values()),
        "modules": modules,
        "hardware": ready.hardware.to_dict(),
        "complete": True,
    }
    with locked(out):
        _refuse_strangers(out)
        # The list first, with the old names too: an interrupted run's files are known as ours.
        known = {**dict.fromkeys(_listed(out), 0), **modules}
        write_json(out / _MANIFEST, {**result, "modules": known, "complete": False})
        write_verilog(texts, out)
        write_text(out / _HEADER, c_header())
        write_json(out / _MANIFEST, result)
    return result


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


def _refuse_strangers(out: Path) -> None:
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
