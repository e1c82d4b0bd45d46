"""`tokenloom run --plot`: a roofline, and where each pass's cycles go, as one PNG."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

__all__ = ["breakdown", "draw", "png", "points"]

_COLOURS = {
    "beats": "#2a6f97",
    "other scheduled": "#a9d6e5",
    "stalled: tape": "#d00000",
    "stalled: row": "#f48c06",
    "stalled: kv": "#ffba08",
    "stalled: other": "#9d8189",
}


def points(result: dict[str, Any], *, prefill: bool) -> list[tuple[float, float]]:
    """MAC per byte and MAC per clock cycle of each pass of the prompt, or behind it.

    Parameters
    ----------
    result : dict
        What `tokenloom run --json` writes.
    prefill : bool
        The passes of the prompt, of which the last one samples the first token.
    """
    prompt = len(result["prompt_tokens"])
    return [
        (one["macs"] / one["bytes"], one["macs"] / one["elapsed"])
        for one in result["passes"]
        if (one["pos"] < prompt) is prefill
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
    found = [points(result, prefill=prefill) for prefill in (True, False)]
    knee = array / ports  # MAC per byte from which the array is the bound
    places = [knee / rows, knee, *(x for some in found for x, _ in some)]
    low, high = min(places) / 2, max(places) * 2
    axes.plot([low, knee, high], [low * ports, array, array], color="black")
    above: dict[str, Any] = {"xytext": (0, 3), "textcoords": "offset points", "ha": "right"}
    axes.annotate(f"array: {array:,} MAC/cycle", (high, array), **above)
    axes.annotate(
        f"memory ports: {ports:,} byte/cycle", (low, low * ports), (12, 0),
        textcoords="offset points",
    )  # fmt: skip
    if rows > 1:
        one = array // rows
        axes.plot([one / ports, high], [one, one], color="black", linestyle=":")
        axes.annotate(f"one of its {rows} rows: {one:,} MAC/cycle", (high, one), **above)
    for some, label, marker in zip(found, ("prefill", "decode"), "os", strict=True):
        if some:
            xs, ys = [x for x, _ in some], [y for _, y in some]
            axes.scatter(xs, ys, label=f"{label} passes", marker=marker, s=16)
    for scale, axis in ((axes.set_xscale, axes.xaxis), (axes.set_yscale, axes.yaxis)):
        scale("log", base=2)
        axis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("MAC per byte read (derived)")
    axes.set_ylabel("MAC per clock cycle (MAC derived, cycles simulated)")
    axes.set_title("Roofline")
    axes.legend(loc="lower right", fontsize=8)


def _breakdown(axes: Axes, result: dict[str, Any]) -> None:
    count = len(result["passes"])
    below = [0] * count
    for label, cycles in breakdown(result).items():
        axes.bar(range(count), cycles, bottom=below, width=1, color=_COLOURS[label],
                 label=f"{label}: {sum(cycles):,}")  # fmt: skip
        below = [a + b for a, b in zip(below, cycles, strict=True)]
    prompt = len(points(result, prefill=True))
    axes.axvline(prompt - 0.5, color="black", linestyle=":", linewidth=0.8)
    axes.set_xlabel("pass; decode begins at the dotted line")
    axes.set_ylabel("clock cycles (simulated)")
    axes.set_title("Where the cycles go")
    axes.set_ylim(0, 1.35 * max(below))
    axes.legend(loc="upper right", fontsize=8, ncols=2)
