"""How control, array and operand buffers belong together, wherever a block has all three."""

from __future__ import annotations

from amaranth.hdl import Module

from tokenloom.hw.array.array import Array
from tokenloom.hw.array.array_control import ArrayControl
from tokenloom.hw.array.operand_buffer import OperandBuffer

__all__ = ["connect_control", "connect_operands"]


def connect_control(m: Module, control: ArrayControl, array: Array) -> None:
    """Everything that the control says to the array."""
    for name in ("take", "stage", "first", "bank", "slot", "read_bank", "read_slot", "load", "step",
                 "select"):  # fmt: skip
        m.d.comb += getattr(array, name).eq(getattr(control, name))


def connect_operands(
    m: Module, control: ArrayControl, buffer: OperandBuffer, array: Array, *, row: int
) -> None:
    """Row number `row`: what the control reads from its buffer, and the array's operand."""
    for name in ("addr", "values", "digit", "mask"):
        port = getattr(buffer, f"read_{name}")
        # The control's addresses may be wider than this buffer's.
        source = getattr(control, f"x_{name}")
        size = len(source) // len(control.x_values)
        m.d.comb += port.eq(source[size * row : size * (row + 1)])
    for name in ("x_codes", "x_shift", "x_sum"):
        part = getattr(buffer, name)
        m.d.comb += getattr(array, name).word_select(row, len(part)).eq(part)
