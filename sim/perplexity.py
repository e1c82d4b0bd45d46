"""Perplexity of a model on a text, in windows."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["SEPARATOR", "perplexity", "story_windows", "text_windows", "windows"]

SEPARATOR = "<|endoftext|>"
"""What stands between the stories of a story file."""


class _Encoder(Protocol):
    def encode(self, text: str, bos: bool = True) -> list[int]: ...


def windows(ids: Sequence[int], size: int = 512) -> list[list[int]]:
    """Cut a sequence into windows that do not overlap.

    Parameters
    ----------
    ids : sequence of int
        Token ids.
    size : int
        Tokens in a window; the last one may be shorter.

    Returns
    -------
    list of list of int
        Windows of one token are left out: they have nothing to score.

    Raises
    ------
    ValueError
        If `size` is below 2.
    """
    if size < 2:
        raise ValueError(f"a window needs at least 2 tokens, not {size}")
    cut = [list(ids[start : start + size]) for start in range(0, len(ids), size)]
    return [window for window in cut if len(window) > 1]


def story_windows(text: _Encoder, stories: str, size: int = 512) -> list[list[int]]:
    """Encode a file of stories, each for itself and with the model's start token.

    Parameters
    ----------
    text : Text
        The tokenizer.
    stories : str
        Stories with ``<|endoftext|>`` between them.
    size : int
        Tokens in a window; longer stories are cut.

    Returns
    -------
    list of list of int
    """
    found: list[list[int]] = []
    for story in stories.split(SEPARATOR):
        if story.strip():
            found += windows(text.encode(story.strip(), bos=True), size)
    return found


def text_windows(
    text: _Encoder, content: str, *, tokens: int | None = None, size: int = 512
) -> list[list[int]]:
    """Encode one running text, without a start token.

    Parameters
    ----------
    text : Text
        The tokenizer.
    content : str
        The text.
    tokens : int or None
        Use its first so many tokens only.
    size : int
        Tokens in a window.

    Returns
    -------
    list of list of int
    """
    return windows(text.encode(content, bos=False)[:tokens], size)


def perplexity(
    logits: Callable[[Any], NDArray[np.floating]], windows: Iterable[Sequence[int]]
) -> float:
    """Return exp of the mean negative log likelihood over all windows.

    Parameters
    ----------
    logits : callable
        Takes an int array [T] and returns [T, vocab], in natural-log units.
    windows : iterable of sequences of int
        Each is a context of its own; its first token is not scored.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If there is nothing to score.
    """
    total, count = 0.0, 0
    for window in windows:
        ids = np.asarray(window, dtype=np.int64)
        if len(ids) < 2:
            continue
        values = np.asarray(logits(ids)[:-1], dtype=np.float64)
        top = values.max(axis=1)
        mass = top + np.log(np.exp(values - top[:, None]).sum(axis=1))
        total += float((mass - values[np.arange(len(ids) - 1), ids[1:]]).sum())
        count += len(ids) - 1
    if not count:
        raise ValueError("no window has a token to score")
    return float(np.exp(total / count))
