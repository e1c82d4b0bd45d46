"""What the vendor's linker and runtime have to know of the kernel: kernel.xml and link.cfg."""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

from tokenloom.hw.card.kernel import CONTROL_BUS, Kernel
from tokenloom.hw.card.kernel_map import argument, bus, kernel_registers
from tokenloom.hw.card.register_map import ADDRESS_BITS, by_name
from tokenloom.hw.config import HardwareConfig

__all__ = ["UNIT", "kernel_xml", "link_cfg"]

UNIT = f"{Kernel.module_name}_1"
"""The kernel's only instance (compute unit) in a platform."""


def _tag(tag: str, **attributes: object) -> str:
    told = " ".join(f"{key}={quoteattr(str(value))}" for key, value in attributes.items())
    return f"<{tag} {told}/>"


def kernel_xml(hardware: HardwareConfig, version: str) -> str:
    """Ports and arguments, at the offsets of the register table."""
    columns = hardware.array.columns
    table = by_name(kernel_registers(columns))
    ports = [
        _tag("port", name=CONTROL_BUS, mode="slave", range=f"{1 << ADDRESS_BITS:#x}",
             dataWidth=32, portType="addressable", base="0x0"),
        *(_tag("port", name=bus(c), mode="master", range="0xFFFFFFFFFFFFFFFF",
               dataWidth=hardware.memory.port_bits, portType="addressable", base="0x0")
          for c in range(columns)),
    ]  # fmt: skip
    args = [
        _tag("arg", name=argument(c), addressQualifier=1, id=c, port=bus(c), size="0x8",
             offset=f"{table[f'{argument(c).upper()}_LOW'].offset:#x}", hostOffset="0x0",
             hostSize="0x8", type="void*")
        for c in range(columns)
    ]  # fmt: skip
    name = Kernel.module_name
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            '<root versionMajor="1" versionMinor="6">',
            f'  <kernel name="{name}" language="ip_c" vlnv="tokenloom:kernel:{name}:{version}" '
            'attributes="" preferredWorkGroupSizeMultiple="0" workGroupSize="1" interrupt="true" '
            'hwControlProtocol="ap_ctrl_hs">',
            "    <ports>",
            *(f"      {port}" for port in ports),
            "    </ports>",
            "    <args>",
            *(f"      {arg}" for arg in args),
            "    </args>",
            "  </kernel>",
            "</root>",
            "",
        ]
    )


def link_cfg(hardware: HardwareConfig, hook: str | None) -> str:
    """Options of `v++ --link`: one instance, each memory port 1:1 on its channel.

    Parameters
    ----------
    hardware : HardwareConfig
    hook : str or None
        Tcl that Vivado runs before placing, relative to the folder where v++ is started.
    """
    board = hardware.board
    name, memory = Kernel.module_name, board.memory
    lines = [
        f"platform={board.platform}",
        "",
        "[connectivity]",
        f"nk={name}:1:{UNIT}",
        *(f"sp={UNIT}.{argument(c)}:{memory.tag.format(n=c % memory.channels)}"
          for c in range(hardware.array.columns)),
    ]  # fmt: skip
    if board.resources.slrs > 1:
        lines += [
            "# No slr= line: it would put the whole kernel into one die; the hook below has a line",
            "# for each of its pieces.",
        ]
    lines += ["", "[clock]", f"freqHz={round(board.clock_mhz * 1e6)}:{UNIT}.ap_clk"]
    if hook is not None:
        lines += ["", "[vivado]", f"prop=run.impl_1.STEPS.PLACE_DESIGN.TCL.PRE={hook}"]
    return "\n".join(lines) + "\n"
