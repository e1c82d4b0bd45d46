"""The token loop against a Python model: prompts in chunks, sampled tokens, ends and refusals."""

from __future__ import annotations

from typing import Any

import cocotb
import pytest
from cocotb.triggers import FallingEdge, Timer

from tests.deep import deep
from tests.hw.clocked import begin, reset
from tests.hw.memory.test_tape_reader import configured
from tests.hw.sequencer.pass_bench import INPUTS, SHORT, Bench, request, stopped, unknown
from tokenloom.hw.sequencer.pass_control import EOS_IDS, PassControl
from tokenloom.sim.bench import run_block


@cocotb.test()
async def requests(dut: Any) -> None:
    given, rng, _ = configured()
    await begin(dut, INPUTS)
    bench = Bench(dut, given, rng)
    passes = failed = 0
    for number in range(given["requests"]):
        bench.pace(number)
        passes, refused = await request(bench, passes=passes)
        failed += refused
    assert 3 < failed < given["requests"] // 2
    assert passes > given["requests"]


@cocotb.test()
async def end_tokens(dut: Any) -> None:
    """Tokens and end ids one bit apart, ids that do not count, all widths of `req_new`."""
    given, rng, _ = configured()
    await begin(dut, INPUTS)
    bench = Bench(dut, given, rng)
    bits, most, every = given["vocab_bits"], given["positions"], (1 << EOS_IDS) - 1
    ends = rng.sample(range(1 << bits), EOS_IDS)
    others = [token for token in (end ^ 1 << i for end in ends for i in range(bits))
              if token not in ends]  # fmt: skip
    passes = 0

    async def sampled(tokens: list[int], **options: Any) -> None:
        """With the last of them it ends."""
        nonlocal passes
        before = passes
        passes, refused = await request(bench, passes=passes, length=1, tokens=tokens, **options)
        assert (passes - before, refused) == (len(tokens), False)

    while others:
        few, others = others[: most - 1], others[most - 1 :]
        await sampled([*few, rng.choice(ends)], new=(1 << 20) - 1, ends=ends, used=every)
    for bit in range(bits, 32):
        apart = [end | 1 << bit for end in ends]
        await sampled([*ends, ends[0]], new=EOS_IDS + 1, ends=apart, used=every)
    for i, end in enumerate(ends):
        await sampled([end, ends[i - 1]], new=1 << 10, ends=ends, used=every ^ 1 << i)
        await sampled([ends[i - 1], end], new=1 << 10, ends=ends, used=1 << i)
    for bit in range(1, 20):
        await sampled([ends[0], ends[1]], new=1 + (1 << bit), ends=ends, used=0b1110)


@cocotb.test()
async def cancelled_requests(dut: Any) -> None:
    """At any time in a pass: the channels come to rest, then everything is taken back."""
    given, rng, _ = configured()
    await begin(dut, INPUTS)
    bench = Bench(dut, given, rng)
    dut.vocab.value = 1 << given["vocab_bits"]
    for number in range(given["requests"]):
        bench.pace(number)
        most = min(SHORT, given["positions"])
        length, slot = rng.randrange(1, most + 1), rng.getrandbits(len(dut.req_slot))
        bench.prompt.extend(rng.randrange(1 << given["vocab_bits"]) for _ in range(length))
        bench.outputs, bench.failures, bench.over = [], 0, 1
        await bench.cycle(req_valid=1, req_tokens=length, req_new=2, req_slot=slot)
        await bench.answer("begin_valid", "begin_ready")
        bench.pages = [rng.getrandbits(16) for _ in range(given["pages_max"])]
        started = await bench.until("restart", en=0)
        assert started["passes"] == 1  # of an earlier request none is left
        if rng.random() < 0.8:
            while not (await bench.cycle(en=1))["restart"]:
                pass
            bench.over = 0
            for _ in range(rng.randrange(20)):
                await bench.cycle()
        # The belt stands still at the start, or goes on.
        await stopped(bench, bench.over ^ 1)
        released = await bench.answer("release_valid", "release_ready")
        assert released["release_slot"] == slot
        assert (bench.failures, bench.outputs, len(bench.prompt)) == (1, [], 0)
        assert (await bench.cycle(cancel=0))["req_ready"]
    # In a later pass, of the prompt or of what was sampled; and the next one runs well.
    passes = 0
    for number in range(given["requests"] // 2):
        bench.pace(number)
        passes, _ = await request(bench, passes=passes, cancelled=rng.randrange(5))


@cocotb.test()
async def channels_begin_anew(dut: Any) -> None:
    """A channel failed before the request came: all come to rest, and the request is played."""
    given, rng, _ = configured()
    await begin(dut, INPUTS)
    bench = Bench(dut, given, rng)
    seen = []

    async def channels() -> None:
        """Broken until they are reset, and quiet a while after they were told to halt."""
        halted = 0
        while True:
            await FallingEdge(dut.clk)
            await Timer(2, "ns")
            dut.quiet.value = int(halted > delay)
            await Timer(1, "ns")
            halted = halted + 1 if dut.halt.value == 1 else 0
            if dut.wipe.value == 1:
                seen.append(int(dut.blame.value))
                assert dut.begin_valid.value == 0 and dut.req_ready.value == 0
                await FallingEdge(dut.clk)
                assert dut.halt.value == 1  # while the reset arrives
                dut.broken.value = 0

    delay = 0
    cocotb.start_soon(channels())
    for number in range(given["requests"] // 4):
        bench.pace(number)
        delay = rng.randrange(12)
        dut.broken.value = 1
        await request(bench, passes=0)
        assert seen == [0] * (number + 1)
    # Without a broken channel nothing is reset.
    await request(bench, passes=int(dut.passes.value))
    assert len(seen) == given["requests"] // 4


@cocotb.test()
async def unknown_ids(dut: Any) -> None:
    """An id that the model has not: no read for it, the request ends, the next one is served."""
    given, rng, _ = configured()
    await begin(dut, INPUTS)
    bench = Bench(dut, given, rng)
    passes = 0
    for number in range(given["requests"]):
        bench.pace(number)
        await unknown(bench, number)
        if number % 8 == 0:
            passes, _ = await request(bench, passes=0)
    assert bench.refusals == given["requests"]


@cocotb.test()
async def resets(dut: Any) -> None:
    """At any time: nothing of the request is left, counts begin anew, the next one runs well."""
    given, rng, _ = configured()
    await begin(dut, INPUTS)
    bench = Bench(dut, given, rng)

    async def again() -> None:
        await reset(dut, INPUTS)
        bench.clear()
        bench.refusals = 0
        idle = await bench.cycle()
        assert idle["req_ready"]
        for name in ("passes refused_ids fetch_valid begin_valid release_valid prompt_ready active "
                     "restart halt failed out_valid next_valid rows_used pos sample page_first "
                     "page_last sampling fetch_addr fetch_channel").split():  # fmt: skip
            assert idle[name] == 0, name

    for number in range(given["requests"] // 2):
        bench.pace(number)
        if number % 4 == 0:
            await unknown(bench, number)
        passes, _ = await request(bench, passes=0)
        under_way = cocotb.start_soon(request(bench, passes=passes))
        for _ in range(rng.randrange(90)):
            await FallingEdge(dut.clk)
        await Timer(2, "ns")
        under_way.cancel()
        await again()
        await request(bench, passes=0)
        await again()
    # Prompts of all lengths: their first pass is not the last.
    for bit in range(20):
        count = given["rows"] + (1 << bit)
        await bench.cycle(req_valid=1, req_tokens=count, req_new=1)
        asked = await bench.answer("begin_valid", "begin_ready")
        assert asked["begin_rows"] == given["rows"]
        assert not (await bench.until("restart"))["sample"]
        await again()


@cocotb.test()
async def long_prompts(dut: Any) -> None:
    """As many positions as there are, and the rest of a prompt that found no room."""
    given, rng, _ = configured()
    await begin(dut, INPUTS)
    bench = Bench(dut, given, rng)
    most = given["positions"]
    passes, refused = await request(bench, passes=0, length=most - 1, new=2, ends=[0] * EOS_IDS)
    assert (passes, refused) == (1 - (1 - most) // given["rows"], False)
    bit = 13 if most >> 13 else 12
    number, refused = await request(bench, passes=passes, refused=2,
                                    length=rng.randrange(1 << bit, 2 << bit))  # fmt: skip
    assert refused
    # And as many tokens as a counter's second half needs.
    new = min(most - 1, 1 + (1 << 8))
    before = int(dut.refused_ids.value), number
    number, refused = await request(
        bench, passes=number, length=1, new=new, ends=[0] * EOS_IDS, used=0,
        tokens=[rng.randrange(1 << given["vocab_bits"]) for _ in range(new)],
    )  # fmt: skip
    assert (before, refused) == ((0, number - new), False)


@pytest.mark.parametrize(
    "bench",
    [
        {"rows": 4, "columns": 4, "vocab_bits": 5, "slot_bits": 2, "page_tokens": 2,
         "pages_max": 16, "positions": 18},
        {"rows": 1, "columns": 1, "vocab_bits": 3, "slot_bits": 1, "page_tokens": 32,
         "pages_max": 1, "positions": 5},
        {"rows": 4, "columns": 8, "vocab_bits": 9, "slot_bits": 2, "page_tokens": 16,
         "pages_max": 160, "positions": 2500},
        deep({"rows": 8, "columns": 32, "vocab_bits": 17, "slot_bits": 4, "page_tokens": 4,
              "pages_max": 16, "positions": 64}),
    ],
    ids=["4", "1", "long", "8"],
)  # fmt: skip
def test_pass_control(bench: dict[str, int]) -> None:
    run_block(PassControl(**bench), __name__, parameters=bench | {"requests": 80})


@pytest.mark.parametrize("name", ["columns", "page_tokens"])
def test_refusals(name: str) -> None:
    good = {"rows": 2, "columns": 4, "vocab_bits": 5, "slot_bits": 1, "page_tokens": 32}
    with pytest.raises(ValueError, match=name):
        PassControl(**{**good, "pages_max": 4, "positions": 99, name: 6})
