"""The KV writer: every byte lands where `KvLayout` says, and blocks count when acknowledged."""

from collections import deque

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from tests.deep import deep
from tests.hw.clocked import begin
from tests.hw.memory.test_tape_reader import configured
from tests.hw.words import pack
from tokenloom.hw.kv.kv_layout import KvLayout
from tokenloom.hw.kv.kv_writer import KvWriter
from tokenloom.sim.bench import run_block

INPUTS = (
    "block_valid block_is_v block_layer block_head block_dim block_token block_page block_codes "
    "block_shift kv_base page_stride layer_stride head_stride k_offset v_offset dim_blocks "
    "head_size w_ready b_valid"
).split()


def expected_bytes(layout, block):
    """(channel, address) -> byte of everything that a block writes."""
    where = {key: block[key] for key in ("page", "layer", "head", "token")}
    shift = (layout.v_shift if block["is_v"] else layout.k_shift)(**where, block=block["dim"])
    result = {shift: block["shift"]}
    for i, code in enumerate(block["codes"]):
        d = 32 * block["dim"] + i
        if not block["is_v"]:
            result[layout.k_code(**where, dim=d)] = code
        elif d < layout.head_size:
            result[layout.v_code(**where, dim=d)] = code
    return result


class Channels:
    """Write ports: random or ideal ready, acknowledgements in order after a while."""

    def __init__(self, dut, random, *, columns, word, ideal):
        self.dut, self.random, self.columns = dut, random, columns
        self.word, self.ideal = word, ideal
        self.acked = {}
        self.done = 0
        self.writes = 0

    async def run(self):
        dut, word = self.dut, self.word
        queues = [deque() for _ in range(self.columns)]
        now, held = 0, {}
        while True:
            await RisingEdge(dut.clk)
            now += 1
            self.done += int(dut.blocks_done.value)
            valid, ready = int(dut.w_valid.value), int(dut.w_ready.value)
            if valid:
                addresses, data = int(dut.w_addr.value), int(dut.w_data.value)
                strobes = int(dut.w_strobe.value)
            for c in range(self.columns):
                if not valid >> c & 1:
                    assert c not in held, "a write was withdrawn"
                    continue
                address = addresses >> 32 * c & 0xFFFFFFFF
                content = (data >> 8 * word * c) & ((1 << 8 * word) - 1)
                strobe = (strobes >> word * c) & ((1 << word) - 1)
                assert held.pop(c, (address, content, strobe)) == (address, content, strobe)
                if not ready >> c & 1:
                    held[c] = (address, content, strobe)
                    continue
                assert address % word == 0
                self.writes += 1
                found = {
                    (c, address + i): content >> 8 * i & 255 for i in range(word) if strobe >> i & 1
                }
                queues[c].append((now + (3 if self.ideal else self.random.randrange(1, 30)), found))
            await FallingEdge(dut.clk)
            acks = 0
            for c, queue in enumerate(queues):
                if queue and queue[0][0] <= now and (self.ideal or self.random.random() < 0.5):
                    acks |= 1 << c
                    for place, byte in queue.popleft()[1].items():
                        assert place not in self.acked, "a byte was written twice"
                        self.acked[place] = byte
            dut.b_valid.value = acks
            full = (1 << self.columns) - 1
            dut.w_ready.value = full if self.ideal else self.random.getrandbits(self.columns)


def layout_of(given):
    return KvLayout(
        columns=given["columns"],
        port_bits=given["port_bits"],
        page_tokens=given["page_tokens"],
        head_size=given["head_size"],
        kv_heads=3,
        layers=4,
    )


async def prepare(dut, given, base):
    layout = layout_of(given)
    await begin(dut, INPUTS)
    dut.kv_base.value = base
    for name in (
        "page_stride",
        "layer_stride",
        "head_stride",
        "k_offset",
        "v_offset",
        "dim_blocks",
        "head_size",
    ):
        getattr(dut, name).value = getattr(layout, name)
    return layout


def some_blocks(layout, random, count, *, v_share=0.5):
    """Distinct blocks anywhere."""
    seen, blocks = set(), []
    while len(blocks) < count:
        block = {
            "is_v": random.random() < v_share,
            "layer": random.randrange(layout.layers),
            "head": random.randrange(layout.kv_heads),
            "dim": random.randrange(layout.dim_blocks),
            "token": random.randrange(layout.page_tokens),
            "page": random.choice([0, 1, 7, 900]),
        }
        if tuple(block.values()) in seen:
            continue
        seen.add(tuple(block.values()))
        block["codes"] = [random.randrange(256) for _ in range(32)]
        block["shift"] = random.randrange(25)
        blocks.append(block)
    return blocks


async def write(dut, blocks, channels, places, random, *, ideal):
    """Offers the blocks; checks at every cycle that no block counts too early."""
    left, cycle = deque(blocks), 0
    incomplete = deque(places)
    complete = 0
    while channels.done < len(blocks):
        cycle += 1
        assert cycle < 400 * len(blocks), f"{channels.done} of {len(blocks)} done"
        offer = left and int(dut.room.value) > 0 and (ideal or random.random() < 0.6)
        dut.block_valid.value = 1 if offer else 0
        if offer:
            block = left.popleft()
            for key in ("is_v", "layer", "head", "dim", "token", "page", "shift"):
                getattr(dut, f"block_{key}").value = int(block[key])
            dut.block_codes.value = pack(block["codes"], 8)
        await RisingEdge(dut.clk)
        await FallingEdge(dut.clk)
        for _ in range(len(incomplete)):
            place = incomplete.popleft()
            if all(byte in channels.acked for byte in place):
                complete += 1
            else:
                incomplete.append(place)
        assert channels.done <= complete
    dut.block_valid.value = 0
    return cycle


@cocotb.test()
async def random_blocks(dut):
    given, random, _ = configured()
    base = 1 << 20
    layout = await prepare(dut, given, base)
    blocks = some_blocks(layout, random, 150)
    word = given["port_bits"] // 8
    channels = Channels(dut, random, columns=given["columns"], word=word, ideal=False)
    cocotb.start_soon(channels.run())
    expected = {}
    places = []
    for block in blocks:
        found = {(c, a + base): v for (c, a), v in expected_bytes(layout, block).items()}
        expected |= found
        places.append(list(found))
    await write(dut, blocks, channels, places, random, ideal=False)
    assert channels.acked == expected
    await FallingEdge(dut.clk)
    assert dut.idle.value == 1
    assert channels.done == len(blocks)


@cocotb.test()
async def speed(dut):
    given, random, _ = configured()
    layout = await prepare(dut, given, 0)
    columns = given["columns"]
    word = given["port_bits"] // 8
    channels = Channels(dut, random, columns=columns, word=word, ideal=True)
    cocotb.start_soon(channels.run())
    for v_share in (0, 1):
        channels.acked.clear()
        channels.done = 0
        blocks = some_blocks(layout, random, 60, v_share=v_share)
        cycles = await write(
            dut,
            blocks,
            channels,
            [list(expected_bytes(layout, b)) for b in blocks],
            random,
            ideal=True,
        )
        steps = 1 + (-(-min(32, given["head_size"]) // columns) if v_share else 1)
        if columns & (columns - 1):
            steps += v_share
        dut._log.info(f"{len(blocks)} blocks in {cycles} cycles, {steps} steps each")
        assert cycles <= steps * len(blocks) + 40


@pytest.mark.parametrize(
    "bench",
    [
        deep({"columns": 16, "port_bits": 512, "page_tokens": 64, "head_size": 64}, id="16-64"),
        {"columns": 4, "port_bits": 256, "page_tokens": 32, "head_size": 8},
        {"columns": 6, "port_bits": 256, "page_tokens": 96, "head_size": 48},
        {"columns": 64, "port_bits": 512, "page_tokens": 64, "head_size": 96},
    ],
    ids=lambda b: f"{b['columns']}-{b['head_size']}",
)
def test_kv_writer(bench):
    block = KvWriter(**{k: v for k, v in bench.items() if k != "head_size"})
    run_block(block, "tests.hw.kv.test_kv_writer", parameters=bench)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": 0}, "columns"),
        ({"columns": 24}, "page_tokens"),
        ({"port_bits": 64}, "port"),
        ({"page_tokens": 512}, "page_tokens"),
        ({"depth": 1}, "depth"),
    ],
)
def test_refusals(change, message):
    good = {"columns": 16, "port_bits": 512, "page_tokens": 64}
    with pytest.raises(ValueError, match=message):
        KvWriter(**{**good, **change})
