"""`tokenloom run --plot`: a roofline, and where each pass's cycles go, as one PNG."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["breakdown", "draw", "png", "points"]

_COLOURS = {
    "beats": "#2a6f97",
    "other scheduled": "#a9d6e5",
    "stalled: tape": "#d00000",
    "stalled: row": "#f48c06",
    "stalled: kv": "#ffba08",
    "stalled: other": "#9d8189",
}


def points(result: dict[str, Any], *, sample: bool) -> list[tuple[float, float]]:
    """MAC per byte and MAC per clock cycle of each pass that samples, or that does not.

    Parameters
    ----------
    result : dict
        What `tokenloom run --json` writes.
    sample : bool
    """
    return [
        (one["macs"] / one["bytes"], one["macs"] / one["elapsed"])
        for one in result["passes"]
        if one["sample"] is sample
    ]


def breakdown(result: dict[str, Any]) -> dict[str, list[int]]:
    """Clock cycles of each pass by what they were for; a pass's parts sum to ``elapsed``."""
    passes = result["passes"]
    parts = {
        "beats": [one["beats"] for one in passes],
        "other scheduled": [one["scheduled"] - one["beats"] for one in passes],
    }
    for cause in ("tape", "row", "kv", "other"):
        parts[f"stalled: {cause}"] = [one["stalls"][cause] for one in passes]
    return parts


def draw(result: dict[str, Any]) -> Figure:
    """Both pictures of a run.

    Parameters
    ----------
    result : dict
        What `tokenloom run --json` writes, of a device that counts cycles.
    """
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _roofline(left, result)
    _breakdown(right, result)
    part = "" if result["complete"] else " (interrupted)"
    figure.suptitle(
        f"{result['model']} on '{result['board']}', {result['memory']} memory: "
        f"{len(result['prompt_tokens'])} + {len(result['tokens'])} tokens{part}"
    )
    return figure


def png(result: dict[str, Any]) -> bytes:
    """Both pictures of a run as a PNG file's content; the same run gives the same bytes."""
    out = io.BytesIO()
    draw(result).savefig(out, format="png", dpi=100, metadata={"Software": None})
    return out.getvalue()


def _roofline(axes: Axes, result: dict[str, Any]) -> None:
    bounds = result["roof"]
    array, ports, rows = bounds["macs_per_cycle"], bounds["bytes_per_cycle"], bounds["rows"]
    found = [points(result, sample=sample) for sample in (False, True)]
    knee = array / ports  # MAC per byte from which the array is the bound
    places = [knee, *(x for some in found for x, _ in some)]
    low, high = min(places) / 2, max(places) * 2
    axes.plot([low, knee, high], [low * ports, array, array], color="black")
    axes.annotate(f"array: {array:,} MAC/cycle", (high, array), (0, 3), ha="right",
                  textcoords="offset points")  # fmt: skip
    axes.annotate(f"memory ports: {ports:,} byte/cycle", (low, low * ports), (6, 0), va="top",
                  textcoords="offset points")  # fmt: skip
    if rows > 1:
        one = array // rows
        axes.plot([one / ports, high], [one, one], color="black", linestyle=":")
        axes.annotate(f"one of {rows} rows: {one:,}", (high, one), (0, 3), ha="right",
                      textcoords="offset points")  # fmt: skip
    for some, label, marker in zip(found, ("without sampling", "sampling"), "os", strict=True):
        if some:
            x, y = zip(*some, strict=True)
            axes.scatter(x, y, label=f"passes {label}", marker=marker, s=16)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("MAC per byte read (derived)")
    axes.set_ylabel("MAC per clock cycle (MAC derived, cycles simulated)")
    axes.set_title("Roofline")
    axes.legend(loc="lower right", fontsize=8)


def _breakdown(axes: Axes, result: dict[str, Any]) -> None:
    count = len(result["passes"])
    below = [0] * count
    for label, cycles in breakdown(result).items():
        total = sum(cycles)
        axes.bar(range(count), cycles, bottom=below, width=1, color=_COLOURS[label],
                 label=f"{label}: {total:,}")  # fmt: skip
        below = [a + b for a, b in zip(below, cycles, strict=True)]
    first = next((i for i, one in enumerate(result["passes"]) if one["sample"]), None)
    if first is not None:
        axes.axvline(first - 0.5, color="black", linestyle=":", linewidth=0.8)
    axes.set_xlabel("pass; from the dotted line on, each samples a token")
    axes.set_ylabel("clock cycles (simulated)")
    axes.set_title("Where the cycles go")
    axes.set_ylim(0, 1.45 * max(below))
    axes.legend(loc="upper right", fontsize=8, ncols=2)
