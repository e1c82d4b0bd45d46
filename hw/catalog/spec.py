"""What the catalog knows of a block that is worth using alone."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenloom.compiler.errors import ConfigError
from tokenloom.hw.verilog.block import Block

__all__ = ["BlockSpec", "Parameter", "Timing"]


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
    formula, verified : str
        What it computes with which number formats, and how that was verified: Markdown.
    stimulus : async callable
        A testbench for Amaranth's simulator, `(ctx, block, parameters)`, which drives the wave.
    signals : tuple of str
        Ports that the wave shows.
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
    formula: str
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
