"""`tokenloom bench`: measures every figure of docs/benchmarks.md, one row each.

Rows share runs (a run of SmolLM2 gives bits, predictions, busy share and rate), so the whole table
costs little more than its longest rows; each row also works alone.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenloom.compiler.errors import ModelError, TokenloomError
from tokenloom.host import progress

if TYPE_CHECKING:
    from tokenloom.compiler.schedule import Schedule
    from tokenloom.host.session import Difference, Played
    from tokenloom.sim.measured import Measured

__all__ = ["ROWS", "Figure", "Skip", "bench", "markdown", "row"]

Value = float | int | None


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What a row measured.

    Attributes
    ----------
    value : number
    how : str
        How it was measured, in a line.
    ok : bool or None
        Whether it meets the target; None if the row has none.
    """

    value: Value
    how: str
    ok: bool | None = None


class Skip(Exception):
    """The row cannot be measured here; the message says what is missing and where it is."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table."""

    name: str
    unit: str
    target: str | None
    measure: Callable[[], Figure]


ROWS: dict[str, Row] = {}
"""Every row, in the table's order."""


def row(
    name: str, unit: str, target: str | None = None
) -> Callable[[Callable[[], Figure]], Callable[[], Figure]]:
    """Register a function without parameters as a row."""

    def register(measure: Callable[[], Figure]) -> Callable[[], Figure]:
        ROWS[name] = Row(name=name, unit=unit, target=target, measure=measure)
        return measure

    return register


# Runs that rows share.

_STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park"
)
_PROSE = (
    "The river begins in the hills above the town, where the rain of a whole winter gathers in "
    "the peat and leaves it slowly. For the first miles it is narrow enough to step across. Then "
    "two streams join it, one clear and one brown, and for a while the two colours run side by "
    "side in the same bed. Below the mill the valley opens, the current slows down, and the "
    "water spreads between the meadows. In spring people walk along the bank to see how high it "
    "has come, and the oldest of them remember years in which it reached the church door."
)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A run on the verilated chip."""

    name: str
    board: str
    rows: int
    prompt: int
    played: list[Played]
    difference: Difference | None
    measured: list[Measured]
    schedule: Callable[[int, int, bool], Schedule]

    @property
    def decode(self) -> list[Played]:
        """The passes after the first token."""
        return [one for one in self.played if one.record.sample][1:]

    @property
    def where(self) -> str:
        """For `how`."""
        return f"{self.name} on '{self.board}', simulated, ideal memory"


@cache
def _run(model: str, board: str, text: str, prompt: int | None, new: int) -> _Run:
    """Play a text (its first `prompt` tokens) and `new` tokens, end of text ignored; compare."""
    from tokenloom.host.device import VerilatorDevice
    from tokenloom.host.prepare import prepare
    from tokenloom.host.session import compare_with_golden, play, predictor, with_operation
    from tokenloom.sim.measured import measured_passes

    with _models():
        ready = prepare(model, board)
    quantised = ready.quantise()
    ids = ready.text.encode(text)[:prompt]
    with progress.steps() as step:
        chip = VerilatorDevice(quantised, ready.hardware, step)
    try:
        rows = ready.hardware.array.rows
        passes = -(-len(ids) // rows) + new - 1
        played = list(progress.track(play(chip, ids, new), f"{ready.name}: passes", passes))
        measured = measured_passes(chip.events(), [one.record for one in played])
    finally:
        chip.close()
    title = f"{ready.name}: compare with the golden model"
    with progress.counter(title, len(played)) as update:
        records = [one.record for one in played]
        difference = compare_with_golden(quantised, ids, records, update)
    if difference is not None:
        with progress.steps() as step:
            difference = with_operation(difference, chip, ids, records, step)
    return _Run(
        name=ready.name,
        board=ready.hardware.name,
        rows=rows,
        prompt=len(ids),
        played=played,
        difference=difference,
        measured=measured,
        schedule=predictor(chip),
    )


@contextmanager
def _models() -> Iterator[None]:
    """Turn a model that is not there into a skipped row."""
    try:
        yield
    except ModelError as error:
        raise Skip(str(error)) from error


def _shared_text(name: str, source: str) -> Path:
    path = Path(os.environ.get("TOKENLOOM_SHARED", "../shared")) / "text" / name
    if not path.is_file():
        raise Skip(
            f"{path} is not there; it is cut from {source}: put it there, or set TOKENLOOM_SHARED"
        )
    return path


def _stories() -> _Run:
    return _run("stories260K", "mini", _STORY, None, 256)


def _tinystories() -> _Run:
    return _run("tinystories-656k", "mini", _STORY, None, 64)


def _smollm2() -> _Run:
    # The last decode pass attends to 97 + 31 = 128 tokens.
    return _run("smollm2", "sim", _PROSE, 97, 32)


# Bits.


def _golden(run: _Run, tokens: int) -> Figure:
    sampled = [one.record for one in run.played if one.record.sample]
    logits = sum(len(record.logits) for record in sampled if record.logits is not None)
    how = (
        f"{run.where}; prompt of {run.prompt} tokens in passes of up to {run.rows} rows, every "
        f"logit of {logits} rows and every token"
    )
    if run.difference is not None:
        equal = sum(one.record.sample for one in run.played[: run.difference.number])
        return Figure(value=equal, how=f"{how}; {run.difference}", ok=False)
    return Figure(value=len(sampled), how=how, ok=len(sampled) == tokens)


@row("rtl_golden_stories260k", "tokens equal", "256 of 256")
def rtl_golden_stories260k() -> Figure:
    """Bits of stories260K."""
    return _golden(_stories(), 256)


@row("rtl_golden_tinystories", "tokens equal", "64 of 64")
def rtl_golden_tinystories() -> Figure:
    """Bits of TinyStories-656K."""
    return _golden(_tinystories(), 64)


@row("rtl_golden_smollm2", "tokens equal", "32 of 32")
def rtl_golden_smollm2() -> Figure:
    """Bits of SmolLM2."""
    return _golden(_smollm2(), 32)


# Cycles.


def _prediction(run: _Run) -> Figure:
    from tokenloom.sim.measured import schedule_differences

    total = wrong = lengths = 0
    first = ""
    for number, (one, measured) in enumerate(zip(run.played, run.measured, strict=True)):
        record = one.record
        schedule = run.schedule(record.rows, record.pos, record.sample)
        total += len(schedule.operations)
        found = schedule_differences(schedule, measured)
        whole = sum(entry["unit"] == "PASS" for entry in found)
        lengths += bool(whole)
        wrong += len(found) - whole
        if found and not first:
            first = f"; first in pass {number}: {found[0]}"
    how = (
        f"{run.where}; first and last belt cycle of {total:,} operations in {len(run.played)} "
        f"passes, {wrong} differ; length or beats of {lengths} passes differ{first}"
    )
    share = 100 * (1 - wrong / total) if total else 0.0
    return Figure(value=share, how=how, ok=bool(total) and not wrong and not lengths)


@row("prediction_stories260k", "% of operations equal", "100 %")
def prediction_stories260k() -> Figure:
    """Cycles of stories260K."""
    return _prediction(_stories())


@row("prediction_tinystories", "% of operations equal", "100 %")
def prediction_tinystories() -> Figure:
    """Cycles of TinyStories-656K."""
    return _prediction(_tinystories())


@row("prediction_smollm2", "% of operations equal", "100 %")
def prediction_smollm2() -> Figure:
    """Cycles of SmolLM2."""
    return _prediction(_smollm2())


# Perplexity.


def _perplexity(
    model: str, board: str, text: Path, tokens: int | None, limit: float, what: str
) -> Figure:
    from tokenloom.host.commands.eval import evaluate

    with _models():
        result = evaluate(
            model=model, board=board, overrides=(), text=text, tokens=tokens, window=512
        )
    change = 100 * (result["ratio"] - 1)
    return Figure(
        value=change,
        how=f"{what}: {result['ppl_float']:.4f} in float64 on the weights as stored, "
        f"{result['ppl_golden']:.4f} in the golden model; {result['tokens']} tokens, windows of "
        f"{result['window']}",
        ok=change <= limit,
    )


@row("ppl_stories260k", "% perplexity over float64", "<= +1.5 %")
def ppl_stories260k() -> Figure:
    """Perplexity of stories260K."""
    text = _shared_text("tinystories-eval60.txt", "Hugging Face, roneneldan/TinyStories")
    return _perplexity("stories260K", "mini", text, None, 1.5, "stories260K, 60 stories")


@row("ppl_smollm2", "% perplexity over float64", "<= +1 %")
def ppl_smollm2() -> Figure:
    """Perplexity of SmolLM2."""
    text = _shared_text("wikitext2-valid-sample.txt", "Hugging Face, Salesforce/wikitext")
    return _perplexity("smollm2", "sim", text, 8192, 1.0, "SmolLM2-135M, WikiText-2 sample")


# Speed of the machine.


@row("smollm2_busy", "% of cycles with a beat", ">= 90 %")
def smollm2_busy() -> Figure:
    """The array's share of busy cycles up to context 128."""
    run = _smollm2()
    worst = min(run.decode, key=lambda one: one.record.beats / one.record.elapsed).record
    share = 100 * worst.beats / worst.elapsed
    how = (
        f"{run.where}; measured, worst decode pass up to context 128 (at context "
        f"{worst.pos + 1}: {worst.beats:,} of {worst.elapsed:,} cycles)"
    )
    return Figure(value=share, how=how, ok=share >= 90)


@cache
def _smollm2_schedule(pos: int) -> tuple[int, int]:
    """Beats and cycles that `predict` gives for a decode pass."""
    from tokenloom.compiler.image import lay_out
    from tokenloom.compiler.program import compile_program
    from tokenloom.compiler.schedule import predict
    from tokenloom.host.prepare import prepare

    with _models():
        ready = prepare("smollm2", "sim")
    model = ready.quantise()
    program = compile_program(model, lay_out(model, ready.hardware), ready.hardware)
    found = predict(program, ready.hardware, model, rows=1, pos=pos, sample=True)
    return found.beats, found.cycles


def _busy_at(context: int) -> Figure:
    beats, cycles = _smollm2_schedule(context - 1)
    how = (
        f"SmolLM2-135M on 'sim', derived from predict(): {beats:,} of {cycles:,} belt cycles of "
        f"a decode pass at context {context}"
    )
    return Figure(value=100 * beats / cycles, how=how)


@row("smollm2_busy_512", "% of cycles with a beat")
def smollm2_busy_512() -> Figure:
    """The array's predicted share of busy cycles at context 512."""
    return _busy_at(512)


@row("smollm2_busy_2048", "% of cycles with a beat")
def smollm2_busy_2048() -> Figure:
    """The array's predicted share of busy cycles at context 2048."""
    return _busy_at(2048)


@row("stories260k_cycles", "cycles per token", "<= 8,000")
def stories260k_cycles() -> Figure:
    """Cycles of a decode pass at context 128."""
    run = _stories()
    record = next(one.record for one in run.decode if one.record.pos + 1 == 128)
    how = (
        f"{run.where}; the decode pass at context 128: {record.scheduled:,} belt cycles and "
        f"{sum(record.stalls.values()):,} stalled ones, at 64 weights per cycle"
    )
    return Figure(value=record.elapsed, how=how, ok=record.elapsed <= 8000)


# Speed of the simulation and of the generator.


def _rate(run: _Run, limit: float) -> Figure:
    seconds = sum(one.seconds for one in run.decode)
    rate = len(run.decode) / seconds
    khz = sum(one.record.elapsed for one in run.decode) / seconds / 1e3
    how = (
        f"{run.where}; wall time of {len(run.decode)} decode passes, the chip's clock at "
        f"{khz:.1f} kHz, {os.cpu_count()} cores"
    )
    return Figure(value=rate, how=how, ok=rate >= limit)


@row("smollm2_tokens_per_second", "tokens/s simulated", ">= 0.5")
def smollm2_tokens_per_second() -> Figure:
    """Rate of the SmolLM2 simulation."""
    return _rate(_smollm2(), 0.5)


@row("stories260k_tokens_per_second", "tokens/s simulated", ">= 60")
def stories260k_tokens_per_second() -> Figure:
    """Rate of the stories260K simulation."""
    return _rate(_stories(), 60)


@row("generate_seconds", "s", "<= 60")
def generate_seconds() -> Figure:
    """The command `tokenloom generate` for `sim`, nothing cached."""
    from tokenloom.compiler.models import resolve

    with _models():
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
    how = "wall time of `tokenloom generate --board sim --model smollm2` into an empty build folder"
    return Figure(value=seconds, how=how, ok=seconds <= 60)


@row("verilog_growth", "% more Verilog text", "< 10 %")
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
    how = f"'sim' with {columns} and {2 * columns} columns: {sizes[0]:,} and {sizes[1]:,} bytes"
    return Figure(value=growth, how=how, ok=growth < 10)


@row("lint_wall", "messages", "0")
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
    how = (
        f"verilator --lint-only -Wall on {len(texts)} modules of 'sim' without the generator-made "
        f"classes {', '.join(WAIVED)}" + (f"; first: {messages[0]}" if messages else "")
    )
    return Figure(value=len(messages), how=how, ok=not messages and not done.returncode)


# The table.


def bench(
    only: Sequence[str] = (), told: Callable[[list[dict[str, Any]]], None] = lambda rows: None
) -> list[dict[str, Any]]:
    """Measure rows.

    Parameters
    ----------
    only : sequence of str
        Their names; all if empty.
    told : callable
        Gets the rows so far after each one.

    Returns
    -------
    list of dict
        Each with ``name``, ``value``, ``unit``, ``target``, ``how`` and ``ok``; a row that was
        skipped has neither value nor ok, one that failed has ok false.

    Raises
    ------
    TokenloomError
        If there is no such row.
    """
    for name in only:
        if name not in ROWS:
            raise TokenloomError(f"--only {name}: no such row; allowed are {', '.join(ROWS)}")
    result: list[dict[str, Any]] = []
    for name, entry in ROWS.items():
        if only and name not in only:
            continue
        progress.console().rule(name)
        try:
            figure = entry.measure()
        except Skip as skip:
            figure = Figure(value=None, how=f"skipped: {skip}")
        except TokenloomError as error:
            figure = Figure(value=None, how=f"failed: {' '.join(str(error).split())}", ok=False)
        value = figure.value
        result.append(
            {
                "name": name,
                "value": round(value, 4) if isinstance(value, float) else value,
                "unit": entry.unit,
                "target": entry.target,
                "how": figure.how,
                "ok": figure.ok,
            }
        )
        told(result)
    return result


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table as docs/benchmarks.md holds it."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`. Cycles are measured in the Verilated chip behind an ideal memory",
        "unless a row says *derived*; no figure comes from an FPGA.",
        f"Measured with {os.cpu_count()} cores ({_processor()}), Python "
        f"{platform.python_version()}.",
        "",
        "| what | value | target | ok | how |",
        "|---|---|---|---|---|",
    ]
    for entry in rows:
        value = "-" if entry["value"] is None else f"{entry['value']:,} {entry['unit']}"
        ok = {True: "yes", False: "**no**", None: "-"}[entry["ok"]]
        how = entry["how"].replace("|", "\\|")
        lines.append(f"| {entry['name']} | {value} | {entry['target'] or '-'} | {ok} | {how} |")
    return "\n".join(lines) + "\n"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()
