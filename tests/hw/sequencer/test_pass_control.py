"""The token loop against a Python model: prompts in chunks, sampled tokens, ends and refusals."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import cocotb
import pytest
from cocotb.triggers import FallingEdge, Timer

from tests.deep import deep
from tests.hw.clocked import begin
from tests.hw.memory.test_tape_reader import configured
from tokenloom.hw.sequencer.pass_control import EOS_IDS, PassControl
from tokenloom.hw.sequencer.tape_control import PASS_BITS
from tokenloom.sim.bench import run_block

INPUTS = (
    "req_valid req_tokens req_new req_slot req_eos req_eos_used req_sampling prompt_valid "
    "prompt_token begin_ready kv_done kv_full release_ready lookup_page fetch_ready embedding_base "
    "embedding_stride vocab en over tokens broken quiet cancel"
).split()
SHORT = 40  # tokens of a prompt that is cut off, at most
PATIENCE = 500  # cycles until the next thing has to happen


class Bench:
    """Everything around the pass controller; `rate` is the chance that a partner is ready."""

    def __init__(self, dut: Any, given: dict[str, int], rng: random.Random) -> None:
        self.dut, self.given, self.rng = dut, given, rng
        self.rate = 1.0
        self.prompt: deque[int] = deque()
        self.fetched: list[tuple[int, int]] = []  # channel and address
        self.pages: list[int] = []
        self.outputs: list[tuple[int, int]] = []  # token and whether it is the last
        self.failures = 0
        self.over = 1
        self.row = 0
        self.token = 0
        self._held: Any = None
        self._asked = deque([0])

    def ready(self) -> int:
        return int(self.rng.random() < self.rate)

    async def cycle(self, **values: int) -> dict[str, int]:
        """One clock cycle: `values` at the named inputs; the outputs in that cycle."""
        dut, rng, given = self.dut, self.rng, self.given
        values.setdefault("en", self.ready())
        for name in ("req_valid", "begin_ready", "kv_done", "kv_full", "release_ready"):
            values.setdefault(name, 0)
        for name in ("req_tokens", "req_new", "req_slot", "req_eos", "req_eos_used",
                     "req_sampling"):  # fmt: skip
            values.setdefault(name, rng.getrandbits(len(getattr(dut, name))))
        offers = bool(self.prompt) and (dut.prompt_valid.value == 1 or self.ready())
        values |= {
            "prompt_valid": int(offers),
            "prompt_token": self.prompt[0] if offers else rng.getrandbits(32),
            "fetch_ready": self.ready(),
            "over": self.over,
        }
        # Only the pass's last row has a token that counts, and only when the pass is over.
        bits = given["vocab_bits"]
        tokens = rng.getrandbits(bits * given["rows"])
        if self.over:
            tokens &= ~(((1 << bits) - 1) << bits * self.row)
            tokens |= self.token << bits * self.row
        values["tokens"] = tokens
        index = self._asked.popleft()
        asks = self.pages and index < len(self.pages)
        values["lookup_page"] = self.pages[index] if asks else rng.getrandbits(16)
        for name, value in values.items():
            getattr(dut, name).value = value
        await Timer(1, "ns")
        names = (
            "req_ready prompt_ready out_valid out_token out_last failed begin_valid begin_slot "
            "begin_pos0 begin_rows release_valid release_slot lookup_index lookup_use fetch_valid "
            "fetch_addr fetch_channel rows_used pos sample page_first page_last passes active "
            "restart sampling"
        ).split()
        found = {name: int(getattr(dut, name).value) for name in names}
        self._asked.append(found["lookup_index"] if found["lookup_use"] else 1 << 20)
        if offers and found["prompt_ready"]:
            self.prompt.popleft()
        fetch = found["fetch_channel"], found["fetch_addr"]
        if found["fetch_valid"]:
            assert self._held in (None, fetch), "a fetch changed while it waited"
            self._held = fetch
            if values["fetch_ready"]:
                self.fetched.append(fetch)
                self._held = None
        else:
            assert self._held is None, "a fetch was withdrawn"
        if found["out_valid"]:
            self.outputs.append((found["out_token"], found["out_last"]))
        self.failures += found["failed"]
        await FallingEdge(dut.clk)
        return found

    async def until(self, name: str, **values: int) -> dict[str, int]:
        """The cycle in which output `name` is high."""
        for _ in range(PATIENCE + 10 * len(self.prompt)):
            found = await self.cycle(**values)
            if found[name]:
                return found
        raise AssertionError(f"no {name}")

    async def answer(self, valid: str, ready: str, full: int = 0) -> dict[str, int]:
        """Takes a request to the KV manager, and answers it a while later."""
        found = await self.until(valid)
        while True:
            accept = self.ready()
            again = await self.cycle(**{ready: accept})
            assert again[valid] and again[valid.replace("valid", "slot")] == found[
                valid.replace("valid", "slot")
            ]  # fmt: skip
            if accept:
                break
        for _ in range(self.rng.randrange(4)):
            idle = await self.cycle(kv_full=self.rng.getrandbits(1))
            assert not idle[valid] and not idle["restart"]
        found |= {"failed": (await self.cycle(kv_done=1, kv_full=full))["failed"]}
        return found


async def request(
    bench: Bench, *, passes: int, length: int = 0, refused: int | None = None
) -> tuple[int, bool]:
    """One request up to its release: the passes counted so far, and whether it was refused.

    `refused` is the pass that finds no room. A length of 0 is any, and then any pass may.
    """
    rng, given = bench.rng, bench.given
    rows, page = given["rows"], given["page_tokens"]
    bits, most = given["vocab_bits"], given["positions"]
    if not length:
        length = rng.choice((1, rows, rows + 1, 3 * rows, rng.randrange(1, 4 * rows)))
        refused = rng.choice((None, None, rng.randrange(6)))
    # The last ones end with an end token or without room.
    new = rng.choice((1, 2, rng.randrange(1, 7), 1 + (1 << rng.randrange(20))))
    prompt = [rng.randrange(1 << bits) for _ in range(length)]
    ends = [rng.randrange(1 << bits) for _ in range(EOS_IDS)]
    if rng.random() < 0.4:  # differs from a token in one bit alone, so no token is this one
        ends[rng.randrange(EOS_IDS)] |= 1 << rng.randrange(bits, 32)
    used = rng.choice((0, rng.getrandbits(EOS_IDS), (1 << EOS_IDS) - 1))
    if new > 8:
        used = (1 << EOS_IDS) - 1
    slot = rng.getrandbits(len(bench.dut.req_slot))
    sampling = rng.getrandbits(len(bench.dut.req_sampling))
    base, stride = rng.getrandbits(24), rng.getrandbits(12)
    bench.dut.embedding_base.value, bench.dut.embedding_stride.value = base, stride
    bench.dut.vocab.value = 1 << bits

    def place(token: int) -> tuple[int, int]:
        return token % given["columns"], base + token // given["columns"] * stride

    bench.prompt.extend(prompt)
    bench.outputs, bench.fetched, bench.failures = [], [], 0
    found = await bench.cycle(
        req_valid=1, req_tokens=length, req_new=new, req_slot=slot,
        req_eos=sum(e << 32 * i for i, e in enumerate(ends)), req_eos_used=used,
        req_sampling=sampling,
    )  # fmt: skip
    assert found["req_ready"]
    pos, left, number, sampled = 0, list(prompt), 0, 0
    current: int | None = None
    while True:
        count = 1 if current is not None else min(rows, len(left))
        full = int(number == refused or pos + count > most)
        asked = await bench.answer("begin_valid", "begin_ready", full)
        assert [asked[k] for k in ("begin_slot", "begin_pos0", "begin_rows")] == [slot, pos, count]
        assert asked["failed"] == full
        if full:
            break
        bench.pages = [rng.getrandbits(16) for _ in range(given["pages_max"])]
        read = [current] if current is not None else left[:count]
        del left[: 0 if current is not None else count]
        samples = not left
        started = await bench.until("restart")
        # The restart waits for a cycle of the belt.
        while not int(bench.dut.en.value):
            assert started["active"]
            started = await bench.cycle()
            assert started["restart"]
        passes += 1
        want = {
            "rows_used": count, "pos": pos, "sample": int(samples), "active": 1,
            "page_first": bench.pages[pos // page],
            "page_last": bench.pages[(pos + count - 1) // page],
            "passes": passes % (1 << PASS_BITS), "sampling": sampling,
        }  # fmt: skip
        assert {name: started[name] for name in want} == want
        bench.over, bench.row = 0, count - 1
        # The belt cannot be over before it had its embedding rows.
        for spent in range(PATIENCE):
            run = await bench.cycle()
            assert run["active"] and not run["restart"] and not run["out_valid"]
            assert {name: run[name] for name in want} == want
            if len(bench.fetched) == count and spent >= rng.randrange(6):
                break
        assert bench.fetched == [place(token) for token in read]
        bench.fetched = []
        chosen = rng.randrange(1 << bits)
        if rng.random() < 0.3:
            chosen = rng.choice(ends) & (1 << bits) - 1
        bench.over, bench.token = 1, chosen
        assert not (await bench.cycle())["active"]
        after = await bench.cycle()
        assert not after["active"] and after["out_valid"] == samples
        pos, number = pos + count, number + 1
        if samples:
            sampled += 1
            end = any(used >> i & 1 and e == chosen for i, e in enumerate(ends))
            last = int(end or sampled == new)
            assert (after["out_token"], after["out_last"]) == (chosen, last)
            current = chosen
            if last:
                break
    released = await bench.answer("release_valid", "release_ready")
    assert released["release_slot"] == slot
    # What was left of a refused prompt is gone, nothing else was sampled, the next may come.
    assert not bench.prompt and not bench.fetched
    assert (bench.failures, len(bench.outputs)) == (full, sampled)
    for _ in range(rng.randrange(3)):
        assert (await bench.cycle())["req_ready"]
    return passes, bool(full)


@cocotb.test()
async def requests(dut: Any) -> None:
    given, rng, _ = configured()
    await begin(dut, INPUTS)
    bench = Bench(dut, given, rng)
    passes = failed = 0
    for number in range(given["requests"]):
        bench.rate = (1.0, 0.7, 0.3)[number % 3]
        passes, refused = await request(bench, passes=passes)
        failed += refused
    assert 3 < failed < given["requests"] // 2
    assert passes > given["requests"]


@cocotb.test()
async def long_prompts(dut: Any) -> None:
    """As many positions as there are, and the rest of a prompt that found no room."""
    given, rng, _ = configured()
    await begin(dut, INPUTS)
    bench = Bench(dut, given, rng)
    most = given["positions"]
    passes, refused = await request(bench, passes=0, length=most - 1)
    assert passes > (most - 1) // given["rows"]
    number, refused = await request(bench, passes=passes, length=rng.randrange(1 << 12, 1 << 13),
                                    refused=2)  # fmt: skip
    assert refused


@cocotb.test()
async def cancelled_requests(dut: Any) -> None:
    """At any time in a pass: the channels come to rest, then everything is taken back."""
    given, rng, _ = configured()
    await begin(dut, INPUTS)
    bench = Bench(dut, given, rng)
    dut.vocab.value = 1 << given["vocab_bits"]
    for number in range(given["requests"]):
        bench.rate = (1.0, 0.7, 0.3)[number % 3]
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
        en = bench.over ^ 1  # the belt stands still at the start, or goes on
        await bench.cycle(cancel=1, quiet=0, en=en)
        for _ in range(rng.randrange(20)):
            found = await bench.cycle(cancel=1, quiet=0, en=0)
            assert dut.halt.value == 1 and dut.wipe.value == 0
            assert not found["active"] and not found["prompt_ready"]
        for name, value in (("cancel", 1), ("quiet", 1)):
            getattr(dut, name).value = value
        await Timer(1, "ns")
        assert dut.wipe.value == 1 and dut.blame.value == 1
        await bench.cycle(cancel=1, quiet=1, en=0)
        assert (await bench.cycle(cancel=1, quiet=1, en=0))["failed"]
        bench._held = None  # a fetch under way goes with the rest
        released = await bench.answer("release_valid", "release_ready")
        assert released["release_slot"] == slot
        assert (bench.failures, bench.outputs, len(bench.prompt)) == (1, [], 0)
        assert (await bench.cycle(cancel=0))["req_ready"]


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
        bench.rate = (1.0, 0.7, 0.3)[number % 3]
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
    vocab, rows = (1 << given["vocab_bits"]) - 1, given["rows"]
    dut.vocab.value, dut.embedding_base.value, dut.embedding_stride.value = vocab, 0, 1
    refused = 0
    for number in range(given["requests"]):
        bench.rate = (1.0, 0.7, 0.3)[number % 3]
        length = rng.randrange(1, min(SHORT, given["positions"]) + 1)
        slot, wrong = rng.getrandbits(len(dut.req_slot)), rng.randrange(length)
        prompt = [rng.randrange(vocab) for _ in range(length)]
        prompt[wrong] = rng.choice((vocab, vocab + 1, 1 << 31, (1 << 32) - 1))
        bench.prompt.extend(prompt)
        bench.outputs, bench.failures, bench.fetched, bench.over = [], 0, [], 1
        await bench.cycle(req_valid=1, req_tokens=length, req_new=2, req_slot=slot)
        for first in range(0, wrong + 1, rows):
            await bench.answer("begin_valid", "begin_ready")
            bench.pages = [rng.getrandbits(16) for _ in range(given["pages_max"])]
            bench.over, bench.row, bench.fetched = 1, rows - 1, bench.fetched
            await bench.until("restart", en=1)
            bench.over = 0
            if first + rows <= wrong:  # a pass without the unknown id
                while len(bench.fetched) < first + rows:
                    await bench.cycle()
                bench.over = 1
        while not dut.halt.value == 1:
            assert not (await bench.cycle(quiet=0))["failed"]
        for _ in range(rng.randrange(4)):
            await bench.cycle(quiet=0)
        await bench.cycle(quiet=1)
        assert (await bench.cycle(quiet=1))["failed"]
        bench._held = None
        await bench.answer("release_valid", "release_ready")
        refused += 1
        assert (bench.failures, bench.outputs, len(bench.prompt)) == (1, [], 0)
        assert int(dut.refused_ids.value) == refused
        columns = given["columns"]
        places = [(token % columns, token // columns) for token in prompt[:wrong]]
        assert bench.fetched == places[: len(bench.fetched)]
        assert len(bench.fetched) >= wrong - 1  # the last of them may have waited when it ended
        assert (await bench.cycle())["req_ready"]


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
