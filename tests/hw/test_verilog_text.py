"""The emitted text: how long it is, and that shortening it changed nothing."""

from __future__ import annotations

import re

from amaranth.hdl import Module
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw import config
from tokenloom.hw.block import Block, emit
from tokenloom.hw.verilog_text import tidy
from tokenloom.sim.simulator import chip_verilog

# Lines of one file that set a memory's word: no memory longer than a few words is listed.
WORD_LINES = 64
LINE_LENGTH = 10_000


class Table(Block):
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
    text = emit(Table(words))["table"]
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
