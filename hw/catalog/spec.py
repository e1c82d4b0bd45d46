"""What the catalog knows of a block that is worth using alone."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from amaranth.hdl import UnusedElaboratable

from tokenloom.compiler.errors import ConfigError
from tokenloom.hw.verilog.block import Block, emit

__all__ = ["BlockSpec", "Parameter", "Timing", "bit_table"]


@dataclass(frozen=True, kw_only=False)
class Parameter:
    """A parameter of a block.

    Attributes
    ----------
    name : str
    default : int, bool or str
        Its type is the parameter's.
    allowed, doc : str
        For people; the block itself refuses what it cannot be.
    """

    name: str
    default: int | bool | str
    allowed: str
    doc: str

    def value(self, text: str) -> int | bool | str:
        """Read a value from the command line.

        Raises
        ------
        ConfigError
            When the text is of another type.
        """
        if isinstance(self.default, bool):
            if text.lower() in ("true", "false"):
                return text.lower() == "true"
            raise ConfigError(f"-P {self.name}={text}: allowed is true or false")
        if isinstance(self.default, int):
            try:
                return int(text, 0)
            except ValueError:
                raise ConfigError(
                    f"-P {self.name}={text}: allowed is a whole number ({self.allowed})"
                ) from None
        return text


@dataclass(frozen=True, kw_only=False)
class Timing:
    """One statement about a block's time.

    Attributes
    ----------
    what : str
        Latency or duration of what.
    formula : str
        In the block's parameters.
    cycles : int or None
        The formula for the parameters at hand.
    quoted : str
        The figure that the field quotes for the same, if there is one.
    """

    what: str
    formula: str
    cycles: int | None = None
    quoted: str = ""


@dataclass(frozen=True, kw_only=True)
class BlockSpec:
    """A block of the catalog.

    Attributes
    ----------
    name, title, summary : str
        As on the command line, as a heading, and in a sentence.
    parameters : tuple of Parameter
    build : callable
        Takes the parameters by name, gives the `Block`.
    timing : callable
        Takes the parameters by name, gives a list of `Timing`.
    formula : str or callable
        What it computes with which number formats: Markdown, or what makes it of the parameters.
    verified : str
        How that was verified: Markdown.
    stimulus : async callable
        A testbench for Amaranth's simulator, `(ctx, block, parameters)`, which drives the wave.
    signals : tuple of str
        Ports that the wave shows, all there with the default parameters.
    cycles : int
        Length of the wave.
    small : tuple of str
        Parameters (``key=value``) of an instance that open tools synthesise, place and route in
        seconds: the one whose resources and clock the page shows.
    presets : mapping
        Name -> parameters (``key=value``) of a shape that has a name.
    """

    name: str
    title: str
    summary: str
    parameters: tuple[Parameter, ...]
    build: Callable[..., Block]
    timing: Callable[..., list[Timing]]
    formula: str | Callable[..., str]
    verified: str
    stimulus: Callable[[Any, Any, dict[str, Any]], Any]
    signals: tuple[str, ...]
    cycles: int
    small: tuple[str, ...] = ()
    presets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def arguments(self, overrides: Sequence[str] = (), preset: str | None = None) -> dict[str, Any]:
        """The parameters: defaults, then the preset's, then `overrides` (texts ``key=value``).

        Raises
        ------
        ConfigError
            When preset or key is unknown or a value of another type.
        """
        if preset is not None:
            if preset not in self.presets:
                allowed = ", ".join(self.presets) or "none"
                raise ConfigError(
                    f"--preset {preset}: block '{self.name}' has no such preset; allowed: {allowed}"
                )
            overrides = (*self.presets[preset], *overrides)
        known = {parameter.name: parameter for parameter in self.parameters}
        values: dict[str, Any] = {name: one.default for name, one in known.items()}
        for override in overrides:
            key, equals, text = (part.strip() for part in override.partition("="))
            if not equals or not key:
                raise ConfigError(f"-P {override}: has to be of the form key=value")
            if key not in known:
                close = difflib.get_close_matches(key, known, 1)
                hint = f" (did you mean {close[0]}?)" if close else ""
                raise ConfigError(
                    f"-P {override}: block '{self.name}' has no parameter {key}{hint}; "
                    f"allowed: {', '.join(known)}"
                )
            values[key] = known[key].value(text)
        return values

    def formula_of(self, arguments: dict[str, Any]) -> str:
        """The formula for these parameters."""
        return self.formula if isinstance(self.formula, str) else self.formula(**arguments)

    def made(self, arguments: dict[str, Any]) -> Block:
        """The block with these parameters.

        Raises
        ------
        ConfigError
            When the block refuses them; the message is the block's.
        """
        try:
            return self.build(**arguments)
        except ValueError as error:
            raise ConfigError(f"block '{self.name}': {error}") from error

    def verilog(self, arguments: dict[str, Any]) -> dict[str, str]:
        """Verilog of the block and all below it, by module.

        Raises
        ------
        ConfigError
            When the block or one inside refuses the parameters; the message is its own.
        """
        block = self.made(arguments)
        try:
            return emit(block)
        except ValueError as error:
            # What was built so far is dropped on purpose.
            warnings.simplefilter("ignore", UnusedElaboratable)
            raise ConfigError(f"block '{self.name}': {error}") from error


def bit_table(fields: Iterable[tuple[str, int]], texts: Mapping[str, str] | None = None) -> str:
    """A word's fields from bit 0 on as Markdown, with what they are where `texts` are given."""
    head = ["bits", "field", *(() if texts is None else ("what",))]
    lines, at = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"], 0
    for name, bits in fields:
        cells = [f"{at + bits - 1}:{at}" if bits > 1 else f"{at}", f"`{name}`"]
        cells += [] if texts is None else [texts[name]]
        lines.append(f"| {' | '.join(cells)} |")
        at += bits
    return "\n".join(lines)
