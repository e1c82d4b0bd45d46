"""The base of every hardware block, and the library that turns blocks into Verilog files.

A `Block` is a `wiring.Component` that becomes exactly one Verilog module, however many instances
a chip has. A parent uses a child through `instance(child, en=...)`, which leaves an `Instance` in
the parent, and `emit` converts every distinct block once.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar

from amaranth.back import rtlil
from amaranth.hdl import (
    ClockSignal,
    Elaboratable,
    EnableInserter,
    Instance,
    Module,
    ResetInserter,
    ResetSignal,
    Signal,
    Value,
)
from amaranth.lib import wiring

from tokenloom.hw.verilog.rtlil_text import to_verilog
from tokenloom.hw.verilog.verilog_text import tidy

__all__ = ["Block", "emit", "instance"]


class Block(wiring.Component):
    """A component that is emitted as its own Verilog module.

    Parameters
    ----------
    signature : wiring.Signature or dict
        The ports.
    params : tuple
        Everything that the module's text depends on. Two blocks of one name must agree in it.

    Members
    -------
    en : In(1), only when `belt` is true
        The belt's enable: in a cycle with `en` low no register and no memory of the block changes.
    """

    belt: ClassVar[bool] = True
    # Amaranth: no complaint about a block that was refused, or measured but never emitted.
    _MustUse__silence = True
    module_name: str

    def __init__(self, signature: Any, *, params: tuple[Any, ...] = ()) -> None:
        super().__init__(signature)
        self.params = params
        self.en = Signal()
        if not hasattr(self, "module_name"):
            self.module_name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    def flat_ports(self) -> dict[str, tuple[Value, wiring.Flow]]:
        """Name -> (signal, direction) of every port but clock, reset and enable."""
        ports = {}
        for path, member, value in self.signature.flatten(self):
            ports["__".join(str(part) for part in path)] = (Value.cast(value), member.flow)
        return ports


@dataclass
class _Library:
    """The blocks met while Verilog is being made."""

    blocks: dict[str, Block] = field(default_factory=dict)

    def add(self, block: Block) -> None:
        known = self.blocks.setdefault(block.module_name, block)
        if known.params != block.params or type(known) is not type(block):
            raise ValueError(
                f"two different blocks are named {block.module_name!r}: {known.params} and "
                f"{block.params}; give one of them its own module_name"
            )


_current: ContextVar[_Library | None] = ContextVar("library", default=None)


class _Placed(Elaboratable):
    def __init__(self, block: Block, en: Value | None, reset: Value | None) -> None:
        self._block, self._en, self._reset = block, en, reset

    def elaborate(self, platform: object) -> Elaboratable:
        block = self._block
        if block.belt and self._en is None:
            raise ValueError(f"{block.module_name} is a belt block: say which enable drives it")
        library = _current.get()
        if library is None:
            return self._in_place()
        library.add(block)
        reset = ResetSignal() if self._reset is None else self._reset
        ports: dict[str, Any] = {"i_clk": ClockSignal(), "i_rst": reset}
        if block.belt:
            ports["i_en"] = self._en
        for name, (value, flow) in block.flat_ports().items():
            ports[("i_" if flow is wiring.In else "o_") + name] = value
        return Instance(block.module_name, **ports)

    def _in_place(self) -> Elaboratable:
        """The block itself, for Amaranth's own simulator, which knows no instances."""
        design: Any = self._block
        if self._reset is not None:
            design = ResetInserter({"sync": self._reset})(design)
        m = Module()
        if self._block.belt:
            m.d.comb += self._block.en.eq(self._en)
            design = EnableInserter({"sync": self._block.en})(design)
        m.submodules.block = design
        return m


def instance(block: Block, *, en: Value | None = None, reset: Value | None = None) -> Elaboratable:
    """Place `block` in a parent: `m.submodules.pe = instance(pe, en=self.en)`.

    The parent connects to the block's own port signals. `reset` takes the place of the domain's
    reset in the block and all below it; memories keep what they hold.
    """
    return _Placed(block, en, reset)


def _convert(block: Block) -> str:
    ports: dict[str, Any] = {n: (v, None) for n, (v, _) in block.flat_ports().items()}
    # clk and rst are ports of every block, so that a parent may connect them blindly.
    design: Any = block
    if block.belt:
        ports["en"] = (block.en, None)
        design = EnableInserter({"sync": block.en})(block)
    text = to_verilog(rtlil.convert(design, name=block.module_name, ports=ports, emit_src=False))
    # Whoever connects the module by hand must not have to know that escape.
    if escaped := [name for name in (block.module_name, *ports) if f"\\{name} " in text]:
        raise ValueError(
            f"{block.module_name}: names that Verilog keeps for itself: {', '.join(escaped)}"
        )
    return tidy(text)


def emit(*tops: Block) -> dict[str, str]:
    """Verilog text of `tops` and of every block below them, by module name.

    Raises
    ------
    ValueError
        When two blocks of one name differ in their parameters, or a block's or a port's name is a
        keyword.
    """
    library = _Library()
    for top in tops:
        library.add(top)
    done: dict[str, str] = {}
    token = _current.set(library)
    try:
        while pending := [b for name, b in library.blocks.items() if name not in done]:
            for block in pending:
                done[block.module_name] = _convert(block)
    finally:
        _current.reset(token)
    return done
