"""Verilog that shows a kernel's ports as a card's, so that one harness serves both."""

from __future__ import annotations

from amaranth.lib.wiring import In

from tokenloom.hw.card.axi_lite import AXI_LITE
from tokenloom.hw.card.kernel import CONTROL_BUS, Kernel, axi_ports
from tokenloom.hw.card.kernel_map import bus
from tokenloom.hw.config import HardwareConfig
from tokenloom.hw.verilog.block import Block

__all__ = ["ADAPTER", "kernel_adapter", "simulated_base"]

ADAPTER = "kernel_adapter"
"""The module's name."""

# The card's port -> the kernel's, of those that are not called alike.
_NAMES = {"w_strobe": "wstrb"}


def simulated_base(channel: int) -> int:
    """Where a channel's buffer lies in the simulated card's memory: another place for each."""
    return (channel + 1 << 40) + 0x5000 * (channel + 3)


def kernel_adapter(card: Block, hardware: HardwareConfig) -> str:
    """A module with `card`'s ports that has the kernel in it.

    An address outside the channel's buffer becomes the channel's highest, which the harness takes
    for one outside the memory.
    """
    columns = hardware.array.columns
    declared = ["  input wire clk", "  input wire rst"]
    wires, pins = [], [".ap_clk(clk)", ".ap_rst_n(~rst)", ".interrupt(interrupt)"]
    lines = ["  wire interrupt;"]
    ports = card.flat_ports()
    for name, (value, flow) in ports.items():
        span = f"[{len(value) - 1}:0] " if len(value) > 1 else ""
        declared.append(f"  {'input' if flow is In else 'output'} wire {span}{name}")
        if flow is not In and name in ("startable", "idle", "waiting"):
            lines.append(f"  assign {name} = 0;")
    pins += [f".{name.replace('s_axi', CONTROL_BUS)}({name})" for name in AXI_LITE]
    for c in range(columns):
        for name, (driven, bits) in axi_ports(hardware.memory.port_bits).items():
            wire = f"{bus(c)}_{name}"
            wires.append(f"  wire [{bits - 1}:0] {wire};")
            pins.append(f".{wire}({wire})")
            if not driven and name in ("rid", "bid"):
                lines.append(f"  assign {wire} = 0;")
        for name, (value, flow) in ports.items():
            if name in (*AXI_LITE, "go", "startable", "idle", "waiting"):
                continue
            bits = len(value) // columns
            part = f"{name}[{bits * c} +: {bits}]"
            theirs = f"{bus(c)}_{_NAMES.get(name, name.replace('_', ''))}"
            if flow is In:
                lines.append(f"  assign {theirs} = {part};")
            elif name == "w_id":
                lines.append(f"  assign {part} = 0;")
            elif name.endswith("_addr"):
                offset = f"{name}_offset{c}"
                lines += [
                    f"  wire [63:0] {offset} = {theirs} - 64'd{simulated_base(c)};",
                    f"  assign {part} = {offset}[63:{bits}] == 0 ? {offset}[{bits - 1}:0] : "
                    f"{{{bits}{{1'b1}}}};",
                ]
            elif name.endswith("_id"):
                lines.append(f"  assign {part} = {{{bits - 1}'d0, {theirs}}};")
            elif name.endswith("_len"):
                lines.append(f"  assign {part} = {theirs}[{bits - 1}:0];")
            else:
                lines.append(f"  assign {part} = {theirs};")
    return "\n".join(
        [f"module {ADAPTER}(", ",\n".join(declared), ");", *wires, *lines,
         f"  {Kernel.module_name} kernel (", ",\n".join(f"    {pin}" for pin in pins), "  );",
         "endmodule", ""]
    )  # fmt: skip
