"""Measures a small instance of every block of the catalog with open tools.

    python scripts/measure_blocks.py [BLOCK ...]

writes host/synth/block_figures.json, which `tokenloom blocks` reads; half a minute to minutes per
block whose Verilog has changed.
"""

import argparse
import os
import sys
import time

from tokenloom.host.synth.block_figures import measure, save_figures
from tokenloom.hw.catalog.catalog import block_spec, block_specs


def main() -> None:
    """Measure and save, block after block."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("blocks", nargs="*")
    for name in parser.parse_args().blocks or block_specs():
        start, before = time.monotonic(), _used()
        found = measure(block_spec(name))
        save_figures(name, found)
        wall, used = time.monotonic() - start, _used() - before
        print(f"{name}: {wall:.1f} s, {used:.1f} s of a processor: {found}", file=sys.stderr)


def _used() -> float:
    """Seconds of a processor that this program and the tools that it started have used."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main()
