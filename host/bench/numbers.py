"""Numbers: what the integer formats cost in perplexity."""

from __future__ import annotations

import math
from pathlib import Path

from tokenloom.host.bench.registry import Figure, group
from tokenloom.host.bench.runs import models, shared_text

_row = group("Numbers")


def _perplexity(
    model: str, board: str, text: Path, tokens: int | None, limit: float, what: str
) -> Figure:
    from tokenloom.host.commands.eval import evaluate

    with models():
        result = evaluate(
            model=model, board=board, overrides=(), text=text, tokens=tokens, window=512
        )
    change = 100 * (result["ratio"] - 1)
    return Figure(
        value=change,
        detail=f"{what}: {result['ppl_float']:.4f} in float64 on the weights as stored, "
        f"{result['ppl_golden']:.4f} in the golden model; {result['tokens']} tokens, windows of "
        f"{result['window']}",
        ok=change <= limit,
    )


@_row("ppl_stories260k", "% perplexity over float64", "<= +1.5 %", how="golden model")
def ppl_stories260k() -> Figure:
    """Perplexity of stories260K."""
    text = shared_text("tinystories-eval60.txt", "Hugging Face, roneneldan/TinyStories")
    return _perplexity("stories260K", "mini", text, None, 1.5, "stories260K, 60 stories")


@_row("loss_tiny", "nats per token", how="golden model")
def loss_tiny() -> Figure:
    """Loss of the project's own model on stories that it was not trained on."""
    from tokenloom.host.commands.eval import evaluate

    text = shared_text("tinystories-eval60.txt", "Hugging Face, roneneldan/TinyStories")
    result = evaluate(model="tiny", board="mini", overrides=(), text=text, tokens=None, window=512)
    return Figure(
        value=math.log(result["ppl_golden"]),
        detail=f"tiny, 60 stories: {math.log(result['ppl_float']):.4f} in float64; "
        f"{result['tokens']} tokens, windows of {result['window']}",
    )


@_row("ppl_smollm2", "% perplexity over float64", "<= +1 %", how="golden model")
def ppl_smollm2() -> Figure:
    """Perplexity of SmolLM2."""
    text = shared_text("wikitext2-valid-sample.txt", "Hugging Face, Salesforce/wikitext")
    return _perplexity("smollm2", "sim", text, 8192, 1.0, "SmolLM2-135M, WikiText-2 sample")


@_row("sparse_smollm2", "% perplexity over all scores", how="golden model")
def sparse_smollm2() -> Figure:
    """What attention to the 256 largest scores costs SmolLM2, at contexts of up to 1,024 tokens."""
    from tokenloom.host.commands.eval import evaluate

    text = shared_text("wikitext2-valid-sample.txt", "Hugging Face, Salesforce/wikitext")
    with models():
        result = evaluate(
            model="smollm2", board="sim", overrides=(), text=text, tokens=8192, window=1024,
            sparse=256,
        )  # fmt: skip
    return Figure(
        value=100 * (result["ratio_sparse"] - 1),
        detail=f"SmolLM2-135M, WikiText-2 sample: {result['ppl_golden']:.4f} with all scores, "
        f"{result['ppl_sparse']:.4f} with the 256 largest of a query; {result['tokens']} tokens, "
        f"windows of {result['window']}; of V's beats for queries of more than 256 tokens "
        f"{100 * result['idle_value_beats']:.2f} % have none of these tokens and need not be read",
    )
