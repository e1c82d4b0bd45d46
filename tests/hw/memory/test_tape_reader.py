"""The tape reader: all kinds mixed, any timing on every side, and one beat per cycle."""

import dataclasses

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from tests.deep import deep
from tests.hw.clocked import begin
from tests.hw.words import pack
from tokenloom.compiler.pack import pack_codes, pack_weights, weights_bytes
from tokenloom.hw.kv.kv_layout import KvLayout
from tokenloom.hw.memory.tape_format import TapeKind
from tokenloom.hw.memory.tape_reader import TapeReader
from tokenloom.hw.numbers.codebook import CODEBOOK
from tokenloom.sim.axi_bench import AxiMemory
from tokenloom.sim.bench import parameters, run_block, seeded
from tokenloom.sim.memory import memory_profile

# A memory that never lets a reader wait.
EAGER = dataclasses.replace(memory_profile("onchip"), bytes_per_ns=1000.0, latency=1.0)


def read_memory(dut, image, *, word, ideal):
    """A memory behind the block's ar/r port: hostile, or one that never lets it wait."""
    profile = EAGER if ideal else memory_profile("hbm2")
    memory = AxiMemory(dut, profile, 5, bytes(image), beat_bytes=word, reads=profile.reads)
    memory.start()
    return memory


INPUTS = (
    "cmd_valid cmd_kind cmd_addr cmd_addr2 cmd_blocks cmd_dim_blocks cfg_we cfg_addr cfg_data "
    "ar_ready r_valid r_data beat_take"
).split()


class Tape:
    """Builds a memory image, commands, and the beats they have to give."""

    def __init__(self, rng, *, port_bits, lanes, codebook):
        self.rng, self.port_bits, self.word = rng, port_bits, port_bits // 8
        self.bpb, self.codebook = lanes // 32, codebook
        self.image = bytearray()
        self.commands, self.beats = [], []

    def place(self, data):
        """Appends bytes somewhere, often just before a 4 KiB border; returns the word address."""
        gap = int(self.rng.integers(0, 40)) * self.word
        self.image += bytes(self.rng.integers(0, 256, gap, dtype=np.uint8))
        address = len(self.image) // self.word
        self.image += bytes(data)
        return address

    def _beats(self, codes, scale, minimum, v_shift, pow2):
        for i in range(0, len(codes), self.bpb):
            part = slice(i, i + self.bpb)
            self.beats.append(
                (
                    pack(codes[part].reshape(-1), 8),
                    pack(scale[part], 16),
                    pack(minimum[part], 16),
                    pack(v_shift[part], 5),
                    pow2,
                )
            )

    def weights(self, bits, blocks):
        rng, zero = self.rng, np.zeros(blocks, int)
        low, high = (0, 16) if bits == 4 else (-128, 128)
        codes = rng.integers(low, high, (1, blocks * 32))
        scale = rng.integers(0, 65536, (1, blocks))
        minimum = rng.integers(0, 65536, (1, blocks)) if bits == 4 else None
        (data,) = pack_weights(codes, scale, minimum, bits, 1, self.bpb, self.port_bits)
        kind = TapeKind.Q4 if bits == 4 else TapeKind.Q8
        self.commands.append((kind, self.place(data), 0, blocks, 0))
        values = codes if bits == 8 else np.array(self.codebook)[codes]
        self._beats(values.reshape(-1, 32), scale[0], zero if bits == 8 else minimum[0], zero, 0)

    def k_page(self, tokens, nb):
        rng, blocks = self.rng, tokens * nb
        shifts = rng.integers(0, 25, (tokens, 2, nb))
        codes = rng.integers(-128, 128, (blocks, 32))
        exponents = self.place(self._whole(shifts.astype(np.uint8).tobytes()))
        address = self.place(self._whole(pack_codes(codes, 8).tobytes()))
        self.commands.append((TapeKind.K, exponents, address, blocks, nb))
        self._beats(
            codes, shifts[:, 0].reshape(-1), np.zeros(blocks, int), shifts[:, 1].reshape(-1), 1
        )

    def v_page(self, blocks):
        codes = self.rng.integers(-128, 128, (blocks, 32))
        zero = np.zeros(blocks, int)
        address = self.place(self._whole(pack_codes(codes, 8).tobytes()))
        self.commands.append((TapeKind.V, address, 0, blocks, 0))
        self._beats(codes, zero, zero, zero, 1)

    def _whole(self, data):
        return data + b"\xff" * (-len(data) % self.word)


async def drive_commands(dut, commands, random, *, ideal):
    for kind, addr, addr2, blocks, nb in commands:
        while not ideal and random.random() < 0.5:
            await FallingEdge(dut.clk)
        dut.cmd_valid.value = 1
        dut.cmd_kind.value = int(kind)
        dut.cmd_addr.value = addr
        dut.cmd_addr2.value = addr2
        dut.cmd_blocks.value = blocks
        dut.cmd_dim_blocks.value = nb
        while True:
            await RisingEdge(dut.clk)
            taken = dut.cmd_ready.value == 1
            await FallingEdge(dut.clk)
            if taken:
                break
        dut.cmd_valid.value = 0


async def expect_beats(dut, beats, random, *, ideal, limit):
    """Takes all beats and compares; returns the cycles from the first to the last."""
    cycle, first = 0, None
    for number, expected in enumerate(beats):
        while True:
            dut.beat_take.value = 1 if ideal else random.random() < 0.7
            await RisingEdge(dut.clk)
            cycle += 1
            assert cycle < limit, f"only {number} of {len(beats)} beats"
            taken = dut.beat_valid.value == 1 and dut.beat_take.value == 1
            assert (int(dut.beat_count.value) > 0) == (dut.beat_valid.value == 1)
            if taken:
                got = tuple(
                    int(s.value) for s in (dut.codes, dut.scale, dut.minimum, dut.v_shift, dut.pow2)
                )
            await FallingEdge(dut.clk)
            if taken:
                break
        assert got == expected, f"beat {number}"
        first = cycle if first is None else first
    dut.beat_take.value = 0
    return cycle - first + 1


def configured():
    given = parameters()
    random = seeded()
    return given, random, np.random.default_rng(random.getrandbits(32))


async def write_codebook(dut, codebook):
    for i, value in enumerate(codebook):
        dut.cfg_we.value, dut.cfg_addr.value, dut.cfg_data.value = 1, i, value & 255
        await FallingEdge(dut.clk)
    dut.cfg_we.value = 0


async def mixed(dut, *, own_codebook):
    given, random, rng = configured()
    codebook = list(CODEBOOK)
    await begin(dut, INPUTS)
    if own_codebook:
        codebook = [random.randrange(-128, 128) for _ in range(16)]
    await write_codebook(dut, codebook)
    tape = Tape(rng, port_bits=given["port_bits"], lanes=given["lanes"], codebook=codebook)
    bpb, most = tape.bpb, given["dim_blocks_max"]
    for _ in range(40):
        kind = random.randrange(4)
        blocks = random.choice([1, 2, 3, 31, 32, 33, random.randrange(1, 120)]) * bpb
        if kind == TapeKind.K:
            nb = random.randrange(1, most // bpb + 1) * bpb
            room = 8 * tape.word // (2 * nb)
            tape.k_page(random.randrange(1, min(room, 24) + 1), nb)
        elif kind == TapeKind.V:
            tape.v_page(blocks)
        else:
            tape.weights(4 if kind == TapeKind.Q4 else 8, blocks)
    # A command without blocks leaves no trace.
    tape.commands.insert(5, (TapeKind.Q8, 1, 2, 0, 0))
    memory = read_memory(dut, tape.image, word=tape.word, ideal=False)
    cocotb.start_soon(drive_commands(dut, tape.commands, random, ideal=False))
    await expect_beats(dut, tape.beats, random, ideal=False, limit=20 * len(tape.beats) + 2000)
    for _ in range(20):
        await FallingEdge(dut.clk)
        assert dut.idle.value == 1
        assert dut.beat_valid.value == 0
    assert memory.most_words <= given["buffer_words"]


@cocotb.test()
async def mixed_kinds(dut):
    await mixed(dut, own_codebook=False)


@cocotb.test()
async def mixed_kinds_with_a_codebook(dut):
    await mixed(dut, own_codebook=True)


@cocotb.test()
async def throughput(dut):
    given, random, rng = configured()
    await begin(dut, INPUTS)
    bpb = given["lanes"] // 32
    tape = Tape(rng, port_bits=given["port_bits"], lanes=given["lanes"], codebook=range(16))
    await write_codebook(dut, range(16))
    plans = [
        ("Q4", lambda: [tape.weights(4, 640 * bpb)]),
        ("Q8", lambda: [tape.weights(8, 640 * bpb)]),
        ("commands", lambda: [tape.weights(4, 40 * bpb) for _ in range(10)]),
        ("V", lambda: [tape.v_page(512 * bpb)]),
    ]
    made = []
    for name, make in plans:
        make()
        made.append((name, list(tape.commands), list(tape.beats)))
        tape.commands.clear()
        tape.beats.clear()
    read_memory(dut, tape.image, word=tape.word, ideal=True)
    for name, commands, beats in made:
        cocotb.start_soon(drive_commands(dut, commands, random, ideal=True))
        cycles = await expect_beats(dut, beats, random, ideal=True, limit=4 * len(beats) + 400)
        bits = 4 if name in ("Q4", "commands") else 8
        words = len(beats) * bits * given["lanes"] / given["port_bits"]
        words += 0 if name == "V" else len(beats) * bpb / (given["port_bits"] / 16) * (8 // bits)
        best = max(len(beats), words)
        dut._log.info(f"{name}: {len(beats)} beats in {cycles} cycles, at best {best}")
        # Commands' last words may be partial, which costs the memory, not a beat.
        assert cycles <= best + (40 if name == "commands" else 20)


# One geometry for each way the codes come out of a word.
GEOMETRIES = [(512, 32), (256, 32), (512, 64), (256, 64), deep(512, 128)]


@pytest.mark.parametrize(("port_bits", "lanes"), GEOMETRIES)
def test_tape_reader(port_bits, lanes):
    bench = {"port_bits": port_bits, "lanes": lanes, "buffer_words": 64}
    bench["dim_blocks_max"] = 8 if lanes == 128 else 6
    block = TapeReader(**bench)
    run_block(block, "tests.hw.memory.test_tape_reader", parameters=bench)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"port_bits": 128}, "port_bits"),
        ({"lanes": 16}, "lanes"),
        ({"lanes": 128, "port_bits": 256}, "lanes"),
        ({"buffer_words": 8}, "buffer"),
        ({"lanes": 64, "dim_blocks_max": 3}, "dim_blocks_max"),
        ({"header_words": 6}, "header_words"),
        ({"beat_words": 2}, "beat_words"),
    ],
)
def test_refusals(change, message):
    good = {"port_bits": 512, "lanes": 32, "buffer_words": 64, "dim_blocks_max": 4}
    with pytest.raises(ValueError, match=message):
        TapeReader(**{**good, **change})


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("columns", "bpb", "port_bits"), [(4, 2, 512), (3, 1, 256)])
def test_pack_weights_by_hand(bits, columns, bpb, port_bits):
    """Reads the tapes of several columns back, block by block, as the contract has it."""
    rng = np.random.default_rng(bits)
    outputs, blocks, group = 26, 3, port_bits // 16
    low, high = (0, 16) if bits == 4 else (-128, 128)
    codes = rng.integers(low, high, (outputs, blocks * 32))
    scale = rng.integers(1, 65536, (outputs, blocks))
    minimum = rng.integers(1, 65536, (outputs, blocks)) if bits == 4 else None
    tapes = pack_weights(codes, scale, minimum, bits, columns, bpb, port_bits)
    length = weights_bytes(
        outputs=outputs,
        blocks=blocks,
        bits=bits,
        columns=columns,
        blocks_per_beat=bpb,
        port_bits=port_bits,
    )
    depth = -(-blocks // bpb) * bpb
    heads = (2 if bits == 4 else 1) * 2 * group
    for channel, tape in enumerate(tapes):
        assert tape.shape == (length,)
        data = tape.tobytes()
        for number in range(-(-outputs // columns) * depth):
            n, block = number // depth * columns + channel, number % depth
            start = number // group * (heads + group * 4 * bits)
            head = start + number % group * 2
            body = start + heads + number % group * 4 * bits
            packed = data[body : body + 4 * bits]
            real = n < outputs and block < blocks
            found = int.from_bytes(data[head : head + 2], "little")
            assert found == (scale[n, block] if real else 0)
            if minimum is not None:
                head += 2 * group
                found = int.from_bytes(data[head : head + 2], "little")
                assert found == (minimum[n, block] if real else 0)
            for i in range(32):
                if bits == 4:
                    code = packed[i // 2] >> 4 * (i % 2) & 15
                else:
                    code = int.from_bytes(packed[i : i + 1], "little", signed=True)
                assert code == (codes[n, 32 * block + i] if real else 0)


def test_page_fits_the_header_ring():
    layout = KvLayout(
        columns=16, port_bits=512, page_tokens=256, head_size=128, kv_heads=1, layers=1
    )
    assert layout.exponent_bytes * 8 // 512 <= 8
