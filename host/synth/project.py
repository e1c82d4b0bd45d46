"""The files of a vendor project: what Vivado, v++ and FuseSoC read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenloom.compiler.errors import TokenloomError
from tokenloom.host.synth.constraints import (
    clock_xdc,
    crossings_xdc,
    hook_tcl,
    placement_xdc,
)
from tokenloom.host.synth.fit import Fit
from tokenloom.host.synth.kernel_xml import UNIT, kernel_xml, link_cfg
from tokenloom.host.synth.placement import placement
from tokenloom.hw.card.identity import Identity
from tokenloom.hw.card.kernel import CONTROL_BUS, Kernel
from tokenloom.hw.card.kernel_map import bus, kernel_registers
from tokenloom.hw.card.register_texts import c_header, kernel_header, kernel_markdown, markdown
from tokenloom.hw.config import HardwareConfig
from tokenloom.sim.toolchain import WAIVED

__all__ = ["check_board", "commands", "project_files"]

_TEMPLATES = Path(__file__).with_name("templates")
_HOOK = "scripts/place_link.tcl"
TOP = Kernel.module_name


def check_board(hardware: HardwareConfig) -> None:
    """Raise TokenloomError unless the board is a card with a vendor's platform."""
    board = hardware.board
    if not board.platform or not board.memory.tag:
        raise TokenloomError(
            f"board '{hardware.name}' has no vendor platform (board.platform and "
            "board.memory.tag); allowed are u280, u55c, vck5000, or a TOML file of a board with "
            "both"
        )


def _tcl_list(name: str, values: Sequence[str]) -> str:
    return f"set {name} {{\n" + "".join(f"    {value}\n" for value in values) + "}\n"


def _project_tcl(hardware: HardwareConfig, sources: Sequence[str], version: str) -> str:
    board = hardware.board
    return "".join(
        [
            "# What the scripts beside this file work on.\n",
            f"set top {TOP}\n",
            f"set version {version}\n",
            f"set part {board.part}\n",
            f"set platform {board.platform}\n",
            f"set clock_mhz {board.clock_mhz:g}\n",
            _tcl_list("sources", sources),
            "# Everywhere, and only where the kernel is built alone.\n",
            _tcl_list("constraints", ["constraints/crossings.xdc"]),
            _tcl_list("alone", ["constraints/clock.xdc", "constraints/placement.xdc"]),
            _tcl_list("buses", [CONTROL_BUS, *map(bus, range(hardware.array.columns))]),
        ]
    )


def _core(hardware: HardwareConfig, sources: Sequence[str], version: str) -> str:
    """FuseSoC's description (CAPI2); JSON strings are YAML strings."""
    files = "\n".join(f"      - {json.dumps(source)}" for source in sources)
    # The vendor fixes the name of the port `interrupt`, a word of C++'s.
    waived = ", ".join(json.dumps(f"-Wno-{name}") for name in (*WAIVED, "SYMRSVDWORD"))
    return f"""CAPI=2:
name: "tokenloom:kernel:{hardware.name}:{version}"
description: "tokenloom's inference chip for {hardware.board.name}, as a Vitis RTL kernel"

filesets:
  rtl:
    files:
{files}
    file_type: verilogSource
  constraints:
    files:
      - "constraints/clock.xdc"
      - "constraints/crossings.xdc"
      - "constraints/placement.xdc"
    file_type: xdc

targets:
  default: &default
    filesets: [rtl]
    toplevel: {TOP}
  lint:
    <<: *default
    description: "Verilator's warnings, all but the classes that the generator's text brings along"
    flow: lint
    flow_options:
      tool: verilator
      verilator_options: ["-Wall", {waived}]
  vivado:
    <<: *default
    description: "A Vivado project of the kernel alone"
    filesets: [rtl, constraints]
    flow: vivado
    flow_options:
      part: "{hardware.board.part}"
"""


def commands(hardware: HardwareConfig) -> dict[str, list[str]]:
    """Target of the project's Makefile -> the command that it runs."""
    batch = ["vivado", "-mode", "batch", "-nojournal"]
    found = {
        "alone": [*batch, "-log", "flow.log", "-source", "scripts/flow.tcl"],
        "xo": [*batch, "-log", "package.log", "-source", "scripts/package.tcl"],
        "link": ["v++", "--link", "--target", "hw", "--config", "link.cfg", "--save-temps",
                 "-o", f"{TOP}.{_linked(hardware)}", f"{TOP}.xo"],
    }  # fmt: skip
    if _versal(hardware):
        found["xclbin"] = ["v++", "--package", "--target", "hw", "--platform",
                           hardware.board.platform, "--package.boot_mode=ospi",
                           "-o", f"{TOP}.xclbin", f"{TOP}.xsa"]  # fmt: skip
    return found


def _versal(hardware: HardwareConfig) -> bool:
    return hardware.board.part.startswith("xcv")


def _linked(hardware: HardwareConfig) -> str:
    return "xsa" if _versal(hardware) else "xclbin"


def _makefile(hardware: HardwareConfig) -> str:
    steps = commands(hardware)
    before = {"link": "xo", "xclbin": "link"}
    lines = [
        f"# {hardware.board.name}: `make alone` builds the kernel alone, `make` all for the card.",
        "all: " + list(steps)[-1],
        "",
        ".PHONY: all " + " ".join(steps),
    ]
    for target, command in steps.items():
        lines += ["", f"{target}: {before.get(target, '')}".rstrip(), "\t" + " ".join(command)]
    return "\n".join(lines) + "\n"


def _readme(hardware: HardwareConfig, found: Fit) -> str:
    board = hardware.board
    rows = [
        f"| {name.replace('_', ' ')} | {getattr(found.used, name):,.0f} | "
        f"{getattr(found.left, name):,.0f} | {share:.0%} |"
        for name, share in found.shares().items()
    ]
    dies = [
        f"| SLR{die} | " + " | ".join(f"{share:.0%}" for share in shares.values()) + " |"
        for die, shares in found.die_shares().items()
    ]
    names = list(found.shares())
    table = ["", f"| die | {' | '.join(n.replace('_', ' ') for n in names)} |",
             "|" + "---|" * (len(names) + 1), *dies] if dies else []  # fmt: skip
    older = (
        ["", "Estimated from an older text, memories' sizes derived: " + ", ".join(found.older)]
        if found.older
        else []
    )
    if found.unknown:
        older += [
            "",
            "Not estimated, and not counted but for memories: " + ", ".join(found.unknown),
        ]
    return "\n".join(
        [
            f"# {board.name}",
            "",
            f"Written by `tokenloom synth`. Part {board.part}, platform {board.platform}, "
            f"{board.clock_mhz:g} MHz asked for. Needs the vendor's tools:",
            "",
            *(f"* `make {target}`: `{' '.join(command)}`"
              for target, command in commands(hardware).items()),
            "",
            "Nothing here has been run by the vendor's tools yet.",
            "",
            "Taken: Yosys estimates per block, times instances. There: what the shell leaves.",
            "",
            "| resource | taken | there | share |",
            "|---|---|---|---|",
            *rows,
            *table,
            *older,
            "",
        ]
    )  # fmt: skip


def project_files(
    hardware: HardwareConfig, texts: Mapping[str, str], identity: Identity, found: Fit
) -> dict[str, str]:
    """Path in the project -> text, of every file."""
    sources = [f"rtl/{name}.v" for name in sorted(texts)]
    pieces = placement(texts, TOP, hardware.board.resources.slrs)
    channels = hardware.array.columns
    files = {f"rtl/{name}.v": text for name, text in texts.items()}
    files |= {
        "kernel.xml": kernel_xml(hardware, identity.version),
        "link.cfg": link_cfg(hardware, _HOOK if pieces else None),
        "Makefile": _makefile(hardware),
        "README.md": _readme(hardware, found),
        f"{TOP}.core": _core(hardware, sources, identity.version),
        "tokenloom_registers.h": c_header(),
        "tokenloom_kernel.h": kernel_header(kernel_registers(channels)),
        "registers.md": kernel_markdown(kernel_registers(channels)) + "\n" + markdown(),
        "constraints/clock.xdc": clock_xdc(1000 / hardware.board.clock_mhz),
        "constraints/crossings.xdc": crossings_xdc(),
        "constraints/placement.xdc": placement_xdc(pieces),
        "scripts/project.tcl": _project_tcl(hardware, sources, identity.version),
    }
    if pieces:
        files[_HOOK] = hook_tcl(pieces, UNIT)
    for name in ("flow.tcl", "package.tcl"):
        files[f"scripts/{name}"] = (_TEMPLATES / name).read_text()
    return files
