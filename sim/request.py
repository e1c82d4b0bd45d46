"""What a request must satisfy, whichever device plays it."""

from __future__ import annotations

from collections.abc import Sequence

from tokenloom.compiler.errors import TokenloomError
from tokenloom.compiler.quantise import QuantModel

__all__ = ["check_request", "check_tokens"]


def check_request(model: QuantModel, prompt: Sequence[int], new: int) -> None:
    """Check a prompt and a number of new tokens against a model.

    Raises
    ------
    TokenloomError
        When the prompt is empty, a token is none of the model's, no token is asked for, or the
        context is too short; the message says what is allowed.
    """
    if not prompt:
        raise TokenloomError("the prompt is empty; allowed: at least one token")
    if len(prompt) + new - 1 > model.positions:
        raise TokenloomError(
            f"{len(prompt)} prompt tokens and {new} new ones exceed the context of "
            f"{model.positions} tokens"
        )
    check_tokens(prompt, model.shape.vocab)
    if new < 1:
        raise TokenloomError(f"{new} new tokens asked for; allowed: 1 and more")


def check_tokens(tokens: Sequence[int], vocab: int) -> None:
    """Raise TokenloomError for a token beyond the vocabulary; a tokenizer may have more tokens."""
    for token in tokens:
        if not 0 <= token < vocab:
            raise TokenloomError(f"token {token} is none of the model's; allowed: 0 to {vocab - 1}")
