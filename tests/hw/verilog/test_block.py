"""What `emit` refuses."""

from __future__ import annotations

import pytest
from amaranth.hdl import Module
from amaranth.lib.wiring import In, Out

from tokenloom.hw.verilog.block import Block, emit


class Follower(Block):
    """The output is the input, one cycle later."""

    def __init__(self, output: str, *params: int) -> None:
        super().__init__({"given": In(1), output: Out(1)}, params=params)
        self._output = output

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += getattr(self, self._output).eq(self.given)
        return m


def test_a_port_or_module_is_no_keyword() -> None:
    """Yosys would escape it, and who connects the module by hand would have to know that."""
    context = Follower("taken")
    context.module_name = "context"
    with pytest.raises(ValueError, match="context: names that Verilog keeps .*: context$"):
        emit(context)
    assert "output taken" in emit(Follower("taken"))["follower"]
    for name in ("final", "output", "always"):
        with pytest.raises(ValueError, match=f"follower: names that Verilog keeps .*: {name}$"):
            emit(Follower(name))


def test_one_name_is_one_text() -> None:
    with pytest.raises(ValueError, match="follower"):
        emit(Follower("taken", 1), Follower("taken", 2))
