# amaranth: UnusedElaboratable=no
"""RmsNormUnit against the golden functions: every value, every stated cycle, back-pressure."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge

from tests.deep import deep
from tests.hw.clocked import begin
from tests.hw.elastic_bench import Receiver, Sender, tick
from tests.hw.norm.test_rmsnorm import streams
from tests.hw.words import pack, unpack
from tokenloom.hw.norm.layer_norm import layer_norm, layer_norm_sums
from tokenloom.hw.norm.rmsnorm_unit import RmsNormUnit
from tokenloom.hw.numbers import formats
from tokenloom.sim.bench import parameters, run_block, seeded


def expected(
    stream: np.ndarray, model: int, gain: np.ndarray, bias: np.ndarray, eps: int, given: Any
) -> tuple[np.ndarray, list[bool]]:
    """The blocks [n, 32] of a padded vector, and whether one of each was clamped."""
    if given["layer_norm"]:
        y, k = formats.rsqrt_rows(layer_norm_sums(stream[None, :model], eps))
        total = [int(stream[:model].sum())]
        whole = lambda part: layer_norm(  # noqa: E731
            stream[None, part], gain[part], bias[part], y, k, totals=total, width=model
        )
    else:
        y, k = formats.rsqrt_rows(formats.norm_sums(formats.sum_squares(stream[None]), eps))
        whole = lambda part: formats.norm(stream[None, part], gain[part], y, k)  # noqa: E731
    found = [whole(slice(b, b + 32)) for b in range(0, len(stream), 32)]
    return np.concatenate([value for value, _ in found]), [count > 0 for _, count in found]


@cocotb.test()
async def vectors(dut: Any) -> None:
    rng = seeded()
    generator = np.random.default_rng(rng.getrandbits(32))
    given = dict(parameters())
    wanted = given.pop("values")
    unit = RmsNormUnit(**given)
    lanes, width = given["norm_lanes"], given["width"]
    names = ["in_valid", "out_ready", "cfg_we", "words", "eps"]
    names += ["bias_we", "count"] if given["layer_norm"] else []
    names += ["floor"] if given["quantise"] else []
    await begin(dut, names)
    given_out = ("out_codes", "out_sx", "out_sum") if given["quantise"] else (
        "out_values", "out_saturated")  # fmt: skip
    sender = Sender(dut, "in", ["in_values"], rng)
    receiver = Receiver(dut, "out", ["out_last", *given_out], rng)
    now = clamped_ever = 0
    rounds = [(0.0, 0.0), (0.3, 0.0), (0.0, 0.6), (0.5, 0.5)]
    for gap, wait in rounds:
        model = width if gap == 0.0 else int(generator.integers(width // 2 + 1, width + 1))
        words = unit.words_for(model)
        size = words * lanes
        gain, bias = np.zeros((2, size), dtype=np.int64)
        gain[:model] = generator.integers(-32767, 32768, model)
        bias[:model] = generator.integers(-(2**31), 2**31, model)
        eps, floor = rng.choice((1, rng.getrandbits(40) | 1)), rng.randrange(12)
        dut.words.value, dut.eps.value, dut.out_ready.value = words, eps, 1
        if given["quantise"]:
            dut.floor.value = floor
        if given["layer_norm"]:
            dut.count.value = model
        for word in range(words):
            part = slice(word * lanes, (word + 1) * lanes)
            dut.cfg_we.value, dut.cfg_addr.value = 1, word
            dut.cfg_data.value = pack(gain[part], 16)
            if given["layer_norm"]:
                dut.bias_we.value, dut.bias_addr.value = 1, word
                dut.bias_data.value = pack(bias[part], 32)
            await FallingEdge(dut.clk)
        dut.cfg_we.value = 0
        if given["layer_norm"]:
            dut.bias_we.value = 0

        # One vector alone, then the others as fast as the gaps let them come.
        count = max(4, wanted // (width * len(rounds)))
        for number in (1, count):
            inputs, due = [], []
            for _ in range(number):
                stream = np.zeros(size, dtype=np.int64)
                stream[:model] = streams(generator, 1, model)[0]
                inputs += [{"in_values": pack(line, 32)} for line in stream.reshape(-1, lanes)]
                blocks, clamped = expected(stream, model, gain, bias, eps, given)
                clamped_ever += sum(clamped)
                due += zip(blocks, clamped, strict=True)
            sender.load(inputs, gap)
            receiver.wait, receiver.found = wait, []
            while len(receiver.found) < len(due):
                now = await tick(dut, now, sender, receiver)
            for place, ((_, item), (block, flag)) in enumerate(
                zip(receiver.found, due, strict=True)
            ):
                assert item["out_last"] == (place % (size // 32) == size // 32 - 1)
                if given["quantise"]:
                    codes, shift, total = formats.mx_quantise(block, floor)
                    assert unpack(item["out_codes"], 9, 32) == codes.tolist()
                    assert (item["out_sx"], item["out_sum"]) == (shift, int(total) & 0x3FFF)
                else:
                    assert unpack(item["out_values"], 32, 32) == block.tolist(), f"block {place}"
                    assert item["out_saturated"] == flag
            ends = sender.taken[words - 1 :: words]
            lasts = [cycle for cycle, item in receiver.found if item["out_last"]]
            if wait == 0.0:
                assert receiver.found[0][0] == ends[0] + unit.first_block()
                assert lasts[0] == ends[0] + unit.last_block(words=words)
            if wait == gap == 0.0:
                steps = np.diff(lasts)
                assert (steps == unit.interval(words=words)).all(), steps
    # In a vector of few values hardly one lies far enough from their mean.
    assert clamped_ever or not given["layer_norm"] or width < 32


# With TOKENLOOM_DEEP a million values each.
CASES = [
    (4096, 16, False, False, 0),
    (70, 8, True, False, 0),
    (96, 32, False, True, 0),
    deep(4096, 16, False, False, 10**6),
    deep(576, 16, True, True, 10**6),
    deep(100, 2, True, False, 10**6),
]


@pytest.mark.parametrize("width, norm_lanes, layer_norm, quantise, values", CASES)
def test_rmsnorm_unit(
    width: int, norm_lanes: int, layer_norm: bool, quantise: bool, values: int
) -> None:
    given = {
        "width": width,
        "norm_lanes": norm_lanes,
        "layer_norm": layer_norm,
        "quantise": quantise,
    }
    run_block(RmsNormUnit(**given), __name__, parameters={**given, "values": values})


def test_4096_values_take_256_cycles_and_the_stated_latency() -> None:
    unit = RmsNormUnit(width=4096, norm_lanes=16)
    words = unit.words_for(4096)
    assert words == 256
    # From the last value in to the last block out: the scan, and 27 cycles for root and pipeline.
    assert unit.last_block(words=words) == 256 + 27
    assert unit.interval(words=words) == 256 + 20


def test_parameters() -> None:
    with pytest.raises(ValueError, match="norm_lanes = 1"):
        RmsNormUnit(width=64, norm_lanes=1)
    with pytest.raises(ValueError, match="width = 0"):
        RmsNormUnit(width=0, norm_lanes=8)
