"""Estimates with Yosys what every block of the cards' chips takes; `tokenloom synth` reads it.

    python scripts/estimate_resources.py u280 u55c vck5000 --markdown docs/resources.md

takes a minute and more per block whose text has changed (hours for all the first time), and puts
each into host/synth/estimates.json as soon as it is known, so an interrupted run goes on.
"""

import argparse
import sys
from pathlib import Path

from tokenloom.host.jsonfile import write_text
from tokenloom.host.synth.fit import COMFORT, exact_estimate, fit, save
from tokenloom.host.synth.netlist import instances
from tokenloom.host.synth.project import TOP, check_board
from tokenloom.host.synth.resources import estimate_block
from tokenloom.hw.config import HardwareConfig, load
from tokenloom.sim.simulator import SIMULATED, kernel_verilog

_NAMES = {"luts": "LUT", "flip_flops": "FF", "dsps": "DSP48E2", "block_rams": "RAMB36",
          "ultra_rams": "URAM288"}  # fmt: skip

_HEAD = """# Resources

Written by `{command} --markdown docs/resources.md`; do not edit it. All *Yosys estimates*
(`synth_xilinx -family xcup`, each block alone, those below it as black boxes), times instances;
nothing is placed. Depth: LUTs, carries and multipliers on the longest path inside a block.

"""


def table(hardware: HardwareConfig, texts: dict[str, str]) -> str:
    """Markdown: each block, the whole against the card, and each die."""
    found = fit(texts, TOP, hardware)
    head = " | ".join(_NAMES.values())
    array, dies = hardware.array, "".join(f" | in SLR{die}" for die in found.die_blocks)
    lines = [
        f"## `{hardware.name}`",
        "",
        f"{array.columns} columns x {array.lanes} lanes x {array.rows} rows: {array.macs:,} "
        f"products of int8 per cycle, one memory channel per column.",
        "",
        f"| block | instances{dies} | {head} | logic depth |",
        "|---|---|" + "---|" * (len(found.die_blocks) + len(_NAMES) + 1),
    ]
    for name, (count, one) in found.blocks.items():
        figures = " | ".join(f"{getattr(one.resources, key):,.10g}" for key in _NAMES)
        old, depth = "*" if name in found.older else "", str(one.depth)
        if name in found.unknown:  # nothing is known but its memories
            old, depth = "?", "-"
            memories = f"{one.resources.block_rams:,.10g} | {one.resources.ultra_rams:,.10g}"
            figures = f"- | - | - | {memories}"
        there = "".join(f" | {inside[name] or ''}" for inside in found.die_blocks.values())
        lines.append(f"| `{name}`{old} | {count}{there} | {figures} | {depth} |")
    for label, resources in (("all", found.used), ("card after its shell", found.left)):
        figures = " | ".join(f"{getattr(resources, key):,.10g}" for key in _NAMES)
        lines.append(f"| {label} |{' |' * len(found.die_blocks)} | {figures} | |")
    lines += ["", f"| part | {head} |", "|---|" + "---|" * len(_NAMES)]
    for label, shares in found.parts().items():
        lines.append(f"| {label} | " + " | ".join(f"{shares.get(k, 0):.0%}" for k in _NAMES) + " |")
    without = ", without the blocks marked ?" if found.unknown else ""
    lines += [
        "",
        f"The fullest is at {found.fullest:.0%}{without}; above {COMFORT:.0%} placing gets hard.",
        "",
    ]
    if found.unknown:
        lines += [
            "? Not estimated, only their memories counted: " + ", ".join(found.unknown) + ".",
            "",
        ]
    if found.older:
        lines += ["\\* estimated from an older text, its memories' sizes derived.", ""]
    return "\n".join(lines)


def main() -> None:
    """Estimate, save, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("boards", nargs="+")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--known", action="store_true", help="Run nothing: save what is known.")
    given = parser.parse_args()
    parts = []
    for board in given.boards:
        hardware = load(board)
        check_board(hardware)
        texts = kernel_verilog(hardware, SIMULATED)
        counts = instances(texts, TOP)
        for name in sorted(texts, key=lambda n: len(texts[n])):
            one = exact_estimate(texts, name)
            if one is None and not given.known:
                one = estimate_block(texts, name)
            if one is not None:
                save(texts, board, {name: one})
                print(f"{board}: {name} x {counts[name]}: {one.to_dict()}", file=sys.stderr)
        parts.append(table(hardware, texts))
    if given.markdown is not None:
        command = f"python scripts/estimate_resources.py {' '.join(given.boards)}"
        command += " --known" * given.known
        write_text(given.markdown, _HEAD.format(command=command) + "\n".join(parts))


if __name__ == "__main__":
    main()
