"""The command `tokenloom eval`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokenloom.host.cli.options import WEIGHTS, common_options
from tokenloom.host.jsonfile import write_json

if TYPE_CHECKING:
    from tokenloom.compiler.checkpoint import MatrixKind

__all__ = ["eval_command"]


@click.command("eval")
@common_options
@WEIGHTS
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
