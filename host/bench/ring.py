"""The ring between chips: how busy its links are, and what gets through links that make errors."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tokenloom.host.bench.registry import Figure, group

_row = group("Ring")

_LANES = 8
_TARGET = 95.0
# Four lanes of 25.78125 Gb/s behind 64b/66b carry 400 bits in a cycle of 250 MHz, a frame has 560.
_QSFP28 = (5, 7)
_LATENCY = 25  # cycles of 250 MHz: 100 ns
_LENGTHS = (4096, 8192, 32768)  # accumulators
_WORDS = 100_000
# Of 65,536 frames; a burst hurts 8.5 in the mean, so that each fault hurts about 0.2 %.
_FAULTS = {"flip": 131, "drop": 131, "twice": 131, "swap": 131, "burst": 15}


def _measured(**asked: Any) -> dict[str, Any]:
    """Runs tokenloom.sim.ring_figures on eight nodes."""
    from tokenloom.sim.bench import run_block
    from tokenloom.sim.ring_system import RingSystem

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        block = RingSystem(most=8, addr_bits=13)
        run_block(block, "tokenloom.sim.ring_figures", parameters={**asked, "out": str(out)})
        result: dict[str, Any] = json.loads(out.read_text())
    return result


def _busy(nodes: int) -> Figure:
    cases = [(nodes, n // _LANES, _LATENCY, *_QSFP28) for n in _LENGTHS]
    cases += [(nodes, n // _LANES, latency, 1, 1) for latency in (15, 25) for n in _LENGTHS]
    rows = _measured(busy=cases)["rows"]
    told = [f"{row['busy']:.1f}" for row in rows]
    count = len(_LENGTHS)
    least = min(row["busy"] for row in rows[:count])
    lengths = ", ".join(f"{n:,}" for n in _LENGTHS)
    detail = (
        f"all-reduce of {lengths} accumulators from the command to the last node's done; frames of "
        f"560 bits at the rate of a QSFP28 link (5 in 7 cycles of 250 MHz), wire of {_LATENCY} "
        f"cycles: {', '.join(told[:count])} % of the link's frames carry a word. On a wire that "
        f"takes a frame in every cycle, where the first word's way is the larger part: "
        f"{', '.join(told[count : 2 * count])} % behind 15 cycles, "
        f"{', '.join(told[2 * count :])} % behind 25, there as predicted to the cycle"
    )
    return Figure(value=least, detail=detail, ok=least >= _TARGET)


@_row("ring_busy_2", "% of the link's frames", f">= {_TARGET:.0f} %", how="simulated")
def ring_busy_2() -> Figure:
    """All-reduce between 2 nodes."""
    return _busy(2)


@_row("ring_busy_4", "% of the link's frames", f">= {_TARGET:.0f} %", how="simulated")
def ring_busy_4() -> Figure:
    """All-reduce between 4 nodes."""
    return _busy(4)


@_row("ring_busy_8", "% of the link's frames", f">= {_TARGET:.0f} %", how="simulated")
def ring_busy_8() -> Figure:
    """All-reduce between 8 nodes."""
    return _busy(8)


@_row("ring_errors", "words right", f">= {_WORDS:,}, 0 wrong", how="simulated")
def ring_errors() -> Figure:
    """Words that crossed links on which one frame in a hundred is hurt."""
    asked = {
        "nodes": 4, "words": 512, "latency": _LATENCY, "faults": _FAULTS, "total": _WORDS,
    }  # fmt: skip
    found = _measured(errors=asked)
    faults = ", ".join(f"{count:,} {name}" for name, count in found["faults"].items())
    detail = (
        f"all-reduces of 4,096 accumulators between 4 nodes, each result compared; "
        f"{found['frames']:,} data frames sent ({found['again']:,} of them again) in "
        f"{found['cycles']:,} cycles, 1 % of data and status frames hurt: {faults}; "
        f"{found['wrong']} words wrong, lost or doubled"
    )
    ok = found["right"] >= _WORDS and not found["wrong"]
    return Figure(value=found["right"], detail=detail, ok=ok)
