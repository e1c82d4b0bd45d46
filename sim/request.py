"""What a request must satisfy, whichever device plays it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy.typing as npt

from tokenloom.compiler.errors import TokenloomError
from tokenloom.compiler.quantise import QuantModel
from tokenloom.hw.sampler.candidates import choose
from tokenloom.hw.sampler.sampling import SEED_BITS
from tokenloom.hw.sampler.settings import (
    BIASES_MAX,
    CANDIDATES_MAX,
    WINDOW_MAX,
    Settings,
    bias_table,
    make_settings,
)

__all__ = ["GREEDY", "Sampling", "check_request", "check_sampler", "check_tokens"]

_COLDEST, _HOTTEST = 0.001, 100.0


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a request's tokens are chosen (docs/numbers.md, points 16 to 19).

    Attributes
    ----------
    temperature : float
        0: the largest logit. Otherwise tokens are drawn from softmax(logits / temperature).
    seed : int
        Of the draws; the same seed gives the same tokens.
    top_k : int
        Draw among so many of the largest logits; 0: off.
    top_p : float
        Draw among the fewest largest that have this share of the probability; 1: off. Without
        top_k they are at most `candidates`.
    min_p : float
        Draw among those with at least this share of the largest one's probability; 0: off.
    repetition_penalty : float
        Divides logits above zero, and multiplies those below, of tokens that occur in the last
        `repetition_window`; 1: off.
    repetition_window : int
    logit_bias : tuple of (id, bias)
        Added to these ids' logits, after the penalty.
    candidates : int
        As many as the chip keeps (`sampler.candidates`).

    Raises
    ------
    TokenloomError
        When one is not allowed; the message says what is.
    """

    temperature: float = 0.0
    seed: int = 0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_window: int = WINDOW_MAX
    logit_bias: tuple[tuple[int, float], ...] = ()
    candidates: int = CANDIDATES_MAX

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
        ids = [token for token, _ in self.logit_bias]
        if len(ids) > BIASES_MAX:
            raise TokenloomError(f"logit_bias has {len(ids)} tokens; allowed: up to {BIASES_MAX}")
        for token, bias in self.logit_bias:
            if ids.count(token) > 1:
                raise TokenloomError(f"logit_bias has token {token} twice; allowed: once")
            if not abs(bias) < float("inf"):
                raise TokenloomError(
                    f"logit_bias of token {token} is {bias}; allowed: any finite number"
                )
        self._made(0, 0.0)  # whatever else is not allowed

    def _made(self, fraction_bits: int, temperature: float) -> Settings:
        try:
            return make_settings(
                fraction_bits=fraction_bits,
                temperature=temperature,
                seed=self.seed,
                top_k=self.top_k,
                top_p=self.top_p,
                min_p=self.min_p,
                penalty=self.repetition_penalty,
                window=self.repetition_window,
                biases=len(self.logit_bias),
                candidates=self.candidates,
            )
        except ValueError as error:
            raise TokenloomError(str(error)) from error

    @property
    def plain(self) -> bool:
        """Whether a sampler without candidates does."""
        return not self.cuts and self.repetition_penalty == 1 and not self.logit_bias

    @property
    def cuts(self) -> bool:
        """Whether tokens are drawn among candidates."""
        return bool(self.top_k or self.top_p < 1 or self.min_p)

    def settings(self, model: QuantModel) -> Settings:
        """As the chip takes them, in units of the model's logits."""
        return self._made(model.f_logit, self.temperature)

    def biases(self, model: QuantModel) -> Sequence[tuple[int, int]]:
        """The table of biases, in the order of the ids.

        Raises
        ------
        TokenloomError
            When an id is none of the model's.
        """
        check_tokens([token for token, _ in self.logit_bias], model.shape.vocab)
        return bias_table(dict(self.logit_bias), model.f_logit)

    def choose(
        self, model: QuantModel, logits: npt.ArrayLike, position: int, recent: Sequence[int]
    ) -> int:
        """The token behind the one at `position`, whose logits [vocab] these are.

        `recent` is the sequence up to there; its last `WINDOW_MAX` tokens suffice.
        """
        return choose(
            logits,
            position,
            self.settings(model),
            recent=recent,
            biases=self.biases(model),
        ).token


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


def check_sampler(sampling: Sampling, candidates: int) -> None:
    """Raise TokenloomError when a chip that keeps so many candidates cannot choose like this."""
    if candidates == 0 and not sampling.plain:
        raise TokenloomError(
            "this chip's sampler has temperature and seed only; top-k, top-p, min-p, repetition "
            "penalty and logit bias need sampler.candidates = 2 to 64"
        )
    if sampling.cuts and sampling.candidates != candidates:
        raise TokenloomError(
            f"the request is made for {sampling.candidates} candidates, the chip keeps {candidates}"
        )


def check_tokens(tokens: Sequence[int], vocab: int) -> None:
    """Raise TokenloomError for a token beyond the vocabulary; a tokenizer may have more tokens."""
    for token in tokens:
        if not 0 <= token < vocab:
            raise TokenloomError(f"token {token} is none of the model's; allowed: 0 to {vocab - 1}")
