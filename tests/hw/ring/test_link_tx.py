"""The sending end of a link against its model in every cycle, whatever the other end says."""

import dataclasses

import cocotb
from cocotb.triggers import FallingEdge, RisingEdge

from tests.coverage import Coverage
from tests.hw.clocked import begin, reset
from tests.hw.ring.link_tx_model import Given, LinkTxModel, Status
from tokenloom.hw.ring.frame import KIND_BITS, SESSION_BITS, Kind
from tokenloom.hw.ring.link_tx import LinkTx
from tokenloom.sim.bench import parameters, run_block, seeded

INPUTS = "in_valid in_word in_tag out_ready status_valid status_frame stop session".split()
LIMITS = {
    "word_bits": 16,
    "tag_bits": 4,
    "window": 8,
    "credits": 16,
    "seq_bits": 6,
    "timeout": 40,
    "retries": 3,
    "idle": 5,
    "patience": 90,
}


class OtherEnd:
    """What it has taken and freed; it says that, or something else."""

    def __init__(self, random, limits):
        self.random, self.size = random, 1 << limits["seq_bits"]
        self.taken = self.freed = self.waiting = 0
        self.said = [Status(0, 0)]
        self.lost = random.choice([0.0, 0.0, 0.1, 1.0])
        self.frees = random.choice([1.0, 0.5, 0.0])
        self.wild = random.choice([0.0, 0.3])
        self.naks = random.choice([0.0, 0.2])

    def takes(self, kind, seq):
        if kind == Kind.DATA and seq == self.taken and self.random.random() >= self.lost:
            self.taken, self.waiting = (seq + 1) % self.size, self.waiting + 1
        if self.waiting and self.random.random() < self.frees:
            self.freed, self.waiting = (self.freed + 1) % self.size, self.waiting - 1

    def says(self):
        random = self.random
        true = Status(self.taken, self.freed, random.random() < self.naks)
        self.said = [*self.said[-20:], true]
        if random.random() >= self.wild:
            return true
        anywhere = random.randrange(self.size), random.randrange(self.size)
        return random.choice(
            [
                random.choice(self.said),  # late
                Status(*anywhere, nak=True),
                Status(anywhere[0], self.freed, nak=True),
                Status(self.taken, anywhere[1]),
                Status(*(n & 3 for n in anywhere), nak=random.random() < 0.5),
                Status(self.taken, self.freed, nak=True, good=False),
                Status(0, 0),
                Status(0, random.choice([1, 32])),
                Status(random.choice([1, 32]), 0),
            ]
        )


@cocotb.test()
async def every_cycle(dut):
    given, random = parameters(), seeded()
    limits = {name: given[name] for name in LIMITS}
    seen = Coverage(
        "window_full", "credits_exhausted", "replay", "idle", "wraps", "dead_of_timeouts",
        "dead_of_silence", "stopped", "held", "reset_while_busy",
    )  # fmt: skip
    await begin(dut, INPUTS)
    for _ in range(given["episodes"]):
        model, other = LinkTxModel(**limits), OtherEnd(random, limits)
        offers, takes = random.choice([0.0, 0.3, 1.0]), random.choice([0.2, 0.9, 1.0])
        tells, stops = random.choice([0.0, 0.03, 0.3, 1.0]), random.choice([0.0, 0.0, 0.1])
        word, after_death = None, 0
        session = random.getrandbits(SESSION_BITS)
        dut.session.value = session
        for cycle in range(random.choice([30, 500, 800])):
            if word is None and random.random() < offers:
                word = random.getrandbits(16), random.getrandbits(4)
            # The link comes up in any case, but perhaps late.
            tell = random.random() < (0.2 if cycle < 40 else tells)
            now = Given(
                word=word,
                out_ready=random.random() < takes,
                status=other.says() if tell else None,
                stop=random.random() < stops,
            )
            dut.in_valid.value = int(word is not None)
            noise = random.getrandbits(16), random.getrandbits(4)
            dut.in_word.value, dut.in_tag.value = word or noise
            dut.out_ready.value, dut.stop.value = int(now.out_ready), int(now.stop)
            dut.status_valid.value = int(tell)
            frame = now.status or Status(0, 0, good=random.random() < 0.5)
            value = frame.frame(limits["seq_bits"], session)
            if not frame.good and cycle % 2:  # broken, or of another session
                right = dataclasses.replace(frame, good=True)
                value = right.frame(limits["seq_bits"], session ^ random.randrange(1, 256))
            dut.status_frame.value = value
            await RisingEdge(dut.clk)
            shown = model.shown
            assert dut.out_valid.value == (shown is not None)
            if shown and shown[0] == Kind.IDLE:
                # The word of an idle frame is any.
                bits = KIND_BITS + limits["tag_bits"]
                found = int(dut.out_frame.value)
                assert found & (1 << KIND_BITS) - 1 == Kind.IDLE
                assert found >> bits & (1 << limits["seq_bits"]) - 1 == shown[1]
            elif shown:
                assert int(dut.out_frame.value) == model.out_frame(session)
            assert dut.in_ready.value == model.in_ready(now)
            assert dut.again.value == model.again(now)
            assert (dut.up.value, dut.dead.value) == (model.up, model.dead)
            under_way = model.behind(model.next, model.base)
            seen.sample(
                window_full=under_way == limits["window"],
                credits_exhausted=model.behind(model.next, model.freed) == limits["credits"],
                replay=model.again(now),
                idle=shown is not None and shown[0] == Kind.IDLE,
                wraps=model.next < model.base,
                stopped=now.stop and word is not None,
                held=shown is not None and not now.out_ready,
            )
            if shown and now.out_ready:
                other.takes(*shown[:2])
            if word and model.in_ready(now):
                word = None
            was = model.dead
            model.step(now)
            if model.dead and not was:
                seen.hit("dead_of_timeouts", when=model.failures == limits["retries"])
                seen.hit("dead_of_silence", when=model.failures < limits["retries"])
            await FallingEdge(dut.clk)
            after_death += model.dead
            if after_death > 20:
                break
        seen.hit("reset_while_busy", when=model.next != model.base)
        await reset(dut, INPUTS)
    if given["covered"]:
        seen.check()


def test_link_tx():
    parameters = {**LIMITS, "episodes": 100, "covered": True}
    run_block(LinkTx(**LIMITS), "tests.hw.ring.test_link_tx", parameters=parameters)
