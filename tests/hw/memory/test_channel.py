"""A channel: its tape's beats by number, while the row reader reads between them."""

from __future__ import annotations

import random
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge, RisingEdge

from tests.hw.clocked import begin
from tests.hw.memory.test_tape_reader import (
    Tape,
    configured,
    drive_commands,
    read_memory,
    write_codebook,
)
from tokenloom.hw.memory.channel import Channel
from tokenloom.sim.bench import run_block

INPUTS = (
    "index cmd_valid cmd_kind cmd_addr cmd_addr2 cmd_blocks cmd_dim_blocks cfg_we cfg_addr "
    "cfg_data row_channel row_ar_valid row_ar_addr row_ar_len row_r_ready ar_ready r_valid r_data "
    "r_resp r_last in_valid in_addr in_data in_strobe aw_ready w_ready b_valid b_resp halt "
    "wanted take"
).split()


async def take_beats(dut: Any, beats: list[tuple[int, ...]], rng: random.Random) -> None:
    """Asks for a few beats, waits until they are there, and takes them one cycle after another."""
    at = 0
    while at < len(beats):
        wanted = min(rng.choice((1, 1, 2, 3, 8)), len(beats) - at)
        dut.wanted.value = wanted
        for _ in range(3000):
            await RisingEdge(dut.clk)
            enough = dut.enough.value == 1
            await FallingEdge(dut.clk)
            if enough:
                break
        assert enough, f"no {wanted} beats after {at} of {len(beats)}"
        dut.take.value = 1
        for _ in range(wanted):
            await RisingEdge(dut.clk)
            found = tuple(
                int(s.value) for s in (dut.codes, dut.scale, dut.minimum, dut.v_shift, dut.pow2)
            )
            assert found == beats[at], f"beat {at}"
            at += 1
            await FallingEdge(dut.clk)
        dut.take.value = 0
        for _ in range(rng.randrange(3)):
            await FallingEdge(dut.clk)
    # There is no beat more than the tape has.
    dut.wanted.value = 1
    for _ in range(50):
        await FallingEdge(dut.clk)
        assert dut.enough.value == 0


async def read_rows(dut: Any, image: bytes, word: int, mine: int, rng: random.Random) -> None:
    """Bursts of this channel and of others, which must find no answer here."""
    own = foreign = 0
    while own < 60:
        channel = mine if rng.random() < 0.6 else rng.randrange(4)
        words = rng.choice((1, 2, 15, 16))
        address = rng.randrange(len(image) // word // 16) * 16 * word
        dut.row_channel.value = channel
        dut.row_ar_valid.value, dut.row_ar_addr.value = 1, address
        dut.row_ar_len.value = words - 1
        if channel != mine:
            dut.row_r_ready.value = 1
            for _ in range(10):
                await RisingEdge(dut.clk)
                assert dut.row_ar_ready.value == 0, "another channel's burst was taken"
                assert dut.row_r_valid.value == 0, "another channel got words"
                await FallingEdge(dut.clk)
            dut.row_ar_valid.value = dut.row_r_ready.value = 0
            foreign += 1
            continue
        expected = [image[address + word * i : address + word * i + word] for i in range(words)]
        taken = False
        for _ in range(3000):
            dut.row_r_ready.value = rng.random() < 0.6
            await RisingEdge(dut.clk)
            taken |= dut.row_ar_valid.value == 1 and dut.row_ar_ready.value == 1
            if dut.row_r_valid.value == 1 and dut.row_r_ready.value == 1:
                assert int(dut.r_data.value).to_bytes(word, "little") == expected.pop(0)
            await FallingEdge(dut.clk)
            if taken:
                dut.row_ar_valid.value = 0
            if not expected:
                break
        assert not expected, f"{len(expected)} words are missing"
        dut.row_r_ready.value = 0
        own += 1
        for _ in range(rng.randrange(30)):
            await FallingEdge(dut.clk)
    assert foreign > 5


@cocotb.test()
async def both_readers(dut: Any) -> None:
    given, rng, npr = configured()
    await begin(dut, INPUTS)
    mine = 2
    dut.index.value = mine
    codebook = [rng.randrange(-128, 128) for _ in range(16)]
    await write_codebook(dut, codebook)
    tape = Tape(npr, port_bits=given["port_bits"], lanes=given["lanes"], codebook=codebook)
    for number in range(24):
        blocks = rng.choice((1, 31, 33, rng.randrange(1, 100)))
        if number % 4 == 0:
            tape.k_page(rng.randrange(1, 25), rng.randrange(1, given["dim_blocks_max"] + 1))
        elif number % 4 == 1:
            tape.v_page(blocks)
        else:
            tape.weights(4 if number % 4 == 2 else 8, blocks)
    tape.place(bytes(16 * tape.word))
    read_memory(dut, tape.image, word=tape.word, ideal=False)
    image = bytes(tape.image)
    tasks = [
        cocotb.start_soon(drive_commands(dut, tape.commands, rng, ideal=False)),
        cocotb.start_soon(take_beats(dut, list(tape.beats), rng)),
        cocotb.start_soon(read_rows(dut, image, tape.word, mine, rng)),
    ]
    for task in tasks:
        await task


def test_channel() -> None:
    bench = {"port_bits": 256, "lanes": 32, "buffer_words": 64, "dim_blocks_max": 2}
    run_block(Channel(**bench, channels=4, header_words=8, retries=3), __name__, parameters=bench)
