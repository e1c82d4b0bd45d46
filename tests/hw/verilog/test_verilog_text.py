"""The emitted text: how long it is, and that shortening it changed nothing."""

from __future__ import annotations

import re

import pytest
from amaranth.hdl import Module
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw import config
from tokenloom.hw.verilog.block import Block, emit
from tokenloom.hw.verilog.verilog_registers import with_clocked_processes
from tokenloom.hw.verilog.verilog_text import tidy
from tokenloom.sim.simulator import chip_verilog

# Lines of one file that set a memory's word: no memory longer than a few words is listed.
WORD_LINES = 64
LINE_LENGTH = 10_000


class WordTable(Block):
    """A constant table."""

    belt = False

    def __init__(self, words: list[int]) -> None:
        self._words = words
        super().__init__({"addr": In(10), "data": Out(17)}, params=tuple(words))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.table = table = Memory(shape=17, depth=len(self._words), init=self._words)
        read = table.read_port()
        m.d.comb += [read.addr.eq(self.addr), self.data.eq(read.data)]
        return m


def table_words(text: str) -> list[int]:
    """The words that the loops over constants give the table, in order."""
    constants = {
        name: int(digits, 16)
        for name, digits in re.findall(r"localparam \[\d+:0\] (\w+) = \d+'h([0-9a-f]+);", text)
    }
    loops = re.findall(
        r"for \(\w+ = (\d+); \w+ < (\d+); .*\n"
        r"\s+\S+ ?\[\w+\[9:0\]\] = (\w+)\[17 \* \(\w+ - (\d+)\) \+: 17\];",
        text,
    )
    words = []
    for first, end, name, base in loops:
        assert int(first) == int(base) == len(words)
        words += [constants[name] >> (17 * i) & 0x1FFFF for i in range(int(end) - int(first))]
    return words


def test_table_keeps_its_words() -> None:
    words = [(i * 40503 + 7) & 0x1FFFF for i in range(1000)]
    text = emit(WordTable(words))["word_table"]
    assert table_words(text) == words
    assert len(text.splitlines()) < 60


def test_dead_wires_go_and_others_stay() -> None:
    text = tidy(
        "module top(a, y);\n  input a;\n  output y;\n  wire \\b$1 ;\n  wire \\b$12 ;\n"
        "  wire c;\n  assign \\b$1  = a;\n  assign \\b$12  = \\b$1 ;\n  assign c = \\b$1 ;\n"
        "  assign y = c;\nendmodule\n"
    )
    assert "b$12" not in text
    assert "  assign \\b$1  = a;\n  assign c = \\b$1 ;\n  assign y = c;\n" in text


def test_text_of_a_wider_chip() -> None:
    """Twice the columns of `sim` are less than a tenth more text."""
    sizes = []
    for columns in (16, 32):
        texts = chip_verilog(config.load("sim", [f"array.columns={columns}"]))
        sizes.append(sum(len(text.encode()) for text in texts.values()))
        for name, text in texts.items():
            assert max(map(len, text.splitlines())) < LINE_LENGTH, name
            listed = re.findall(r"^ +\S+ ?\[\d+\] = \d+'[hd]\w+;$", text, re.MULTILINE)
            assert len(listed) < WORD_LINES, name
    assert sizes[1] < 1.10 * sizes[0], sizes


class Registers(Block):
    """A register that holds, one written in parts, and one whose next state is seen outside."""

    belt = True

    def __init__(self) -> None:
        super().__init__(
            {"take": In(1), "data": In(16), "held": Out(16), "parts": Out(16), "soon": Out(16)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.If(self.take):
            m.d.sync += [self.held.eq(self.data), self.parts[4:8].eq(self.data[:4])]
        m.d.comb += self.soon.eq(self.held + 1)
        return m


def test_registers_are_clocked_processes() -> None:
    (text,) = emit(Registers()).values()
    assert re.search(
        r"always @\(posedge clk\) begin\n    if \(en\) begin\n      if \(take\) begin\n"
        r"        held <= data;\n      end\n    end\n    if \(rst\) begin\n      held <= 16'h0000;",
        text,
    )
    assert "parts[7:4] <= data[3:0];" in text
    assert text.count("posedge clk") == 2


NEXT_IS_READ = """module m(clk, q, y);
  input clk;
  output [3:0] q;
  reg [3:0] \\$1 ;
  output [3:0] y;
  assign y = \\$1 ;
  always @(posedge clk)
    q <= \\$1 ;
  always @* begin
    if (_initial_pass ) begin end
    \\$1  = q;
    \\$1  = 4'h3;
  end
endmodule
"""


@pytest.mark.parametrize(
    "text",
    [
        NEXT_IS_READ,
        NEXT_IS_READ.replace("  assign y = \\$1 ;\n", "").replace("$1  = q;", "$1  = y;"),
        NEXT_IS_READ.replace("  assign y = \\$1 ;\n", "").replace("4'h3", "{ \\$1 [2:0], 1'h0 }"),
    ],
    ids=["read-outside", "holds-another", "read-inside"],
)
def test_next_states_with_other_readers_stay(text: str) -> None:
    assert with_clocked_processes(text) == text


def test_least_maxima_leave_no_signal_without_bits() -> None:
    """One page, one row, one word: counters of one value still have a bit, as Verilog wants."""
    one = "width ffn heads kv_heads vocab positions layers".split()
    overrides = [f"maxima.{name}=1" for name in one] + ["maxima.head_size=2"]
    overrides += ["array.rows=1", "array.drain=1", "memory.pages=1", "memory.slots=1"]
    for name, text in chip_verilog(config.load("mini", [*overrides, "norm_lanes=32"])).items():
        assert "[-1:" not in text, name
