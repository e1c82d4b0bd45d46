"""Reads a preset, takes the maxima from a model, applies overrides."""

import dataclasses
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenloom.compiler.errors import ConfigError
from tokenloom.hw.config.hardware import HardwareConfig
from tokenloom.hw.config.keys import build, check_keys, check_type, keys_of, unknown
from tokenloom.hw.config.sections import Maxima

if TYPE_CHECKING:
    from tokenloom.compiler.checkpoint import ModelShape

__all__ = ["PRESETS", "load", "presets"]

PRESETS = Path(__file__).resolve().parents[1] / "presets"


def presets() -> list[str]:
    """Names of the presets that come with tokenloom."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load(
    name_or_path: str | Path,
    overrides: Sequence[str] = (),
    maxima_from: "ModelShape | None" = None,
) -> HardwareConfig:
    """Read a preset, take the maxima from a model if one is given, apply overrides, validate.

    Parameters
    ----------
    name_or_path
        Name of a preset, or the path of a TOML file.
    overrides
        Texts of the form ``array.columns=8``; they win over file and model.
    maxima_from
        The model for which to build the chip. ``positions`` becomes the smaller one of model and
        preset, since the preset's is what the board has memory for.

    Raises
    ------
    ConfigError
        If the preset does not exist, or a key or value is wrong.
    """
    path = _find(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: is not a TOML file: {error}") from error

    places = {key: f"{path}:{line}:{column}: " for key, (line, column) in _places(text).items()}

    def where(key: str) -> str:
        return places.get(key, f"{path}: ")

    # Checked before the model and the overrides replace values, so that the file's errors show.
    check_keys(data, HardwareConfig, "", where)
    if maxima_from is not None:
        maxima = {
            field.name: int(getattr(maxima_from, field.name))
            for field in dataclasses.fields(Maxima)
        }
        maxima["positions"] = min(maxima["positions"], data["maxima"]["positions"])
        data["maxima"] = maxima
        places.update({f"maxima.{key}": f"{path}, sized for the model: " for key in maxima})
    for override in overrides:
        places[_apply(data, override)] = f"-P {override}: "
    return build(HardwareConfig, data, where)


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.suffix == ".toml" or len(path.parts) != 1:
        if not path.is_file():
            raise ConfigError(f"{path}: there is no such hardware file")
        return path
    if path.name not in presets():
        raise ConfigError(
            f"'{name_or_path}' is no hardware preset; there are {', '.join(presets())}, "
            "or give the path of a .toml file"
        )
    return PRESETS / f"{path.name}.toml"


def _places(text: str) -> dict[str, tuple[int, int]]:
    """Line and column of each key, as far as a scan of the lines finds it."""
    found: dict[str, tuple[int, int]] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+\s*([\w.\-\"']+)\s*\]", line):
            section = header[1].replace('"', "") + "."
            found.setdefault(section[:-1], (number, header.start(1) + 1))
        elif pair := re.match(r"\s*([\w.\-\"']+)\s*=", line):
            found.setdefault(section + pair[1].replace('"', ""), (number, pair.start(1) + 1))
    return found


def _apply(data: dict[str, Any], override: str) -> str:
    """Set one value; return its key."""
    key, equals, text = (part.strip() for part in override.partition("="))
    if not equals or not key:
        raise ConfigError(f"-P {override}: has to be of the form key=value, as array.columns=8")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text

    def where(_: str) -> str:
        return f"-P {override}: "

    *sections, last = key.split(".")
    kind: type = HardwareConfig
    node = data
    prefix = ""
    for section in sections:
        known = keys_of(kind)
        if not dataclasses.is_dataclass(known.get(section)):
            unknown(prefix + section, section, kind, where)
        kind, node = known[section], node.setdefault(section, {})
        prefix += section + "."
    known = keys_of(kind)
    if last not in known:
        unknown(key, last, kind, where)
    check_type(key, value, known[last], where)
    node[last] = value
    return key
