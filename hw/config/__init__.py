"""Hardware configuration: one frozen tree of dataclasses, derived and validated in one place.

A chip is generated for a board and for *maxima*; a model's dimensions are program data below them.
Presets are TOML files in ``hw/presets``; `load` reads one, applies overrides and validates.
"""

from tokenloom.hw.config.hardware import HardwareConfig
from tokenloom.hw.config.preset_files import load, presets
from tokenloom.hw.config.sections import (
    ArrayConfig,
    BoardConfig,
    BoardMemory,
    BoardResources,
    Maxima,
    MemoryConfig,
    SamplerConfig,
)

__all__ = [
    "ArrayConfig",
    "BoardConfig",
    "BoardMemory",
    "BoardResources",
    "HardwareConfig",
    "Maxima",
    "MemoryConfig",
    "SamplerConfig",
    "load",
    "presets",
]
