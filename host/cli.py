"""The command line `tokenloom`; each command's body is a module in `host/commands`."""

import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from tokenloom.compiler.errors import TokenloomError
from tokenloom.host.jsonfile import write_json

__all__ = ["cli", "common_options", "main"]


def _version() -> str:
    try:
        return version("tokenloom")
    except PackageNotFoundError:
        return "(not installed)"


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that every command has: --model, --board, -P and --json."""
    for option in (
        click.option(
            "--json",
            "json_file",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Write the result to FILE.",
        ),
        click.option(
            "-P",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help="Override a value of the hardware, as array.columns=8; may be repeated.",
        ),
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
def eval_command(
    model: str,
    board: str,
    overrides: tuple[str, ...],
    json_file: Path | None,
    text: Path,
    tokens: int | None,
    window: int,
) -> None:
    """Measure perplexity: the golden model beside a float64 reference."""
    from tokenloom.host.commands.eval import evaluate

    result = evaluate(
        model=model, board=board, overrides=overrides, text=text, tokens=tokens, window=window
    )
    if json_file is not None:
        write_json(json_file, result)
    click.echo(
        f"{result['tokens']} tokens: perplexity {result['ppl_float']:.4f} float64, "
        f"{result['ppl_golden']:.4f} golden ({100 * (result['ratio'] - 1):+.2f} %)"
    )


def main() -> None:
    """Run the command line; an error of the user's becomes one line and exit code 2."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:  # wrong usage
        error.show()
        sys.exit(2)
    except TokenloomError as error:
        click.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
