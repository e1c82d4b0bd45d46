"""Draws the predicted schedule of one layer: MODEL BOARD POSITION OUT.svg."""

from __future__ import annotations

import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from tokenloom.compiler.schedule import predict
from tokenloom.host.prepare import prepare
from tokenloom.hw.isa import Unit


def main(name: str, board: str, position: int, out: str) -> None:
    """Draw layer 1 of a decoding pass at `position`."""
    ready = prepare(name, board)
    hardware, model = ready.hardware, ready.quantise()
    program = ready.program(model)
    schedule = predict(program, hardware, model, rows=1, pos=position, sample=True)
    operations = [op for op in schedule.operations if op.name.startswith("layer 1 ")]
    figure, axes = plt.subplots(figsize=(11, 3.2))
    units = [unit for unit in Unit if any(op.unit == unit for op in operations)]
    for op in operations:
        row = units.index(op.unit)
        axes.barh(row, op.last - op.first, left=op.first, height=0.7, alpha=0.55)
        if op.last - op.first > 60:
            label = op.name.removeprefix("layer 1 ")
            axes.text((op.first + op.last) / 2, row, label, ha="center", va="center", fontsize=6)
    axes.set_yticks(range(len(units)), [unit.name.lower() for unit in units])
    axes.invert_yaxis()
    axes.set_xlabel("belt cycle")
    axes.set_title(f"{name} on {board}: layer 1, one row at position {position} (predicted)")
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
