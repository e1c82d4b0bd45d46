"""The command `tokenloom run`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tokenloom.compiler.errors import TokenloomError
from tokenloom.host.cli.options import FILE, WEIGHTS, common_options, writable
from tokenloom.host.jsonfile import write_bytes, write_json

if TYPE_CHECKING:
    from tokenloom.compiler.checkpoint import MatrixKind

__all__ = ["run_command"]


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


@click.command("run")
@common_options
@WEIGHTS
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
    help="Compile the simulator twice, then for the branches that the model takes: a fifth "
    "to a quarter faster.",
)
@click.option(
    "--check/--no-check",
    default=False,
    show_default=True,
    help="Compare every logit and token with the golden model afterwards.",
)
@click.option(
    "--plot",
    type=FILE,
    callback=writable,
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
