"""What runs a model: the verilated chip or the golden model, behind one interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from tokenloom.compiler.errors import TokenloomError
from tokenloom.sim.request import GREEDY, Sampling

if TYPE_CHECKING:
    from tokenloom.compiler.program import Program
    from tokenloom.compiler.quantise import QuantModel
    from tokenloom.hw.config import HardwareConfig
    from tokenloom.sim.chip_device import PassRecord

__all__ = ["DEVICES", "Device", "open_device"]

Step = Callable[[str], None]


def _no_step(title: str) -> None:
    pass


class Device(Protocol):
    """Takes a prompt and gives the passes of its answer.

    Attributes
    ----------
    name : str
        As on the command line.
    timed : bool
        Whether its records hold clock cycles.
    model : QuantModel
    hardware : HardwareConfig
    program : Program
        What the chip plays, for predictions.
    """

    name: str
    timed: bool
    model: QuantModel
    hardware: HardwareConfig
    program: Program

    def generate(
        self,
        prompt: Sequence[int],
        new: int,
        eos: Sequence[int] = (),
        *,
        sampling: Sampling = GREEDY,
    ) -> Iterator[PassRecord]:
        """Play a prompt, then sample up to `new` tokens or to one of `eos`; one record a pass.

        Raises
        ------
        TokenloomError
            If the prompt is empty, or it and the new tokens exceed the context.
        """
        ...

    def close(self) -> None:
        """Free what the device holds."""
        ...


DEVICES = ("verilator", "golden")
"""Names that `open_device` knows."""


def open_device(
    name: str,
    model: QuantModel,
    hardware: HardwareConfig,
    step: Step = _no_step,
    memory: str = "ideal",
    memory_seed: int = 1,
    guided: bool = False,
) -> Device:
    """Make a device and load the model into it.

    Parameters
    ----------
    name : str
        One of `DEVICES`.
    model : QuantModel
    hardware : HardwareConfig
    step : callable
        Told what happens next.
    memory, memory_seed, guided
        As for `ChipDevice`; the golden model has none.

    Raises
    ------
    TokenloomError
        If there is no such device, or the model does not fit the hardware.
    """
    if name == "verilator":
        from tokenloom.sim.chip_device import ChipDevice

        return ChipDevice(model, hardware, step, memory, memory_seed, guided=guided)
    if name == "golden":
        from tokenloom.host.golden_device import GoldenDevice

        return GoldenDevice(model, hardware, step)
    raise TokenloomError(f"no device {name!r}; allowed are {', '.join(DEVICES)}")
