"""Plays requests on a pass controller against a Python model of the token loop."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from typing import Any

from cocotb.triggers import FallingEdge, Timer

from tokenloom.hw.sequencer.pass_control import EOS_IDS
from tokenloom.hw.sequencer.registers import VOCAB_BITS
from tokenloom.hw.sequencer.tape_control import PASS_BITS

__all__ = ["INPUTS", "SHORT", "Bench", "request", "stopped", "unknown"]

INPUTS = (
    "req_valid req_tokens req_new req_slot req_eos req_eos_used req_sampling prompt_valid "
    "prompt_token begin_ready kv_done kv_full release_ready lookup_page fetch_ready embedding_base "
    "embedding_stride vocab en over chosen broken quiet cancel"
).split()
SHORT = 40  # tokens of a prompt that is cut off, at most
PATIENCE = 500  # cycles until the next thing has to happen


class Bench:
    """Everything around the pass controller; `rate` is the chance that a partner is ready."""

    def __init__(self, dut: Any, given: dict[str, int], rng: random.Random) -> None:
        self.dut, self.given, self.rng = dut, given, rng
        self.rate = 1.0
        self.refusals = 0
        self.clear()

    def clear(self) -> None:
        """As after a reset."""
        self.prompt: deque[int] = deque()
        self.fetched: list[tuple[int, int]] = []  # channel and address
        self.pages: list[int] = []
        self.nexts: list[int] = []
        self.outputs: list[tuple[int, int]] = []  # token and whether it is the last
        self.failures = 0
        self.over = 1
        self.token = 0
        self.slot = self.rows_used = self.lookups = 0
        self._held: Any = None
        self._asked = deque([0])
        self._given = False

    def pace(self, number: int) -> None:
        """Request by request other partners: always ready, often, seldom."""
        self.rate = (1.0, 0.7, 0.3)[number % 3]

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
        # The token counts when the pass is over.
        values["chosen"] = self.token if self.over else rng.getrandbits(given["vocab_bits"])
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
            "restart sampling begins next_valid next_token refused refused_ids halt"
        ).split()
        found = {name: int(getattr(dut, name).value) for name in names}
        self._asked.append(found["lookup_index"] if found["lookup_use"] else 1 << 20)
        self.lookups += found["lookup_use"]
        # What stays from one request to the next, from one pass to the next.
        assert found["begin_slot"] == found["release_slot"] == self.slot
        if found["begins"]:
            self.slot = values["req_slot"]
        assert self._given or found["rows_used"] == self.rows_used
        self.rows_used = found["rows_used"]
        self._given = bool(values["kv_done"] and not values["kv_full"])
        if offers and found["prompt_ready"]:
            self.prompt.popleft()
        assert found["begins"] == (values["req_valid"] and found["req_ready"])
        if found["next_valid"]:
            self.nexts.append(found["next_token"])
        assert found["refused_ids"] == self.refusals
        self.refusals += found["refused"]
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
        waited, left = 0, len(self.prompt)
        while waited < PATIENCE:
            found = await self.cycle(**values)
            if found[name]:
                return found
            waited = waited + 1 if len(self.prompt) == left else 0
            left = len(self.prompt)
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


async def stopped(bench: Bench, en: int) -> None:
    """A pass that `cancel` or a channel ends: all come to rest, and it is taken back."""
    dut, rng = bench.dut, bench.rng
    why = rng.choice(("cancel", "broken"))
    await bench.cycle(quiet=0, en=en, **{why: 1})
    for _ in range(rng.randrange(20)):
        found = await bench.cycle(quiet=0, en=0)
        assert dut.halt.value == 1 and dut.wipe.value == 0
        assert not found["active"] and not found["prompt_ready"] and not found["next_valid"]
    dut.quiet.value = 1
    await Timer(1, "ns")
    assert dut.wipe.value == 1 and dut.blame.value == 1
    await bench.cycle(quiet=1, en=0)
    found = await bench.cycle(quiet=1, en=0)
    assert found["failed"] and found["halt"]
    dut.broken.value = 0  # the channels are reset
    bench._held = None  # a fetch under way goes with the rest
    bench.fetched, bench.nexts = [], []


async def request(
    bench: Bench,
    *,
    passes: int,
    length: int = 0,
    new: int = 0,
    refused: int | None = None,
    cancelled: int | None = None,
    ends: list[int] | None = None,
    used: int = 0,
    tokens: Sequence[int] = (),
) -> tuple[int, bool]:
    """One request up to its release: the passes counted so far, and whether it was refused.

    `refused` is the pass that finds no room, `cancelled` one that is ended from outside. A length
    of 0 is any, and then any pass may be refused; `new` is any, too, and so are the end ids and
    those used without `ends`. `tokens` are sampled first.
    """
    rng, given = bench.rng, bench.given
    rows, page = given["rows"], given["page_tokens"]
    bits, most = given["vocab_bits"], given["positions"]
    if not length:
        length = rng.choice((1, rows, rows + 1, 3 * rows, rng.randrange(1, 4 * rows)))
        refused = rng.choice((None, None, rng.randrange(6)))
    # Few positions leave no room for many tokens.
    new = new or rng.choice((1, 2, rng.randrange(1, min(7, most))))
    # Whoever asks for more ends with an end token, or without room.
    many = not tokens and rng.random() < 0.2
    if many:
        new = 1 + (1 << rng.randrange(20))
    vocab = 1 << bits
    if not tokens:
        vocab = rng.choice((vocab, vocab // 2 + 1, rng.randrange(vocab // 2 + 1, vocab + 1)))

    def any_id() -> int:
        return rng.choice((0, vocab - 1, *(rng.randrange(vocab) for _ in range(8))))

    prompt = [any_id() for _ in range(length)]
    if ends is None:
        ends = [any_id() for _ in range(EOS_IDS)]
        if rng.random() < 0.4:  # differs from a token in one bit alone, so no token is this one
            ends[rng.randrange(EOS_IDS)] |= 1 << rng.randrange(bits, 32)
        used = rng.choice((0, rng.getrandbits(EOS_IDS), (1 << EOS_IDS) - 1))
        if many:
            used = (1 << EOS_IDS) - 1
    slot = rng.getrandbits(len(bench.dut.req_slot))
    sampling = rng.getrandbits(len(bench.dut.req_sampling))
    base, stride = rng.getrandbits(32), rng.getrandbits(16)
    bench.dut.embedding_base.value, bench.dut.embedding_stride.value = base, stride
    bench.dut.vocab.value = vocab

    def place(token: int) -> tuple[int, int]:
        address = base + token // given["columns"] * stride
        return token % given["columns"], address % (1 << 32)

    bench.prompt.extend(prompt)
    bench.outputs, bench.fetched, bench.nexts, bench.failures = [], [], [], 0
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
        # Whoever cancels does not wait for a pass to begin.
        early = number == cancelled and not full and rng.random() < 0.3
        if early:
            bench.dut.cancel.value = 1
        bench.lookups = 0
        asked = await bench.answer("begin_valid", "begin_ready", full)
        assert [asked[k] for k in ("begin_slot", "begin_pos0", "begin_rows")] == [slot, pos, count]
        assert asked["failed"] == full
        if full:
            break
        bench.pages = [rng.getrandbits(16) for _ in range(given["pages_max"])]
        read = [current] if current is not None else left[:count]
        del left[: 0 if current is not None else count]
        samples = not left
        assert not bench.lookups
        started = await bench.until("restart", **({"en": 0} if early else {}))
        # The restart waits for a cycle of the belt.
        while not int(bench.dut.en.value) and not early:
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
        assert bench.lookups == 2
        if number == cancelled:
            bench.over = int(early)
            for _ in range(0 if early else rng.randrange(20)):
                await bench.cycle()
            await stopped(bench, 0)
            passes, full, bench.over = 0, 1, 1
            break
        bench.over = 0
        # The belt cannot be over before it had its embedding rows.
        for spent in range(PATIENCE):
            run = await bench.cycle()
            assert run["active"] and not run["restart"] and not run["out_valid"]
            assert not run["halt"] and not run["lookup_use"]
            assert {name: run[name] for name in want} == want
            if len(bench.fetched) == count and spent >= rng.randrange(6):
                break
        assert bench.fetched == [place(token) for token in read]
        assert bench.nexts == read
        bench.fetched, bench.nexts = [], []
        chosen = rng.choice(ends) & (1 << bits) - 1
        if sampled < len(tokens):
            chosen = tokens[sampled]
        elif rng.random() > (0.6 if many else 0.3):
            near = chosen ^ 1 << rng.randrange(bits)
            chosen = rng.choice((near if near < vocab else 0, any_id(), any_id()))
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
    assert not bench.prompt and not bench.fetched and not bench.nexts
    assert (bench.failures, len(bench.outputs)) == (full, sampled)
    bench.dut.cancel.value = 0
    for _ in range(rng.randrange(3)):
        assert (await bench.cycle())["req_ready"]
    return passes, bool(full)


async def unknown(bench: Bench, number: int) -> None:
    """A request with an id that the model has not."""
    dut, given, rng = bench.dut, bench.given, bench.rng
    rows, columns = given["rows"], given["columns"]
    # All widths, whatever the tokens' is: the comparison and the addresses know none.
    vocab = rng.choice(((1 << given["vocab_bits"]) - 1, 1 << rng.randrange(VOCAB_BITS),
                        rng.randrange(1, 1 << VOCAB_BITS)))  # fmt: skip
    dut.vocab.value, dut.embedding_base.value, dut.embedding_stride.value = vocab, 0, 1
    length = rng.randrange(1, min(SHORT, given["positions"]) + 1)
    slot, wrong = rng.getrandbits(len(dut.req_slot)), rng.randrange(length)
    prompt = [rng.choice((0, vocab - 1, rng.randrange(vocab))) for _ in range(length)]
    bit = 1 << number % 32
    higher = rng.randrange(vocab) | 1 << rng.randrange(VOCAB_BITS, 32)
    prompt[wrong] = rng.choice((vocab, vocab + 1, vocab | bit, vocab | bit, higher, (1 << 32) - 1))
    bench.prompt.extend(prompt)
    bench.outputs, bench.failures, bench.fetched, bench.nexts, bench.over = [], 0, [], [], 1
    refusals = bench.refusals
    await bench.cycle(req_valid=1, req_tokens=length, req_new=2, req_slot=slot)
    for first in range(0, wrong + 1, rows):
        await bench.answer("begin_valid", "begin_ready")
        bench.pages = [rng.getrandbits(16) for _ in range(given["pages_max"])]
        bench.over = 1
        await bench.until("restart", en=1)
        bench.over = 0
        if first + rows <= wrong:  # a pass without the unknown id
            for _ in range(PATIENCE):
                if len(bench.fetched) == first + rows:
                    break
                await bench.cycle()
            bench.over = 1
    await bench.until("halt", quiet=0)
    for _ in range(rng.randrange(4)):
        await bench.cycle(quiet=0)
    await bench.cycle(quiet=1)
    assert (await bench.cycle(quiet=1))["failed"]
    bench._held = None
    await bench.answer("release_valid", "release_ready")
    assert (bench.failures, bench.outputs, len(bench.prompt)) == (1, [], 0)
    assert bench.refusals == refusals + 1
    places = [(token % columns, token // columns) for token in prompt[:wrong]]
    assert bench.fetched == places[: len(bench.fetched)]
    assert len(bench.fetched) >= wrong - 1  # the last of them may have waited when it ended
    assert bench.nexts == [token % (1 << given["vocab_bits"]) for token in prompt[:wrong]]
    assert (await bench.cycle())["req_ready"]
