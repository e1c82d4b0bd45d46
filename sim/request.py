"""What a request must satisfy, whichever device plays it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy.typing as npt

from tokenloom.compiler.errors import TokenloomError
from tokenloom.compiler.quantise import QuantModel
from tokenloom.hw.sampler.sampling import SEED_BITS, NoiseScale, noise_scale, sample

__all__ = ["GREEDY", "Sampling", "check_request", "check_tokens"]

_COLDEST, _HOTTEST = 0.001, 100.0


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a request's tokens are chosen (docs/numbers.md, point 16).

    Attributes
    ----------
    temperature : float
        0: the largest logit. Otherwise tokens are drawn from softmax(logits / temperature).
    seed : int
        Of the draws; the same seed gives the same tokens.

    Raises
    ------
    TokenloomError
        When one is not allowed; the message says what is.
    """

    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature != 0 and not _COLDEST <= self.temperature <= _HOTTEST:
            raise TokenloomError(
                f"temperature {self.temperature:g} is impossible; allowed: 0 (the most probable "
                f"token), or {_COLDEST:g} to {_HOTTEST:g}"
            )
        if not 0 <= self.seed < 1 << SEED_BITS:
            raise TokenloomError(
                f"seed {self.seed} is impossible; allowed: 0 to {(1 << SEED_BITS) - 1}"
            )

    def scale(self, model: QuantModel) -> NoiseScale:
        """The temperature in units of the model's scores."""
        try:
            return noise_scale(self.temperature, model.f_logit)
        except ValueError as error:
            raise TokenloomError(str(error)) from error

    def choose(self, model: QuantModel, logits: npt.ArrayLike, position: int) -> int:
        """The token behind the one at `position`, whose logits [vocab] these are."""
        return sample(logits, position, self.scale(model), self.seed)


GREEDY = Sampling()


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
