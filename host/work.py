"""What a pass does, for the roofline: multiplications and bytes, derived from the model's shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tokenloom.compiler.estimate import pass_words, weights_per_token
from tokenloom.compiler.image import plan
from tokenloom.hw.numbers.formats import BLOCK

if TYPE_CHECKING:
    from tokenloom.compiler.quantise import QuantModel
    from tokenloom.hw.config import HardwareConfig
    from tokenloom.sim.chip_device import PassRecord

__all__ = ["pass_work", "roof"]


def pass_work(
    model: QuantModel, hardware: HardwareConfig
) -> Callable[[PassRecord], dict[str, int]]:
    """A function that gives a pass's work.

    Its result has ``macs``, the multiplications that the model needs (each row with each weight,
    and with the K and V that it sees), and ``bytes``, what all channels together deliver: the
    tapes with their scales and padding, and the filled part of the KV pages.
    """
    image, shape = plan(model, hardware), model.shape
    word = hardware.memory.port_bits // 8
    attention = 2 * shape.layers * shape.heads * shape.head_size  # per row and position it sees

    def work(record: PassRecord) -> dict[str, int]:
        length = record.pos + record.rows
        seen = sum(range(record.pos + 1, length + 1))
        weights = weights_per_token(shape, head=record.sample)
        words = pass_words(hardware, image, length=length, sample=record.sample)
        return {
            "macs": record.rows * weights + attention * seen,
            "bytes": round(words * word * hardware.array.columns),
        }

    return work


def roof(hardware: HardwareConfig) -> dict[str, int]:
    """The two bounds of a pass: the array's multiplications, the memory ports' bytes, per cycle."""
    array = hardware.array
    return {
        "rows": array.rows,
        "macs_per_cycle": array.rows * array.columns * BLOCK * hardware.blocks_per_beat,
        "bytes_per_cycle": array.columns * hardware.memory.port_bits // 8,
    }
