"""Finds the blocks of the catalog."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from tokenloom.compiler.errors import ConfigError
from tokenloom.hw import catalog as package
from tokenloom.hw.catalog.spec import BlockSpec

__all__ = ["block_spec", "block_specs"]


@cache
def block_specs() -> dict[str, BlockSpec]:
    """Every block by name: each module of this package that has a `SPEC`."""
    found: dict[str, BlockSpec] = {}
    for info in sorted(iter_modules(package.__path__), key=lambda info: info.name):
        module = import_module(f"{package.__name__}.{info.name}")
        spec = getattr(module, "SPEC", None)
        if isinstance(spec, BlockSpec):
            if spec.name != info.name:
                raise ValueError(f"{info.name}.py has the block {spec.name!r}; names must agree")
            found[spec.name] = spec
    return found


def block_spec(name: str) -> BlockSpec:
    """The block of that name.

    Raises
    ------
    ConfigError
        When there is none.
    """
    specs = block_specs()
    if name not in specs:
        raise ConfigError(f"'{name}' is no block of the catalog; there are {', '.join(specs)}")
    return specs[name]
