"""Every block of the catalog: parameters, ports, wave, page."""

import json
import re
import sys
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
from tokenloom.hw.sequencer.isa import ARRAY_OP
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


class Wide(Block):
    """A register of so many bits.

    Members
    -------
    a : In, a number; out_b : Out, the same
    """

    def __init__(self, *, bits: int):
        super().__init__({"a": In(bits), "out_b": Out(bits)}, params=(bits,))

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.out_b.eq(self.a)
        return m


def test_a_wave_of_ports_whose_values_are_longer_than_python_writes():
    async def wide(ctx, block, parameters):
        ctx.set(block.a, (1 << 20_000) - 1)

    limit = sys.get_int_max_str_digits()
    one = spec(parameters=(Parameter("bits", 20_000, "any", "Bits."),), build=Wide, stimulus=wide)
    assert 'data": [\n    "0",\n    "..ffff"' in wavedrom_source(one, one.arguments())
    assert sys.get_int_max_str_digits() == limit


def test_a_wave_leaves_out_what_other_parameters_do_not_have():
    one = block_spec("sampler")
    seen = simulate(one, one.arguments(["candidates=0", "vocab_bits=32"]))
    assert set(one.signals) - set(seen) == {"list_valid", "list_id", "list_log"}
    assert 2 in seen["token"]


@pytest.mark.parametrize(
    "name, overrides, text",
    [
        ("array", ["columns=3"], "drain is 2; allowed: divisors of columns = 3"),
        ("array", ["drain=0"], "drain is 0; allowed: divisors of columns = 4"),
        ("array", ["lanes=16", "packed=true"], "lanes is 16; allowed: powers of two from 32 on"),
        ("array", ["rows=33"], "rows is 33; allowed: 1..32"),
        ("array", ["groups=9"], "groups is 9; allowed: 1..4"),
        ("attention", ["rows=64"], "powers of two up to 32"),
        ("attention", ["slots=65"], "allowed is 1 to 64"),
        ("attention", ["tokens_max=33"], "multiples of 32 up to 131072"),
        ("beam_step", ["vocab_bits=0"], "allowed is 1 or more"),
        ("sampler", ["vocab_bits=32"], "1..20, or 1..32 with candidates = 0"),
    ],
)
def test_parameters_that_a_block_refuses(name, overrides, text):
    one = block_spec(name)
    with pytest.raises(ConfigError, match=f"block '{name}': .*{re.escape(text)}"):
        one.made(one.arguments(overrides))


def test_a_context_in_chunks_may_have_any_length():
    one = block_spec("attention")
    one.made(one.arguments(["tokens_max=300", "score_tokens=64"]))


def test_what_a_unit_inside_refuses():
    class Picky(Outer):
        def elaborate(self, platform):
            raise ValueError("too deep; allowed: less")

    with pytest.raises(ConfigError, match="block 'outer': too deep; allowed: less"):
        spec(build=Picky).verilog({"depth": 2})


# Formulas.


def value_of(formula, parameters):
    """A formula of a page, computed."""
    text = re.sub(r"⌈([^⌉/]*)/([^⌉]*)⌉", r"-(-(\1) // (\2))", formula.split(" = ")[-1])
    text = text.replace("·", "*").replace(" / ", " // ")
    return eval(text, {"max": max, "min": min}, parameters)


@pytest.mark.parametrize(
    "name, overrides, more",
    [
        ("rmsnorm", [], {"words": 256}),
        ("rmsnorm", ["width=100", "norm_lanes=4", "layer_norm=true", "quantise=true"],
         {"words": 32}),
        ("array", [], {"t": 2, "b": 3}),
        ("array", ["packed=true", "groups=2", "stages=3"], {"t": 2, "b": 3}),
        ("array", ["lanes=4"], {"t": 2, "b": 3}),
        ("sampler", [], {"count": 40}),
        ("sampler", ["candidates=0"], {}),
        ("quantiser", [], {}),
        ("beam_step", [], {}),
        ("swiglu_ffn", [], {}),
        ("swiglu_ffn", ["gated=false", "width=33", "ffn=70"], {}),
        ("attention", ["tokens_max=128"], {"T": 128}),
        ("attention", ["tokens_max=128", "score_tokens=32", "head_max=24"], {"T": 32}),
    ],
)  # fmt: skip
def test_formulas_give_the_cycles_beside_them(name, overrides, more):
    one = block_spec(name)
    arguments = one.arguments(overrides)
    for time in one.timing(**arguments):
        if "count = 64" in time.what:
            continue
        called = {name: getattr(one.made(arguments), name, None) for name in ("duration", "timing")}
        assert value_of(time.formula, {**called, **arguments, **more}) == time.cycles, time


def test_formulas_of_attention():
    one = block_spec("attention")
    for overrides in [], ["columns=64", "head_max=80"], ["columns=2", "drain=2", "head_max=34"]:
        arguments = one.arguments(overrides)
        beats = [time for time in one.timing(**arguments) if "beats" in time.what]
        for time in beats:
            tokens = int(time.what.split(" = ")[1].split()[0])
            assert value_of(time.formula, {**arguments, "T": tokens}) == time.cycles
        assert len(beats) == 2
    for overrides, scores in ([], 128), (["drain=4", "columns=4", "tokens_max=96"], 96):
        arguments = one.arguments(overrides)
        time = one.timing(**arguments)[0]
        assert time.what.startswith(f"softmax of T = {scores} scores")
        assert value_of(time.formula, {**arguments, "T": scores}) == time.cycles


def test_the_formula_follows_the_parameters():
    one = block_spec("swiglu_ffn")
    with_gate, without = (page(one, one.arguments(more)) for more in ([], ["gated=false"]))
    assert "⌈2·ffn/columns⌉" in with_gate and "(up · x)" in with_gate
    assert "⌈ffn/columns⌉" in without and "2·ffn" not in without and "(up · x)" not in without


def test_the_instruction_of_the_array_is_a_table():
    text = page(block_spec("array"), block_spec("array").arguments())
    rows = re.findall(r"^\| (\d+)(?::(\d+))? \| `(\w+)` \|", text, re.M)
    fields = dict(ARRAY_OP)
    assert [name for _, _, name in rows] == list(fields)
    for high, low, name in rows:
        assert int(low or high) == fields[name].offset
        assert int(high) == fields[name].offset + fields[name].width - 1


def test_a_page_of_its_own_names_its_command_and_has_no_dead_links():
    one = block_spec("rmsnorm")
    text = page(one, one.arguments(), command="tokenloom generate --block rmsnorm --out x")
    assert "Written by `tokenloom generate --block rmsnorm --out x`" in text
    assert "](../" not in text and "docs/numbers.md" in text
    assert "[numbers.md](../numbers.md)" in page(one, one.arguments())


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
