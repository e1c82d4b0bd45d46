"""`tokenloom eval`: perplexity of the float64 reference and of the integer golden model."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokenloom.compiler.errors import TokenloomError
from tokenloom.host import progress

if TYPE_CHECKING:
    from tokenloom.compiler.checkpoint import MatrixKind

__all__ = ["evaluate"]


def evaluate(
    *,
    model: str,
    board: str,
    overrides: Sequence[str],
    text: Path,
    tokens: int | None = None,
    window: int = 512,
    sparse: int | None = None,
    weights: "MatrixKind" = "q8_0",
) -> dict[str, Any]:
    """Measure both perplexities on a text file.

    A file with ``<|endoftext|>`` in it is a list of stories, each with a start token of its own;
    any other file is one running text without one. Windows do not overlap.

    Parameters
    ----------
    model
        A model's name or path.
    board
        A hardware preset's name or path.
    overrides
        Hardware overrides, ``key=value``.
    text
        The file.
    tokens
        Use only the first so many tokens.
    window
        Tokens in a window.
    sparse
        Also measure the golden model with only so many scores in a softmax.
    weights
        What dense matrices become for the golden model.

    Returns
    -------
    dict
        ``model``, ``board``, ``text``, ``window``, ``tokens`` (read), ``scored``, ``ppl_float``,
        ``ppl_golden`` and ``ratio``; with `sparse` also ``sparse``, ``ppl_sparse``,
        ``ratio_sparse`` (to the golden model's) and ``idle_value_beats`` (the share of V that
        would not have to be read, see `ValueBeats`).

    Raises
    ------
    TokenloomError
        If model, hardware or text is unusable.
    """
    # Imported here, so that `tokenloom --help` and the other commands do not wait for them.
    from tokenloom.compiler.models import resolve
    from tokenloom.compiler.quantise import quantise
    from tokenloom.hw import config
    from tokenloom.sim.golden import Golden
    from tokenloom.sim.perplexity import perplexity
    from tokenloom.sim.reference import Reference
    from tokenloom.sim.request import check_tokens
    from tokenloom.sim.value_beats import ValueBeats

    try:
        content = text.read_text(encoding="utf-8")
    except OSError as error:
        raise TokenloomError(f"{text}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TokenloomError(f"{text}: is not UTF-8 text: {error}") from error

    source = resolve(model)
    with progress.step(f"read {source.name}"):
        checkpoint = source.checkpoint()
        tokenizer = source.text()
    hardware = config.load(board, overrides, maxima_from=checkpoint.shape)
    if not 2 <= window <= hardware.maxima.positions:
        raise TokenloomError(
            f"--window {window}: allowed is 2 to {hardware.maxima.positions}, the context of "
            f"{source.name} on hardware '{hardware.name}'"
        )
    parts = cut(tokenizer, content, tokens=tokens, window=window)
    for part in parts:
        check_tokens(part, checkpoint.shape.vocab)
    scored = sum(len(part) - 1 for part in parts)
    if not scored:
        raise TokenloomError(f"{text}: has no two tokens in a row, so there is nothing to score")

    with progress.step(f"quantise {source.name}"):
        quantised = quantise(checkpoint, positions=hardware.maxima.positions, weights=weights)
        golden = Golden(quantised)

    def golden_logits(ids: Any) -> NDArray[np.float64]:
        return golden.logits(ids).astype(np.float64) * golden.logit_scale

    def measure(title: str, logits: Callable[[Any], NDArray[np.floating]]) -> float:
        return perplexity(logits, progress.track(parts, title, len(parts)))

    ppl_float = measure("float64 reference", Reference(checkpoint).logits)
    ppl_golden = measure("golden model", golden_logits)
    extra: dict[str, Any] = {}
    if sparse is not None:
        beats = ValueBeats(sparse)
        few = Golden(quantised, trace=beats, sparse=sparse)
        ppl_sparse = measure(
            f"golden model, {sparse} scores",
            lambda ids: few.logits(ids).astype(np.float64) * few.logit_scale,
        )
        extra = {
            "sparse": sparse,
            "ppl_sparse": ppl_sparse,
            "ratio_sparse": ppl_sparse / ppl_golden,
            "idle_value_beats": beats.share,
        }
    return {
        "model": source.name,
        "board": hardware.name,
        "text": text.name,
        "window": window,
        "tokens": sum(len(part) for part in parts),
        "scored": scored,
        "ppl_float": ppl_float,
        "ppl_golden": ppl_golden,
        "ratio": ppl_golden / ppl_float,
        **extra,
    }


def cut(tokenizer: Any, content: str, *, tokens: int | None, window: int) -> list[list[int]]:
    """Cut a text into windows, and the windows off after so many tokens in all."""
    from tokenloom.sim.perplexity import SEPARATOR, story_windows, text_windows

    if SEPARATOR not in content:
        return text_windows(tokenizer, content, tokens=tokens, size=window)
    parts = story_windows(tokenizer, content, window)
    if tokens is None:
        return parts
    starts = itertools.accumulate((len(part) for part in parts), initial=0)
    short = [part[: max(0, tokens - start)] for part, start in zip(parts, starts, strict=False)]
    return [part for part in short if len(part) > 1]
