"""The generator: its time, and the Verilog that it writes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tokenloom.compiler.errors import TokenloomError
from tokenloom.host import progress
from tokenloom.host.bench.registry import Figure, group
from tokenloom.host.bench.runs import models

_row = group("Generator")


@_row("generate_seconds", "s", "<= 60", how="wall time")
def generate_seconds() -> Figure:
    """The command `tokenloom generate` for `sim`, nothing cached."""
    from tokenloom.compiler.models import resolve

    with models():
        resolve("smollm2")  # fetching it is not generating
    with (
        tempfile.TemporaryDirectory(prefix="tokenloom-") as scratch,
        progress.step("tokenloom generate"),
    ):
        start = time.monotonic()
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from tokenloom.host.cli import main; main()",
                "generate",
                "--board",
                "sim",
                "--model",
                "smollm2",
                "--out",
                f"{scratch}/verilog",
            ],  # fmt: skip
            env={**os.environ, "TOKENLOOM_BUILD": f"{scratch}/build"},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - start
    if done.returncode:
        raise TokenloomError(f"tokenloom generate failed: {done.stderr.strip()[-300:]}")
    detail = "`tokenloom generate --board sim --model smollm2` into an empty build folder"
    return Figure(value=seconds, detail=detail, ok=seconds <= 60)


@_row("verilog_growth", "% more Verilog text", "< 10 %", how="Verilog text")
def verilog_growth() -> Figure:
    """How much the text grows when the columns double."""
    from tokenloom.hw import config
    from tokenloom.sim.simulator import chip_verilog

    base = config.load("sim")
    columns = base.array.columns
    wide = config.load("sim", [f"array.columns={2 * columns}"])
    sizes = []
    for hardware in (base, wide):
        with progress.step(f"generate Verilog with {hardware.array.columns} columns"):
            sizes.append(sum(len(text.encode()) for text in chip_verilog(hardware).values()))
    growth = 100 * (sizes[1] / sizes[0] - 1)
    detail = f"'sim' with {columns} and {2 * columns} columns: {sizes[0]:,} and {sizes[1]:,} bytes"
    return Figure(value=growth, detail=detail, ok=growth < 10)


@_row("lint_wall", "messages", "0", how="Verilog text")
def lint_wall() -> Figure:
    """Messages of Verilator's -Wall about the text of `sim`."""
    from tokenloom.hw import config
    from tokenloom.sim.simulator import chip_verilog, write_verilog
    from tokenloom.sim.toolchain import WAIVED, environment

    with progress.step("generate Verilog"):
        texts = chip_verilog(config.load("sim"))
    with (
        tempfile.TemporaryDirectory(prefix="tokenloom-") as scratch,
        progress.step("verilator --lint-only -Wall"),
    ):
        write_verilog(texts, Path(scratch))
        done = subprocess.run(
            [
                "verilator",
                "--lint-only",
                "-Wall",
                *(f"-Wno-{name}" for name in WAIVED),
                "-Wno-fatal",
                "--top-module",
                "chip",
                *map(str, sorted(Path(scratch).glob("*.v"))),
            ],  # fmt: skip
            env=os.environ | environment(),
            capture_output=True,
            text=True,
            check=False,
        )
    messages = [
        line for line in done.stderr.splitlines() if line.startswith(("%Warning-", "%Error"))
    ]
    detail = (
        f"verilator --lint-only -Wall on {len(texts)} modules of 'sim' without the generator-made "
        f"classes {', '.join(WAIVED)}" + (f"; first: {messages[0]}" if messages else "")
    )
    return Figure(value=len(messages), detail=detail, ok=not messages and not done.returncode)
