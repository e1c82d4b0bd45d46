"""`tokenloom generate`: writes the chip's Verilog."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenloom.compiler.errors import TokenloomError
from tokenloom.host import progress

__all__ = ["generate"]

_MANIFEST = "tokenloom.json"


def generate(*, model: str, board: str, overrides: Sequence[str], out: Path) -> dict[str, Any]:
    """Write one Verilog file per module, and a list of them.

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
        ``hardware``.

    Raises
    ------
    TokenloomError
        If the folder cannot be written, or has Verilog of another origin in it.
    """
    from tokenloom.host.jsonfile import write_json
    from tokenloom.host.prepare import prepare
    from tokenloom.sim.simulator import chip_verilog, write_verilog

    strangers = _strangers(out)
    if strangers:
        raise TokenloomError(
            f"{out}: has Verilog that tokenloom did not write ({strangers[0]}); give an empty "
            "folder, since a tool that reads the folder would read both"
        )
    ready = prepare(model, board, overrides)
    with progress.step("generate Verilog"):
        texts = chip_verilog(ready.hardware)
    modules = {name: len(text.encode()) for name, text in sorted(texts.items())}
    result = {
        "model": ready.name,
        "board": ready.hardware.name,
        "out": str(out),
        "files": len(modules),
        "bytes": sum(modules.values()),
        "modules": modules,
        "hardware": ready.hardware.to_dict(),
    }
    try:
        # The list first, with the old names too: an interrupted run's files are known as ours.
        known = {**dict.fromkeys(_listed(out), 0), **modules}
        write_json(out / _MANIFEST, {**result, "modules": known})
        write_verilog(texts, out)
    except OSError as error:
        raise TokenloomError(f"{out}: cannot be written: {error.strerror}") from error
    write_json(out / _MANIFEST, result)
    return result


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
