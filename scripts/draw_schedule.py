"""Draws one layer of a trace that `tokenloom schedule` wrote: TRACE.json OUT.svg."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

LAYER = "layer 1 "
# Of each process of the trace: height and colour, the later one in front.
LANES = {"predicted": (0.8, "#a9d6e5"), "measured": (0.3, "#2a6f97")}


def main(trace: str, out: str) -> None:
    """Draw a layer: a bar for each operation, measured ones in front of the predicted ones."""
    content = json.loads(Path(trace).read_text(encoding="utf-8"))
    events = content["traceEvents"]
    titles = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    spans = [e for e in events if e["ph"] == "X" and e["name"].startswith(LAYER)]
    units = list(dict.fromkeys(e["cat"] for e in spans))
    figure, axes = plt.subplots(figsize=(11, 3.2))
    for pid, title in titles.items():
        height, colour = LANES[title]
        mine = [e for e in spans if e["pid"] == pid]
        for number, event in enumerate(mine):
            axes.barh(
                units.index(event["cat"]), event["dur"], left=event["ts"], height=height,
                color=colour, edgecolor="white", linewidth=0.5, label="" if number else title,
            )  # fmt: skip
            if title == "predicted":
                _name(axes, event, units.index(event["cat"]))
    axes.set_yticks(range(len(units)), units)
    axes.invert_yaxis()
    axes.set_xlabel("belt cycle")
    axes.legend(loc="lower right", fontsize=7)
    of = content["otherData"]
    axes.set_title(
        f"{of['model']} on {of['board']}: layer 1, {of['rows']} row(s) at position {of['pos']} "
        f"({', '.join(titles.values())})"
    )
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


def _name(axes: Any, event: dict[str, Any], row: int) -> None:
    """Write an operation's name over its bar if there is room."""
    label = event["name"].removeprefix(LAYER)
    if event["dur"] > 4 * len(label):
        middle = event["ts"] + event["dur"] / 2
        axes.text(middle, row - 0.22, label, ha="center", va="center", fontsize=6)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
