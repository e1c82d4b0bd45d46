"""`tokenloom generate`: writes the card's Verilog and its registers for C."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenloom.host import progress

__all__ = ["generate"]

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
    from tokenloom.host.origin import origin
    from tokenloom.host.prepare import prepare
    from tokenloom.host.verilog_folder import refuse_strangers, write_folder
    from tokenloom.hw.card.register_texts import c_header
    from tokenloom.sim.simulator import card_verilog

    refuse_strangers(out)
    ready = prepare(model, board, overrides)
    with progress.step("generate Verilog"):
        texts = card_verilog(ready.hardware, origin())
    result = {
        "model": ready.name,
        "board": ready.hardware.name,
        "hardware": ready.hardware.to_dict(),
    }
    return write_folder(out, texts, result, lambda: {_HEADER: c_header()})
