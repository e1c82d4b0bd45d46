"""Nested data become a tree of dataclasses; a wrong key or type is named, with its place."""

import dataclasses
import difflib
import typing
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from tokenloom.compiler.errors import ConfigError

__all__ = ["build", "check_keys", "check_type", "keys_of", "unknown"]

_Tree = TypeVar("_Tree")


def build(
    kind: type[_Tree], data: Mapping[str, Any], where: Callable[[str], str] = lambda key: ""
) -> _Tree:
    """The tree whose root is dataclass `kind`; `where` says in which place a key stands.

    Raises
    ------
    ConfigError
        If a key is unknown, missing or of another type, or the tree does not allow a value.
    """
    check_keys(data, kind, "", where)
    try:
        tree: _Tree = _instance(kind, data)
        return tree
    except ConfigError as error:
        key = str(error).split(" ", 1)[0]
        raise ConfigError(f"{where(key)}{error}") from None


def keys_of(kind: type) -> dict[str, type]:
    """Keys of a dataclass, and their types."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def check_keys(
    data: Mapping[str, Any], kind: type, prefix: str, where: Callable[[str], str]
) -> None:
    """Raise ConfigError unless `data` has the keys of `kind`, with values of their types."""
    known = keys_of(kind)
    for key, value in data.items():
        if key not in known:
            unknown(prefix + key, key, kind, where)
        check_type(prefix + key, value, known[key], where)
    for field in dataclasses.fields(kind):
        if field.name not in data and field.default is dataclasses.MISSING:
            place = where(prefix.rstrip("."))
            raise ConfigError(f"{place}the key {prefix}{field.name} is missing")


def check_type(key: str, value: Any, kind: type, where: Callable[[str], str]) -> None:
    """Raise ConfigError unless a key's value is of its type."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where(key)}{key} has to be a section, not {_show(value)}")
        check_keys(value, kind, key + ".", where)
        return
    good: tuple[type, ...] = (int, float) if kind is float else (kind,)
    if isinstance(value, bool) or not isinstance(value, good):
        name = {int: "a whole number", float: "a number", str: "a text"}[kind]
        raise ConfigError(f"{where(key)}{key} has to be {name}, not {_show(value)}")


def _show(value: Any) -> str:
    return f"the section {{{', '.join(value)}}}" if isinstance(value, Mapping) else repr(value)


def unknown(key: str, last: str, kind: type, where: Callable[[str], str]) -> NoReturn:
    """Raise ConfigError for a key that `kind` has not."""
    allowed = list(keys_of(kind))
    close = difflib.get_close_matches(last, allowed, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ConfigError(f"{where(key)}unknown key {key}{hint}; allowed: {', '.join(allowed)}")


def _instance(kind: type, data: Mapping[str, Any]) -> Any:
    """An instance of dataclass `kind` from data that `check_keys` has seen."""
    values: dict[str, Any] = {}
    for key, inner in keys_of(kind).items():
        if key not in data:
            continue
        if dataclasses.is_dataclass(inner):
            values[key] = _instance(inner, data[key])
        else:
            values[key] = float(data[key]) if inner is float else data[key]
    return kind(**values)
