"""Every block of the catalog: parameters, ports, wave, page."""

import json
import re
from pathlib import Path

import pytest
from amaranth.hdl import Module
from amaranth.lib.wiring import In, Out

from tokenloom.compiler.errors import ConfigError
from tokenloom.hw.catalog.catalog import block_spec, block_specs
from tokenloom.hw.catalog.page import page
from tokenloom.hw.catalog.ports import port_table
from tokenloom.hw.catalog.spec import BlockSpec, Parameter, Timing
from tokenloom.hw.catalog.wave import draw, simulate, wavedrom_source
from tokenloom.hw.verilog.block import Block, emit, instance


class Inner(Block):
    """Adds one.

    Members
    -------
    a : In(8); b : Out(8), the sum
    """

    def __init__(self):
        super().__init__({"a": In(8), "b": Out(8)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.b.eq(self.a + 1)
        return m


class Outer(Block):
    """Two in a row, which a reset of its own clears.

    Members
    -------
    a : In(8)
        A number
        of eight bits.
    clear : In(1), spare : In(2)
        Clears the second.
    out_* : Out(range(256)), what comes out
    """

    def __init__(self, *, depth: int):
        if depth != 2:
            raise ValueError(f"depth is {depth}; allowed: 2")
        super().__init__(
            {"a": In(8), "clear": In(1), "spare": In(2), "out_b": Out(8)}, params=(depth,)
        )

    def elaborate(self, platform):
        m = Module()
        first, second = Inner(), Inner()
        m.submodules.first = instance(first, en=self.en)
        m.submodules.second = instance(second, en=self.en, reset=self.clear)
        m.d.comb += [first.a.eq(self.a), second.a.eq(first.b), self.out_b.eq(second.b)]
        return m


async def stimulus(ctx, block, parameters):
    assert parameters == {"depth": 2}
    for value in (5, 9):
        ctx.set(block.a, value)
        await ctx.tick()
    ctx.set(block.clear, 1)
    await ctx.tick()
    ctx.set(block.clear, 0)
    ctx.set(block.en, 0)


def spec(**changed):
    given = dict(
        name="outer",
        title="Outer",
        summary="Adds two.",
        parameters=(Parameter("depth", 2, "2", "How many."),),
        build=Outer,
        timing=lambda *, depth: [Timing("latency", "depth", depth, "3")],
        formula="a + 2",
        verified="Here.",
        stimulus=stimulus,
        signals=("a", "out_b"),
        cycles=6,
    )
    return BlockSpec(**{**given, **changed})


def test_a_wave_is_simulated_below_instances():
    """Enable and a reset of its own reach a block in a block."""
    seen = simulate(spec(), {"depth": 2})
    assert seen["a"] == [5, 9, 9, 9, 9, 9]
    # 6 and 7 behind the registers; the clear; then the enable is low.
    assert seen["out_b"] == [0, 1, 7, 0, 0, 0]


def test_wave_source_and_drawing():
    source = json.loads(wavedrom_source(spec(), {"depth": 2}))
    lanes = {lane["name"]: lane for lane in source["signal"]}
    assert lanes["a"] == {"name": "a", "wave": "==....", "data": ["5", "9"]}
    assert len(lanes["clk"]["wave"]) == 6
    drawing = draw(wavedrom_source(spec(), {"depth": 2}))
    assert drawing.startswith("<svg") and "out_b" in drawing
    with pytest.raises(ValueError, match="no port 'c'"):
        simulate(spec(signals=("c",)), {"depth": 2})


def test_port_table():
    found = {port.name: port for port in port_table(Outer(depth=2))}
    assert list(found) == ["clk", "rst", "en", "a", "clear", "spare", "out_b"]
    assert (found["a"].direction, found["a"].bits, found["a"].text) == (
        "in", 8, "A number of eight bits.")  # fmt: skip
    assert found["clear"].text == found["spare"].text == "Clears the second."
    assert (found["out_b"].direction, found["out_b"].text) == ("out", "what comes out")
    assert {port.name: port.text for port in port_table(Inner())}["b"] == "the sum"


def test_page():
    text = page(spec(), {"depth": 2}, "Small.")
    for part in ("| `depth` | 2 | 2 | 2 | How many. |", "| latency | depth | 2 | 3 |", "a + 2",
                 "| `out_b` | out | 8 | what comes out |", "## Resources\n\nSmall."):  # fmt: skip
        assert part in text
    assert "Resources" not in page(spec(), {"depth": 2})


@pytest.mark.parametrize(
    "override, text",
    [
        ("depht=2", "did you mean depth"),
        ("depth=x", "allowed is a whole number"),
        ("depth", "of the form key=value"),
    ],
)
def test_wrong_parameters(override, text):
    with pytest.raises(ConfigError, match=text):
        spec().arguments([override])


def test_presets():
    """A preset's parameters come before those given; a page lists it with the quoted figures."""
    one = spec(
        parameters=(Parameter("depth", 2, "2", "How many."), Parameter("wide", 1, "", "")),
        build=lambda *, depth, wide: Outer(depth=depth),
        timing=lambda *, depth, wide: [Timing("latency", "depth", depth + wide, "3")],
        presets={"large": ("wide=7",)},
    )
    assert one.arguments(preset="large") == {"depth": 2, "wide": 7}
    assert one.arguments(["wide=8", "depth=2"], "large") == {"depth": 2, "wide": 8}
    assert "| `--preset large` | `wide=7` | latency: 9 (3) |" in page(one, one.arguments())
    with pytest.raises(ConfigError, match="'outer' has no such preset; allowed: large"):
        one.arguments(preset="small")
    with pytest.raises(ConfigError, match="allowed: none"):
        spec().arguments(preset="small")


def test_the_classic_array():
    one = block_spec("array")
    classic = one.arguments(preset="classic")
    assert classic["columns"] * classic["rows"] * classic["lanes"] == 1024
    assert any(time.quoted and time.cycles == 1024 for time in one.timing(**classic))


def test_what_the_block_refuses():
    with pytest.raises(ConfigError, match="block 'outer': depth is 3; allowed: 2"):
        spec().made(spec().arguments(["depth=3"]))
    with pytest.raises(ConfigError, match="'nothing' is no block of the catalog"):
        block_spec("nothing")


def test_kinds_of_parameters():
    assert Parameter("p", True, "", "").value("False") is False
    assert Parameter("p", 1, "", "").value("0x10") == 16
    assert Parameter("p", "a", "", "").value("b") == "b"
    with pytest.raises(ConfigError, match="true or false"):
        Parameter("p", True, "", "").value("2")


@pytest.mark.parametrize("name", block_specs())
def test_every_block_of_the_catalog(name):
    """Parameters and ports are described, the wave moves, the text is Verilog."""
    one = block_spec(name)
    arguments = one.arguments()
    block = one.made(arguments)
    texts = emit(block)
    assert f"module {block.module_name}(" in texts[block.module_name]
    assert all(parameter.doc and parameter.allowed for parameter in one.parameters)
    assert [port.name for port in port_table(block) if not port.text] == []
    timing = one.timing(**arguments)
    assert timing and all(time.cycles is None or time.cycles >= 0 for time in timing)
    seen = simulate(one, arguments)
    still = [port for port, values in seen.items() if len(set(values)) == 1]
    assert len(still) < len(seen) / 2, f"most of the wave is flat: {still}"
    text = page(one, arguments)
    # Tests that the page names are there.
    for path in re.findall(r"`(tests/[\w/]+\.py)`", text):
        assert (Path(__file__).resolve().parents[3] / path).is_file(), path


def test_signals_are_seen_by_emit_and_by_simulation():
    """An instance is a module of its own in Verilog, and in place for the simulator."""
    assert set(emit(Outer(depth=2))) == {"outer", "inner"}
