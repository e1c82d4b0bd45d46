"""The tape controller: every command of a pass in order, none before its data can be there."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, Timer

from tests.deep import deep
from tests.hw.clocked import reset
from tokenloom.hw.kv.kv_layout import KvLayout
from tokenloom.hw.memory.tape_format import TapeKind
from tokenloom.hw.sequencer import isa
from tokenloom.hw.sequencer.isa import CHUNK, TAPE_OP, When
from tokenloom.hw.sequencer.tape_control import PASS_BITS, TapeControl
from tokenloom.sim.bench import parameters, run_block, seeded

INPUTS = (
    "cfg_we cfg_addr cfg_data run kv_base page_stride k_offset v_offset v_dim_words "
    "dim_blocks_used passes length first sample layers_written lookup_phys cmd_ready"
).split()
LAYERS, HEADS = 200, 2
PATIENCE = 200  # cycles without a command once everything is known


@dataclass
class Op:
    """An instruction, and what its commands have to be."""

    kind: TapeKind
    layer: int = 0
    head: int = 0
    block: int = 0
    addr: int = 0
    blocks: int = 0
    sample_only: int = 0
    windowed: int = 0
    chunk: int = 0
    when: When = When.ANY
    tiles: int = 0  # 0: as many as the block of dims has

    def word(self, layout: KvLayout) -> int:
        fields: dict[str, object] = {"kind": self.kind, "sample_only": self.sample_only}
        if self.kind in (TapeKind.Q4, TapeKind.Q8):
            return isa.pack(TAPE_OP, fields | {"addr": self.addr, "blocks": self.blocks})
        word, tiles = layout.port_bits // 8, 1
        address = layout.head_address(page=0, layer=self.layer, head=self.head)
        if self.kind is TapeKind.V:
            size = min(32, layout.head_size - 32 * self.block)
            tiles = self.tiles or -(-size // layout.columns)
            address += 32 * self.block // layout.columns * layout.page_tokens
        fields |= {"addr": address // word, "tiles": tiles, "layer": self.layer,
                   "windowed": self.windowed,
                   "blocks": self.chunk | self.when << CHUNK["when"].offset}  # fmt: skip
        return isa.pack(TAPE_OP, fields)

    def commands(
        self,
        layout: KvLayout,
        base: int,
        stride: int,
        length: int,
        pages: list[int],
        first: int,
        per_chunk: int,
    ) -> list[tuple[int, ...]]:
        """(kind, addr, addr2, blocks), in words, of channel 0; addr2 only matters for K.

        Pages are `stride` words apart. Chunks have `per_chunk` pages; 0 if a context is one.
        """
        if self.kind in (TapeKind.Q4, TapeKind.Q8):
            return [(self.kind, self.addr, 0, self.blocks)]
        word, found = layout.port_bits // 8, []
        begin = first // layout.page_tokens if self.windowed else 0
        seen = range(begin, -(-length // layout.page_tokens))
        if per_chunk:
            last = (len(seen) - 1) // per_chunk
            played = {When.ANY: self.chunk <= last, When.EARLIER: self.chunk < last,
                      When.LAST: self.chunk == last}[self.when]  # fmt: skip
            seen = seen[per_chunk * self.chunk :][:per_chunk] if played else range(0)
        used = [(pages[i], min(layout.page_tokens, length - i * layout.page_tokens)) for i in seen]
        where = {"page": 0, "layer": self.layer, "head": self.head, "token": 0}

        def place(*parts: int) -> int:
            return (base + sum(parts)) % (1 << 32)

        if self.kind is TapeKind.K:
            shifts = layout.k_shift(**where, block=0)[1] // word
            codes = layout.k_code(**where, dim=0)[1] // word
            for page, tokens in used:
                blocks = -(-tokens // layout.columns) * layout.dim_blocks
                at = place(shifts, page * stride), place(codes, page * stride)
                found.append((self.kind, *at, blocks))
            return found
        dims = range(32 * self.block, min(32 * self.block + 32, layout.head_size), layout.columns)
        tiles = [layout.v_code(**where, dim=dim)[1] // word for dim in dims]
        # More than a block has lie as far apart as those.
        apart = layout.page_tokens // word
        tiles += [tiles[0] + i * apart for i in range(len(tiles), self.tiles)]
        for tile in tiles:
            for page, tokens in used:
                found.append((self.kind, place(tile, page * stride), 0, -(-tokens // 32)))
        return found


def some_program(
    rng: random.Random, layout: KvLayout, size: int, chunks: int, kinds: list[TapeKind]
) -> list[Op]:
    """Layer after layer, weights between; the tail is for passes that sample."""
    program, layer = [], 0
    for _ in range(size):
        if rng.random() < 0.3:
            layer = rng.choice((layer + 1, LAYERS - 1, rng.randrange(layer, LAYERS)))
        layer = min(LAYERS - 1, layer)
        program.append(
            Op(
                rng.choice(kinds), layer, rng.randrange(HEADS), rng.randrange(layout.dim_blocks),
                rng.getrandbits(32), rng.getrandbits(24),
                # Without chunks, too long a context is seen through a window alone.
                windowed=rng.getrandbits(1) or int(parameters()["far"] and chunks == 1),
                chunk=rng.randrange(chunks) * (rng.random() < 0.5),
                when=rng.choice(list(When)) if chunks > 1 else When.ANY,
                tiles=rng.choice((33, 66, 132)) if rng.random() < 0.04 else 0,
            )
        )  # fmt: skip
    program[0] = Op(TapeKind.Q8, addr=rng.getrandbits(32), blocks=(1 << 24) - 1)
    tail = [Op(TapeKind.Q4, addr=rng.getrandbits(32), blocks=rng.randrange(9), sample_only=1)]
    return program + tail * rng.randrange(3)


class Machine:
    """The pass controller, the KV writer and the page table, as the tape controller sees them."""

    def __init__(self, dut: Any, rng: random.Random, latency: int) -> None:
        self.dut, self.rng = dut, rng
        self.passes, self.layers, self.length, self.sample = 0, 0, 1, 0
        self.first = 0
        self.pages: list[int] = []
        # What was asked for, oldest first; the page comes `latency` cycles later.
        self.asked = deque([0] * latency)

    def cycle(self) -> None:
        dut = self.dut
        dut.passes.value = self.passes % (1 << PASS_BITS)
        dut.layers_written.value = self.layers
        dut.length.value = self.length
        dut.first.value = self.first
        dut.sample.value = self.sample
        self.asked.append(int(dut.lookup_page.value))
        index = self.asked.popleft()
        known = index < len(self.pages)
        dut.lookup_phys.value = self.pages[index] if known else self.rng.getrandbits(16)


async def play(
    dut: Any, rng: random.Random, *, ideal: bool, passes: int, kinds: list[TapeKind]
) -> tuple[int, int]:
    """Plays passes of a random program; returns the commands that came, and how many early."""
    given = parameters()
    layout = KvLayout(
        columns=given["columns"], port_bits=256, page_tokens=given["page_tokens"],
        head_size=given["head_size"], kv_heads=HEADS, layers=LAYERS + rng.randrange(10 * LAYERS),
    )  # fmt: skip
    word = layout.port_bits // 8
    await reset(dut, INPUTS)
    per_chunk = given["chunk_tokens"] // layout.page_tokens
    chunks = -(-given["pages_max"] // per_chunk) if per_chunk else 1
    program = some_program(rng, layout, given["depth"] - 3, chunks, kinds)
    base, stride = rng.randrange(1 << 32), rng.randrange(1 << 24)
    for at, value in enumerate(
        [*(op.word(layout) for op in program), isa.pack(TAPE_OP, {"stop": 1})]
    ):
        dut.cfg_we.value, dut.cfg_addr.value, dut.cfg_data.value = 1, at, value
        await FallingEdge(dut.clk)
    dut.cfg_we.value = 0
    registers = {
        "kv_base": base, "page_stride": stride,
        "k_offset": layout.k_offset // word, "v_offset": layout.v_offset // word,
        "v_dim_words": layout.page_tokens // word, "dim_blocks_used": layout.dim_blocks,
    }  # fmt: skip
    for name, value in registers.items():
        getattr(dut, name).value = value
    machine = Machine(dut, rng, given["lookup_latency"])
    for _ in range(5):
        assert dut.cmd_valid.value == 0, "a command before the program is loaded"
        await FallingEdge(dut.clk)
    dut.run.value = 1
    shy = rng.getrandbits(1)  # not ready before there is a command
    taken = early = 0
    for number in range(1, passes + 1):
        # What comes before the descriptor is known: weights up to the first detour or tail.
        free = 0
        while not program[free].sample_only and program[free].kind in (TapeKind.Q4, TapeKind.Q8):
            free += 1
            if free == len(program):
                break
        most = min((1 << 20) - 1, given["pages_max"] * layout.page_tokens)
        page = layout.page_tokens
        length = rng.choice((1, page, page + 1, most, rng.randrange(1, most + 1)))
        if given["far"] and chunks > 1:
            size = given["chunk_tokens"]
            rest = rng.choice((1, page, page + 1, rng.randrange(1, 20 * page)))
            near = rng.choice(program).chunk + rng.choice((-1, 0, 0, 1))
            length = min(most, max(0, min(chunks - 1, near)) * size + rest)
        last = (length - 1) // page
        first = rng.choice((0, last, rng.randrange(last + 1)))
        if given["far"]:
            first = max(first, last - rng.choice((3, 3, 3, 20, 200)))
        first *= page
        pages = [rng.randrange(1 << 16) for _ in range(given["pages_max"])]
        sample = rng.getrandbits(1)
        expected: list[tuple[tuple[int, ...], Op, int]] = []
        for i, op in enumerate(program):
            if op.sample_only and not sample:
                break
            commands = op.commands(layout, base, stride, length, pages, first, per_chunk)
            expected += [(c, op, i) for c in commands]
        delay = rng.choice((0, 4, 8 * free + 40))
        held = None
        quiet = still = 0
        while expected or quiet < 20:
            if machine.passes < number:
                delay -= 1
                if delay < 0:
                    machine.passes, machine.layers = number, 0
                    machine.length, machine.sample, machine.pages = length, sample, pages
                    machine.first = first
            elif machine.layers < LAYERS and rng.random() < (0.2 if ideal else 0.03):
                machine.layers = min(LAYERS, machine.layers + rng.choice((1, 10, 60)))
            machine.cycle()
            told = machine.passes == number and machine.layers == LAYERS
            still = still + 1 if told and expected and dut.cmd_valid.value == 0 else 0
            assert still < PATIENCE, "nothing happens"
            waits = dut.cmd_valid.value == 1 or not shy
            dut.cmd_ready.value = int(ideal or (rng.random() < 0.5 and waits))
            await Timer(1, "ns")
            quiet = 0 if machine.passes < number or machine.layers < LAYERS else quiet + 1
            if dut.cmd_valid.value == 1 and (expected or machine.passes < number):
                quiet = 0
                want, op, index = expected[0]
                found = tuple(int(getattr(dut, f"cmd_{n}").value)
                              for n in ("kind", "addr", "addr2", "blocks"))  # fmt: skip
                if want[0] != TapeKind.K:
                    found = (*found[:2], 0, found[3])
                assert found == want, f"pass {number}, instruction {index}: {found}, not {want}"
                assert held in (None, found), "a command changed while it waited"
                known = machine.passes == number
                assert known or index < free, f"instruction {index} before its pass was known"
                if op.kind in (TapeKind.K, TapeKind.V):
                    assert machine.layers > op.layer, "a detour before its data"
                held = found
                if dut.cmd_ready.value == 1:
                    held = None
                    expected.pop(0)
                    taken += 1
                    early += not known
                    quiet = 0
            elif not expected and dut.cmd_valid.value == 1:
                break  # already the next pass's
            else:
                assert held is None, "a command was withdrawn"
            await FallingEdge(dut.clk)
    return taken, early


async def several(dut: Any, *, ideal: bool) -> None:
    """Passes of several programs."""
    rng, programs, passes = seeded(), 8, 3
    weights = [TapeKind.Q4, TapeKind.Q8]
    Clock(dut.clk, 10, "ns").start()
    found = [
        await play(dut, rng, ideal=ideal, passes=passes, kinds=list(TapeKind) if i else weights)
        for i in range(programs)
    ]
    taken, early = (sum(each) for each in zip(*found, strict=True))
    assert taken > 5 * programs * passes
    assert early > 0, "nothing was fetched ahead"


@cocotb.test()
async def random_timing(dut: Any) -> None:
    await several(dut, ideal=False)


@cocotb.test()
async def ideal_timing(dut: Any) -> None:
    await several(dut, ideal=True)


@cocotb.test()
async def more_passes_than_are_counted(dut: Any) -> None:
    """Of a pass that is not known yet the weights are fetched, and nothing of the one after it."""
    rng = seeded()
    Clock(dut.clk, 10, "ns").start()
    await reset(dut, INPUTS)
    weights = {"kind": TapeKind.Q8, "addr": 5, "blocks": 7}
    for at, fields in enumerate((weights, {"stop": 1})):
        dut.cfg_we.value, dut.cfg_addr.value = 1, at
        dut.cfg_data.value = isa.pack(TAPE_OP, fields)
        await FallingEdge(dut.clk)
    dut.cfg_we.value = 0
    dut.cmd_ready.value = dut.run.value = 1
    taken = 0
    for number in range(1, 2 << PASS_BITS):
        for _ in range(rng.randrange(9, 20)):
            taken += dut.cmd_valid.value == 1
            await FallingEdge(dut.clk)
        assert taken == number
        dut.passes.value = number % (1 << PASS_BITS)


@pytest.mark.parametrize(
    "bench",
    [
        {"columns": 4, "page_tokens": 64, "head_size": 48, "pages_max": 3, "lookup_latency": 2},
        {"columns": 4, "page_tokens": 32, "head_size": 48, "pages_max": 7, "lookup_latency": 2,
         "chunk_tokens": 64},
        {"columns": 4, "page_tokens": 32, "head_size": 48, "pages_max": 1 << 13,
         "lookup_latency": 2, "chunk_tokens": 1 << 12, "far": 1},
        deep({"columns": 4, "page_tokens": 32, "head_size": 48, "pages_max": 1 << 15,
              "lookup_latency": 2, "far": 1}),
        deep({"columns": 16, "page_tokens": 32, "head_size": 8, "pages_max": 5,
              "lookup_latency": 1}),
    ],
    ids=["48", "chunks", "far chunks", "far", "8"],
)  # fmt: skip
def test_tape_control(bench: dict[str, int]) -> None:
    bench = {"depth": 16, "chunk_tokens": 0, "far": 0} | bench
    names = ("depth", "columns", "page_tokens", "pages_max", "lookup_latency", "chunk_tokens")
    block = TapeControl(**{name: bench[name] for name in names}, dim_blocks=2)
    run_block(block, __name__, parameters=bench)
