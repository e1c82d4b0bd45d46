"""Measures a small instance of every block of the catalog with open tools.

    python scripts/measure_blocks.py [BLOCK ...]

writes host/synth/block_figures.json, which `tokenloom blocks` reads; some seconds to a minute per
block whose Verilog has changed.
"""

import argparse
import sys
import time

from tokenloom.host.synth.block_figures import measure, save_figures
from tokenloom.hw.catalog.catalog import block_spec, block_specs


def main() -> None:
    """Measure and save, block after block."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("blocks", nargs="*")
    for name in parser.parse_args().blocks or block_specs():
        start = time.monotonic()
        found = measure(block_spec(name))
        save_figures(name, found)
        print(f"{name}: {time.monotonic() - start:.1f} s: {found}", file=sys.stderr)


if __name__ == "__main__":
    main()
