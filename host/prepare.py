"""Reads what the commands begin with: a model, its tokenizer and hardware that fits it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenloom.host import progress

if TYPE_CHECKING:
    from tokenloom.compiler.checkpoint import Checkpoint, MatrixKind
    from tokenloom.compiler.program import Program
    from tokenloom.compiler.quantise import QuantModel
    from tokenloom.compiler.text import Text
    from tokenloom.hw.config import HardwareConfig

__all__ = ["Prepared", "prepare", "prompt_ids"]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A model and the hardware for it.

    Attributes
    ----------
    name : str
        The model's name.
    checkpoint : Checkpoint
    text : Text
    hardware : HardwareConfig
    resized : bool
        The preset's maxima were too small: the model's replaced them.
    weights : str
        What dense matrices become (`compiler.block_formats`).
    """

    name: str
    checkpoint: Checkpoint
    text: Text
    hardware: HardwareConfig
    resized: bool
    weights: MatrixKind = "q8_0"

    def quantise(self) -> QuantModel:
        """The model in the chip's numbers, with as much context as both sides have."""
        from tokenloom.compiler.quantise import quantise

        positions = min(self.hardware.maxima.positions, self.checkpoint.shape.positions)
        with progress.step(f"quantise {self.name}"):
            return quantise(self.checkpoint, positions=positions, weights=self.weights)

    def program(self, model: QuantModel) -> Program:
        """What the chip plays for the quantised model, for predictions without a device."""
        from tokenloom.compiler.image import lay_out
        from tokenloom.compiler.program import compile_program

        with progress.step("lay out the weights"):
            return compile_program(model, lay_out(model, self.hardware), self.hardware)


def prepare(
    model: str,
    board: str,
    overrides: Sequence[str] = (),
    *,
    fallback: str | None = None,
    weights: MatrixKind = "q8_0",
) -> Prepared:
    """Find and read a model, and load hardware that it fits.

    A model beyond the preset's maxima gets hardware with its own maxima, and a line on stderr.

    Parameters
    ----------
    model : str
        Name or path.
    board : str
        Preset or file.
    overrides : sequence of str
        ``key=value``.
    fallback : str, optional
        Model to take when `model` cannot be fetched; stderr says so.
    weights : str
        What dense matrices become.

    Raises
    ------
    TokenloomError
        If model or hardware is unusable.
    """
    from tokenloom.compiler.errors import ConfigError, FetchError
    from tokenloom.compiler.models import resolve
    from tokenloom.hw import config

    hardware = config.load(board, overrides)  # first: a wrong key shows before anything is fetched
    try:
        with progress.step(f"find {model}"):
            source = resolve(model)
    except FetchError as error:
        if fallback is None:
            raise
        progress.console().print(
            f"{error}. Taking the model '{fallback}' that ships with tokenloom instead of the "
            f"default '{model}': it only continues children's stories, and answers no questions.",
            markup=False,
            soft_wrap=True,
        )
        source = resolve(fallback)
    with progress.step(f"read {source.name}"):
        checkpoint = source.checkpoint()
        text = source.text()
    resized = False
    try:
        hardware.check_model(checkpoint.shape, source.name)
    except ConfigError as error:
        resized = True
        hardware = config.load(board, overrides, maxima_from=checkpoint.shape)
        hardware.check_model(checkpoint.shape, source.name)  # an override may still be too small
        progress.console().print(
            f"{str(error).split(';')[0]}. Using hardware '{hardware.name}' with maxima sized for "
            f"{source.name}.",
            markup=False,
            soft_wrap=True,
        )
    for loss in hardware.losses():
        progress.console().print(f"Hardware '{hardware.name}': {loss}.", markup=False)
    return Prepared(
        name=source.name,
        checkpoint=checkpoint,
        text=text,
        hardware=hardware,
        resized=resized,
        weights=weights,
    )


def prompt_ids(text: Text, prompt: str, *, raw: bool = False) -> list[int]:
    """Token ids of a prompt: as a user's turn if the model has a chat template and not `raw`.

    A line on stderr names characters that the tokenizer has no token for.

    Raises
    ------
    TokenloomError
        If the prompt is no text.
    """
    from tokenloom.compiler.errors import TokenloomError

    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise TokenloomError(
            f"--prompt: byte {error.start} or one behind it is not UTF-8; allowed is UTF-8 text"
        ) from error
    unknown = text.unknown(prompt)
    if unknown:
        progress.console().print(
            "The model's tokenizer has no token for "
            + ", ".join(repr(character) for character in unknown)
            + ": the model does not see what stands there.",
            markup=False,
            soft_wrap=True,
        )
    turn = None if raw else text.chat([{"role": "user", "content": prompt}])
    return text.encode(prompt) if turn is None else text.encode(turn, bos=False)
