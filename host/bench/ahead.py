"""Rows measured beside each other: those of modules that no wall time depends on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tokenloom.host import progress
from tokenloom.host.bench import saved
from tokenloom.host.bench.registry import Row
from tokenloom.hw.verilog.build_folder import build_root

__all__ = ["measure_ahead", "parts"]

_ALONE = {"speed", "generate", "correctness"}
"""Modules whose rows are wall times, and the one that shares its runs with them."""

_TOKENLOOM = "from tokenloom.host.cli import main; main()"

_EACH = {"resources"}
"""Modules whose rows share nothing: each of them is a part."""

_LONGEST = ("fmax_embedding", "numbers", "fmax_attention", "generality", "luts_embedding")


def parts(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows that may be measured beside others, by part, the longest parts first.

    Rows of a module share what they read and simulate, so most modules are a part.
    """
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.file not in _ALONE:
            found.setdefault(row.name if row.file in _EACH else row.file, []).append(row)
    order = [*(part for part in _LONGEST if part in found), *found]
    return {part: found[part] for part in dict.fromkeys(order)}


def measure_ahead(rows: Sequence[Row], jobs: int, *, again: bool) -> None:
    """Measure and save rows, `jobs` parts at a time, each in a process of its own.

    A row that fails is not saved: whoever asks for it next measures it again and says why. What a
    process says is in build/benchmarks/PART.log.
    """
    out = progress.console()
    # A process has a core: threads of linear algebra that wait for each other would take the rest.
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}

    def measure(part: str, names: list[str]) -> None:
        command = [sys.executable, "-c", _TOKENLOOM, "bench"]
        command += [word for name in names for word in ("--only", name)] + ["--again"] * again
        log = build_root() / "benchmarks" / f"{part}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        out.print(f"{part}: {len(names)} rows, told in {log}", markup=False, soft_wrap=True)
        with log.open("wb") as said:
            done = subprocess.run(command, env=env, stdout=said, stderr=subprocess.STDOUT)
        state = "done" if done.returncode == 0 else "done, not all rows are ok"
        out.print(f"{part}: {state}", markup=False)

    with ThreadPoolExecutor(jobs) as pool:
        wanted = {
            part: [row.name for row in some if again or saved.load(row.name, row.file) is None]
            for part, some in parts(rows).items()
        }
        for task in [pool.submit(measure, part, names) for part, names in wanted.items() if names]:
            task.result()
