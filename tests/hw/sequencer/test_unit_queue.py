"""A unit's queue against its statement: order, counts to wait for, ends, and the very cycle."""

from __future__ import annotations

import random
from typing import Any

import cocotb
import pytest
from amaranth.lib.data import StructLayout
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, Timer

from tests.coverage import Coverage
from tests.hw.belt_bench import STALLS
from tokenloom.hw.sequencer import isa
from tokenloom.hw.sequencer.isa import CHUNK_LAYOUTS, DONE_BITS, LAYOUTS, Unit
from tokenloom.hw.sequencer.unit_queue import UnitQueue
from tokenloom.sim.bench import parameters, run_block, seeded

MOST = (1 << DONE_BITS) - 1


class Instruction:
    """Random bits with a header that means something."""

    def __init__(
        self, rng: random.Random, layout: StructLayout, *, stop: int, sample_only: int
    ) -> None:
        some = (0, 0, 0, 1, rng.randrange(8), rng.randrange(MOST + 1), MOST)
        self.wait = [rng.choice(some) if rng.random() < 0.6 else 0 for _ in Unit]
        self.stop, self.sample_only = stop, sample_only
        header = {"wait": self.wait, "sample_only": sample_only, "stop": stop}
        size = dict(isa.HEADER)["stop"].offset + 1
        self.word = isa.pack(layout, {"header": header})
        self.word |= rng.getrandbits(layout.size - size) << size

    def done(self, rng: random.Random) -> tuple[list[int], bool]:
        """Counts around those that it waits for, and whether they are enough."""
        counts = [
            min(MOST, max(0, n + rng.choice((0, 0, 1, rng.randrange(MOST))))) for n in self.wait
        ]
        short = [u for u in Unit if self.wait[u]]
        if short and rng.random() < 0.6:
            u = rng.choice(short)
            counts[u] = rng.choice((self.wait[u] - 1, rng.randrange(self.wait[u]), 0))
        return counts, all(c >= n for c, n in zip(counts, self.wait, strict=True))


def some_program(rng: random.Random, layout: StructLayout, depth: int) -> list[Instruction]:
    """Ends somewhere; its tail may be for passes that sample."""
    size = rng.choice((1, 2, depth, rng.randrange(1, depth + 1)))
    tail = rng.randrange(size)
    return [
        Instruction(rng, layout, stop=int(i == size - 1), sample_only=int(tail <= i < size - 1))
        for i in range(size)
    ]


class Bench:
    def __init__(self, dut: Any, rng: random.Random, chunks: bool) -> None:
        self.dut, self.rng = dut, rng
        self.strobes = ("cfg_we", "restart", "sample", "ready", *(("skip",) if chunks else ()))
        self.stall = 0.0

    async def cycle(self, **values: int) -> tuple[int, int, int]:
        """A belt cycle: its inputs, and (issue, op, stopped) in the same cycle.

        Cycles with `en` low come before it, with strobes that must have no effect.
        """
        dut, rng = self.dut, self.rng
        while rng.random() < self.stall:
            dut.en.value = 0
            for name in self.strobes:
                getattr(dut, name).value = rng.getrandbits(1)
            for name in ("cfg_addr", "cfg_data", "done"):
                getattr(dut, name).value = rng.getrandbits(len(getattr(dut, name)))
            await FallingEdge(dut.clk)
        dut.en.value = 1
        noise = {"cfg_addr": 0, "cfg_data": rng.getrandbits(len(dut.cfg_data)), "done": 0}
        for name in self.strobes:
            noise[name] = 0
        for name, value in (noise | values).items():
            getattr(dut, name).value = value
        await Timer(1, "ns")
        found = int(dut.issue.value), int(dut.op.value), int(dut.stopped.value)
        if "skip" in self.strobes:
            self.head = int(dut.position.value), int(dut.head.value)
        await FallingEdge(dut.clk)
        return found


@cocotb.test()
async def programs(dut: Any) -> None:
    rng = seeded()
    given = parameters()
    unit, depth = Unit(given["unit"]), given["depth"]
    chunks = bool(given["chunks"])
    layout = (CHUNK_LAYOUTS if chunks else LAYOUTS)[unit]
    bench = Bench(dut, rng, chunks)
    cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
    dut.rst.value = 1
    await FallingEdge(dut.clk)
    await bench.cycle()
    dut.rst.value = 0
    # Nothing plays before the first pass.
    assert (await bench.cycle(ready=1, done=(1 << len(dut.done)) - 1))[::2] == (0, 1)
    seen = Coverage(
        "not_ready", "exactly_enough", "stop", "left_out", "broken_off", "full", "stays_stopped",
        "stalled", *(f"waits_for_{u.name}_alone" for u in Unit),
        # One of two instructions is the end.
        *(["back_to_back"] if depth > 2 else []),
        *(["passed_over"] if chunks else []),
        least=5,
    )  # fmt: skip
    for turn in range(540 // depth):
        bench.stall = STALLS[turn % len(STALLS)]
        program = some_program(rng, layout, depth)
        for i, instruction in enumerate(program):
            await bench.cycle(cfg_we=1, cfg_addr=i, cfg_data=instruction.word)
        for _ in range(3):
            sample = rng.getrandbits(1)
            found = await bench.cycle(restart=1, sample=sample, ready=0)
            assert found[0] == 0
            at, last = 0, False
            # Now and then a pass begins before the last one's program has ended.
            patience = rng.choice((10_000, 10_000, rng.randrange(40)))
            while True:
                one = program[at]
                ends = bool(one.stop or (one.sample_only and not sample))
                counts, enough = one.done(rng)
                ready = int(rng.random() < 0.7)
                packed = sum(c << DONE_BITS * u for u, c in enumerate(counts))
                inputs = {"ready": ready, "sample": sample, "done": packed}
                skip = chunks and rng.random() < 0.2
                if chunks:
                    inputs["skip"] = int(skip)
                issue, op, stopped = await bench.cycle(**inputs)
                assert stopped == ends, (turn, at)
                wanted = not ends and not skip and enough and ready
                assert issue == wanted, (turn, at, one.wait, counts)
                if chunks:
                    assert bench.head == (at, one.word)
                short = [u for u in Unit if counts[u] < one.wait[u]]
                if ends:
                    seen.sample(stop=one.stop, left_out=not one.stop, full=at == depth - 1)
                    break
                both = zip(one.wait, counts, strict=True)
                if len(short) == 1:
                    seen.hit(f"waits_for_{short[0].name}_alone", when=ready and not skip)
                seen.sample(
                    not_ready=enough and not ready and not skip,
                    exactly_enough=issue and any(n and n == c for n, c in both),
                    stalled=issue and bench.stall,
                )
                if issue and last:
                    seen.hit("back_to_back")
                last = issue
                if issue:
                    assert op == one.word
                    at += 1
                elif skip:
                    seen.hit("passed_over")
                    at += 1
                patience -= 1
                if patience == 0:
                    seen.hit("broken_off")
                    break
            if ends:
                # It stays stopped, whatever is done and sampled.
                for _ in range(rng.randrange(5)):
                    noise = rng.getrandbits(len(dut.done))
                    found = await bench.cycle(ready=1, sample=1, done=noise)
                    assert found[::2] == (0, 1), turn
                    if chunks:
                        assert bench.head == (at, one.word), "the end stays at the head"
                    seen.hit("stays_stopped")
    seen.check()


@pytest.mark.parametrize(
    ("unit", "depth", "chunks"),
    [(Unit.ARRAY, 9, False), (Unit.EMBED, 2, False), (Unit.SOFTMAX, 9, True)],
)
def test_unit_queue(unit: Unit, depth: int, chunks: bool) -> None:
    given = {"unit": int(unit), "depth": depth, "chunks": chunks}
    run_block(UnitQueue(unit=unit, depth=depth, chunks=chunks), __name__, parameters=given)


def test_refusal() -> None:
    with pytest.raises(ValueError, match="depth"):
        UnitQueue(unit=Unit.NORM, depth=1)
