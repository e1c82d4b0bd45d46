"""The command line `tokenloom`; each command's body is a module in `host/commands`."""

import io
import os
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tokenloom.compiler.errors import TokenloomError
from tokenloom.host.jsonfile import check_writable, write_bytes, write_json, write_text

if TYPE_CHECKING:
    from tokenloom.compiler.checkpoint import MatrixKind

__all__ = ["cli", "common_options", "main"]


def _version() -> str:
    try:
        return version("tokenloom")
    except PackageNotFoundError:
        return "(not installed)"


def _writable(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """A file that can be written, before the work whose result it shall hold."""
    if path is not None:
        check_writable(path)
    return path


_FILE = click.Path(dir_okay=False, path_type=Path)


class _TokenBias(click.ParamType):
    """A token's id and what is added to its logit, as 42:-1.5."""

    name = "id:bias"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> tuple[int, float]:
        token, _, bias = str(value).partition(":")
        try:
            return int(token), float(bias)
        except ValueError:
            self.fail(f"{value!r} is no ID:BIAS; allowed is one like 42:-1.5", param, context)


_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _file_option(name: str, text: str) -> _Decorator:
    """An option --name FILE, a file to write; the parameter is name_file."""
    return click.option(
        f"--{name}", f"{name}_file", type=_FILE, callback=_writable, metavar="FILE", help=text
    )


_OVERRIDES = click.option(
    "-P",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a value of the hardware, as array.columns=8; may be repeated.",
)


_WEIGHTS = click.option(
    "--weights",
    type=click.Choice(["q8_0", "q4_0", "q4_1", "nf4", "mxfp4", "iq4_nl"]),
    default="q8_0",
    show_default=True,
    help="What a checkpoint's dense matrices become; quantised ones stay as they are.",
)


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that every command has: --model, --board, -P and --json."""
    for option in (
        _file_option("json", "Write the result to FILE."),
        _OVERRIDES,
        click.option(
            "--board",
            default="sim",
            show_default=True,
            metavar="NAME|FILE",
            help="Hardware preset, or a TOML file.",
        ),
        click.option(
            "--model",
            default="smollm2",
            show_default=True,
            metavar="NAME|PATH",
            help="Model name, GGUF file, or folder in Hugging Face layout.",
        ),
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version=_version(), prog_name="tokenloom")
def cli() -> None:
    """Turn a Llama-family checkpoint and an FPGA board into an inference chip in Verilog."""


@cli.command("eval")
@common_options
@_WEIGHTS
@click.option(
    "--text",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The text to score; <|endoftext|> separates stories.",
)
@click.option("--tokens", type=click.IntRange(min=2), help="Use only the first so many tokens.")
@click.option(
    "--window",
    type=click.IntRange(min=2),
    default=512,
    show_default=True,
    help="Tokens in a window.",
)
@click.option(
    "--sparse",
    type=click.IntRange(min=1),
    metavar="N",
    help="Also measure with only the N largest scores in each softmax (golden model only).",
)
def eval_command(
    model: str,
    board: str,
    overrides: tuple[str, ...],
    json_file: Path | None,
    text: Path,
    tokens: int | None,
    window: int,
    sparse: int | None,
    weights: "MatrixKind",
) -> None:
    """Measure perplexity: the golden model beside a float64 reference."""
    from tokenloom.host.commands.eval import evaluate

    result = evaluate(
        model=model, board=board, overrides=overrides, text=text, tokens=tokens, window=window,
        sparse=sparse, weights=weights,
    )  # fmt: skip
    if json_file is not None:
        write_json(json_file, result)
    click.echo(
        f"{result['tokens']} tokens: perplexity {result['ppl_float']:.4f} float64, "
        f"{result['ppl_golden']:.4f} golden ({100 * (result['ratio'] - 1):+.2f} %)"
    )
    if sparse is not None:
        click.echo(
            f"with the {sparse} largest scores: {result['ppl_sparse']:.4f} "
            f"({100 * (result['ratio_sparse'] - 1):+.2f} % of the golden model's); "
            f"{100 * result['idle_value_beats']:.2f} % of V's beats have none of them"
        )


@cli.command("run")
@common_options
@_WEIGHTS
@click.option(
    "--prompt",
    required=True,
    metavar="TEXT",
    help="What the model answers. An empty one begins with what the tokenizer or the chat "
    "template puts before it, and is refused where that is nothing.",
)
@click.option("--raw", is_flag=True, help="Continue the prompt as it is: no chat template.")
@click.option("--ignore-eos", is_flag=True, help="Go on behind the end of the text.")
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Most tokens to generate.",
)
@click.option(
    "--temperature",
    type=float,
    default=0.0,
    show_default=True,
    help="Draw from softmax(logits / temperature); 0 takes the most probable token.",
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Of the draws: the same seed gives the same tokens.",
)
@click.option(
    "--top-k",
    type=int,
    default=0,
    show_default=True,
    help="Draw among so many of the most probable tokens, up to the chip's sampler.candidates "
    "(64); 0: off.",
)
@click.option(
    "--top-p",
    type=float,
    default=1.0,
    show_default=True,
    help="Draw among the fewest most probable tokens that have this share of the probability, "
    "at most sampler.candidates (64); 1: off.",
)
@click.option(
    "--min-p",
    type=float,
    default=0.0,
    show_default=True,
    help="Draw among tokens with at least this share of the most probable one's probability, "
    "at most sampler.candidates (64); 0: off.",
)
@click.option(
    "--repetition-penalty",
    type=float,
    default=1.0,
    show_default=True,
    help="Divides the logits of tokens among the last 64 (multiplies those below zero); 1: off.",
)
@click.option(
    "--logit-bias",
    type=_TokenBias(),
    multiple=True,
    metavar="ID:BIAS",
    help="Added to a token's logit; may be given up to 32 times.",
)
@click.option(
    "--memory",
    default="ideal",
    show_default=True,
    metavar="NAME",
    help="Memory of the simulated board: ideal, hbm2, ddr4 or onchip.",
)
@click.option(
    "--memory-seed",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Of everything about the memory that is left to chance.",
)
@click.option(
    "--device",
    type=click.Choice(["golden", "verilator"]),
    default="verilator",
    show_default=True,
    help="The simulated Verilog, or the golden model in its place.",
)
@click.option(
    "--guided/--no-guided",
    default=False,
    show_default=True,
    help="Compile the simulator twice, then for the branches that the model takes: a quarter "
    "faster.",
)
@click.option(
    "--check/--no-check",
    default=False,
    show_default=True,
    help="Compare every logit and token with the golden model afterwards.",
)
@click.option(
    "--plot",
    type=_FILE,
    callback=_writable,
    metavar="FILE",
    help="Draw a roofline and where the cycles go to FILE, a PNG.",
)
def run_command(
    model: str,
    board: str,
    overrides: tuple[str, ...],
    json_file: Path | None,
    prompt: str,
    raw: bool,
    ignore_eos: bool,
    max_tokens: int,
    temperature: float,
    seed: int,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    logit_bias: tuple[tuple[int, float], ...],
    memory: str,
    memory_seed: int,
    device: str,
    guided: bool,
    check: bool,
    plot: Path | None,
    weights: "MatrixKind",
) -> None:
    """Let the generated chip answer a prompt, simulated by Verilator.

    Without --model the small model that ships with tokenloom takes the default's place where that
    cannot be fetched. Ctrl-C ends the answer: its figures are printed, and --json gets what there
    is with "complete": false. Exit code: 0; 1 if --check finds a difference; 2 for an error; 130
    after Ctrl-C.
    """
    from tokenloom.compiler.models import FALLBACK_MODEL
    from tokenloom.host.commands.run import run, show

    chosen = click.get_current_context().get_parameter_source("model")
    fallback = FALLBACK_MODEL if chosen is ParameterSource.DEFAULT else None
    if plot is not None and device == "golden":
        raise TokenloomError("--plot draws clock cycles; allowed is only --device verilator")

    def emit(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    result = run(
        model=model,
        board=board,
        overrides=overrides,
        prompt=prompt,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        logit_bias=logit_bias,
        raw=raw,
        ignore_eos=ignore_eos,
        memory=memory,
        memory_seed=memory_seed,
        device=device,
        guided=guided,
        check=check,
        weights=weights,
        fallback=fallback,
        emit=emit,
    )
    show(result)
    if json_file is not None:
        write_json(json_file, result)
    if plot is not None and result["passes"]:
        from tokenloom.host.plot import png

        write_bytes(plot, png(result))
    if result["golden_match"] is False:
        click.echo(f"error: {result['difference']}", err=True)
        sys.exit(1)
    if not result["complete"]:
        raise KeyboardInterrupt


@cli.command("generate")
@common_options
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder for the Verilog, one file per module.",
)
@click.option(
    "--block",
    metavar="NAME",
    help="One block of the catalog alone (docs/blocks); -P sets its parameters.",
)
@click.option("--preset", metavar="NAME", help="A shape of the block that has a name.")
def generate_command(
    model: str,
    board: str,
    overrides: tuple[str, ...],
    json_file: Path | None,
    out: Path,
    block: str | None,
    preset: str | None,
) -> None:
    """Write the chip's Verilog, or a block's, one file per module."""
    if block is None:
        if preset is not None:
            raise click.UsageError("--preset: only with --block; a chip's preset is --board")
        from tokenloom.host.commands.generate import generate

        result = generate(model=model, board=board, overrides=overrides, out=out)
    else:
        from tokenloom.host.commands.generate_block import generate_block

        result = generate_block(name=block, overrides=overrides, out=out, preset=preset)
    if json_file is not None:
        write_json(json_file, result)
    click.echo(f"{result['files']} files, {result['bytes']:,} bytes in {out}")


@cli.command("blocks")
@click.option(
    "--markdown",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write every block's page and wave, and an index.",
)
@_file_option("json", "Write the blocks, their parameters and their presets to FILE.")
def blocks_command(markdown: Path | None, json_file: Path | None) -> None:
    """List the blocks that can be used alone."""
    from tokenloom.host.commands.blocks import entries, listing, write_pages

    if json_file is not None:
        write_json(json_file, entries())
    if markdown is not None:
        write_pages(markdown)
    for line in listing():
        click.echo(line)


@cli.command("synth")
@click.option(
    "--board",
    required=True,
    metavar="NAME|FILE",
    help="Hardware preset of a card with a vendor platform (u280, u55c, vck5000), or a TOML file.",
)
@_OVERRIDES
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder for the project.",
)
@click.option("--measure", is_flag=True, help="Estimate blocks that are not known yet with Yosys.")
@click.option("--run/--no-run", default=True, show_default=True,
              help="Run the vendor's tools when they are on PATH.")  # fmt: skip
@_file_option("json", "Write the result to FILE.")
def synth_command(
    board: str,
    overrides: tuple[str, ...],
    out: Path,
    measure: bool,
    run: bool,
    json_file: Path | None,
) -> None:
    """Write a card's project for Vivado and Vitis, and run them when they are there.

    A chip that is larger than what the card's shell leaves is refused.
    """
    from tokenloom.host.commands.synth import synth, told

    result = synth(board=board, overrides=overrides, out=out, measure=measure, run=run)
    if json_file is not None:
        write_json(json_file, result)
    for text in told(result):
        click.echo(text)


@cli.command("schedule")
@common_options
@click.option(
    "--rows", type=click.IntRange(min=1), default=1, show_default=True, help="Rows of the pass."
)
@click.option(
    "--pos",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Position of its first row.",
)
@click.option(
    "--sample/--no-sample",
    default=True,
    show_default=True,
    help="Whether the pass computes logits, as all but the first ones of a prompt do.",
)
@click.option("--measure", is_flag=True, help="Measure the same pass in the simulated chip.")
@click.option(
    "--checksums",
    is_flag=True,
    help="With --measure: a CRC-32 of every operation's output, the chip's and the golden model's.",
)
@click.option(
    "--out",
    required=True,
    type=_FILE,
    callback=_writable,
    metavar="FILE",
    help="The trace, for ui.perfetto.dev; a microsecond is a belt cycle.",
)
def schedule_command(
    model: str,
    board: str,
    overrides: tuple[str, ...],
    json_file: Path | None,
    rows: int,
    pos: int,
    sample: bool,
    measure: bool,
    checksums: bool,
    out: Path,
) -> None:
    """Predict when each operation of a pass starts and ends."""
    from tokenloom.host.commands.schedule import schedule

    result, trace = schedule(
        model=model,
        board=board,
        overrides=overrides,
        rows=rows,
        pos=pos,
        sample=sample,
        measure=measure,
        checksums=checksums,
    )
    write_json(out, trace)
    if json_file is not None:
        write_json(json_file, result)
    click.echo(
        f"{result['operations']} operations in {result['cycles']:,} belt cycles, array busy "
        f"{result['array_busy']:.1%} (predicted); trace in {out}"
    )
    if result["equal"]:
        click.echo(
            "measured: the first and last cycle of every operation are as predicted"
            + (", its output is the golden model's" if checksums else "")
        )
    elif result["equal"] is False:
        first = result["differences"][0]
        click.echo(
            f"error: {len(result['differences'])} operations are not as predicted, the first "
            f"being {first['unit']} {first['name']!r}: predicted {first['predicted']}, measured "
            f"{first['measured']}",
            err=True,
        )
        sys.exit(1)


@cli.command("bench")
@click.option("--only", multiple=True, metavar="NAME", help="Only this row; may be repeated.")
@click.option("--list", "listed", is_flag=True, help="Print the rows instead.")
@click.option("--again", is_flag=True, help="Measure also what was measured with the same sources.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Parts measured at a time; wall times always have the machine for themselves.",
)
@_file_option("json", "Write the rows to FILE.")
@_file_option("markdown", "Write the whole table to FILE; rows without a value never replace one.")
def bench_command(
    only: tuple[str, ...],
    listed: bool,
    again: bool,
    jobs: int,
    json_file: Path | None,
    markdown_file: Path | None,
) -> None:
    """Measure every figure of docs/benchmarks.md; models and boards are part of the figures."""
    from tokenloom.host.bench.saved import Saved
    from tokenloom.host.bench.table import write_table
    from tokenloom.host.commands.bench import bench, listing

    if listed:
        click.echo("\n".join(listing()))
        return
    if only and markdown_file is not None:
        raise click.UsageError("--markdown writes the whole table; leave out --only")

    def told(rows: list[Saved]) -> None:
        if json_file is not None:
            write_json(json_file, [row.entry() for row in rows])
        last = rows[-1]
        ok = {True: "ok", False: "NOT OK", None: "-"}[last.ok]
        value = "-" if last.value is None else f"{last.value:,} {last.unit}"
        click.echo(f"{last.name}: {value} (target {last.target or 'none'}): {ok}")
        click.echo(f"    {last.how}")

    rows = bench(only, told, again=again, jobs=jobs)
    if markdown_file is not None:
        write_table(markdown_file, rows)
    if any(row.ok is False for row in rows):
        sys.exit(1)


@cli.command("estimate")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="Model whose shape is known; may be repeated. Default: all of them.",
)
@click.option(
    "--board",
    "boards",
    multiple=True,
    metavar="NAME|FILE",
    help="Hardware preset, or a TOML file; may be repeated. Default: every preset of a real board.",
)
@_OVERRIDES
@click.option(
    "--context",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="Tokens of context for the rates; less where less fits.",
)
@_file_option("json", "Write the estimates to FILE.")
@_file_option("markdown", "Write the table to FILE.")
def estimate_command(
    models: tuple[str, ...],
    boards: tuple[str, ...],
    overrides: tuple[str, ...],
    context: int,
    json_file: Path | None,
    markdown_file: Path | None,
) -> None:
    """Estimate what boards do with models: fit, tokens per second, longest context. All derived."""
    from tokenloom.host.commands.estimate import estimates, line, markdown

    found = []
    for entry in estimates(models=models, boards=boards, overrides=overrides, context=context):
        found.append(entry)
        click.echo(line(entry))
    if json_file is not None:
        write_json(json_file, [entry.to_dict() for entry in found])
    if markdown_file is not None:
        write_text(markdown_file, markdown(found, context))


def _usage(error: click.ClickException) -> str:
    """What click says is wrong, on one line, and what is allowed where it leaves that out."""
    text, allowed = " ".join(error.format_message().split()).rstrip("."), []
    context = getattr(error, "ctx", None)
    if isinstance(error, click.NoSuchOption):
        text = f"No such option '{error.option_name}'"
        if error.possibilities:
            return f"{text} (did you mean {' or '.join(sorted(error.possibilities))}?)"
        parameters = [] if context is None else context.command.get_params(context)
        allowed = [max(one.opts, key=len) for one in parameters if isinstance(one, click.Option)]
    elif isinstance(context, click.Context) and isinstance(context.command, click.Group):
        allowed = list(context.command.commands)
    return f"{text}; allowed: {', '.join(sorted(allowed))}" if allowed else text


def _drop_output() -> None:
    """Keep the interpreter from writing to stdout at its end what could not be written before."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Run the command line; an error of the user's or the system's becomes one line and code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # an answer may have any character
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        cli(standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:  # wrong usage
        click.echo(f"error: {_usage(error)}", err=True)
        sys.exit(2)
    except TokenloomError as error:
        click.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(2)
    except OSError as error:  # a full disk, a reader that went away
        where = "" if error.filename is None else f"{error.filename}: "
        click.echo(f"error: {where}{error.strerror or error}", err=True)
        _drop_output()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
