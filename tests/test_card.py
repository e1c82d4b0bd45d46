"""The card over AXI4-Lite alone: requests, counters, single steps, abort, reset, memory test."""

import dataclasses

import numpy as np
import pytest

from tests.deep import DEEP
from tests.models_for_tests import random_model
from tokenloom.compiler.errors import TokenloomError
from tokenloom.compiler.image import lay_out
from tokenloom.compiler.program import compile_program
from tokenloom.compiler.quantise import quantise
from tokenloom.host.driver import BusError, Driver, RequestFailed
from tokenloom.hw.card.control import OUTPUT_DEPTH, PROMPT_DEPTH
from tokenloom.hw.card.memory_test import Finding, lane_pattern
from tokenloom.hw.card.register_map import by_name
from tokenloom.hw.config import load
from tokenloom.hw.memory.axi import Response
from tokenloom.hw.sampler.settings import BIASES_MAX, WINDOW_MAX, Settings
from tokenloom.hw.sequencer.registers import Select
from tokenloom.sim.card import CardTransport
from tokenloom.sim.chip_device import ChipDevice
from tokenloom.sim.golden import Golden
from tokenloom.sim.memory import memory_profile
from tokenloom.sim.request import Sampling
from tokenloom.sim.simulator import SIMULATED, build

HARDWARE = load("mini")
WORD = HARDWARE.memory.port_bits // 8
# A context longer than the chip's.
SMALLEST = dict(
    width=16, ffn=16, heads=1, kv_heads=1, head_size=8, vocab=16, positions=600
)  # fmt: skip
SMALL = dict(width=40, ffn=50, heads=6, kv_heads=3, head_size=10, vocab=33, layers=2, tied=False)


@pytest.fixture(scope="module", autouse=True)
def simulator():
    build(HARDWARE, card=True)


class Card:
    """A simulated card with a model, and what the golden model says."""

    def __init__(self, shape, memory, patience=20.0, power_up=None):
        self.prepare(shape)
        self.transport = CardTransport(HARDWARE, self.image.words, memory, power_up=power_up)
        self.driver = Driver(self.transport, HARDWARE, patience)

    def prepare(self, shape):
        self.model = quantise(random_model(**shape))
        self.image = lay_out(self.model, HARDWARE)
        self.program = compile_program(self.model, self.image, HARDWARE)

    def load(self):
        self.driver.reset()  # the chip reads until then
        for channel, data in enumerate(self.image.channels):
            self.transport.load(channel, data)
        self.driver.configure(self.program, HARDWARE, self.model.shape.vocab)
        return self

    def prompt(self, count, seed=5):
        rng = np.random.default_rng(seed)
        return rng.integers(0, self.model.shape.vocab, count).tolist()

    def check(self, count=5, new=6, seed=5, **more):
        prompt = self.prompt(count, seed)
        want = Golden(self.model).greedy(prompt, new)
        assert list(self.driver.generate(prompt, new, **more)) == want


@pytest.fixture
def card():
    made = []

    def make(shape=SMALL, memory="hbm2", power_up=None):
        made.append(Card(shape, memory, power_up=power_up))
        return made[-1]

    yield make
    for one in made:
        one.transport.close()


# Requests.


@pytest.mark.parametrize("memory", ["ideal", "hbm2"])
def test_tokens_are_the_golden_models(memory, card):
    one = card(memory=memory).load()
    for seed in range(3):
        one.check(seed=seed, slot=seed)


def test_tokens_drawn_with_a_temperature(card):
    one = card().load()
    prompt = one.prompt(4)
    drawn = set()
    for seed in (3, 0xFEDC_BA98_7654_3210):
        how = Sampling(temperature=2.0, seed=seed)
        want = Golden(one.model).answer(prompt, 8, how)
        got = one.driver.generate(prompt, 8, settings=how.settings(one.model))
        assert list(got) == want
        drawn.add(tuple(want))
    assert len(drawn) == 2
    one.check()


@pytest.mark.parametrize("seed", range(1, 9 if DEEP else 4))
def test_noise_at_power_up(seed, card):
    """In every register and memory of the card; the board's reset, and it works."""
    one = card(memory="hbm2", power_up=seed)
    one.load()
    one.check()
    assert one.driver.identity() == SIMULATED


def test_cut_offs_and_rules_through_registers(card):
    """Settings, and a table of biases that is written between requests."""
    one = card().load()
    prompt = one.prompt(4)
    for how in (
        Sampling(temperature=2.0, seed=3, top_k=9, top_p=0.8, min_p=0.02, repetition_penalty=1.3),
        Sampling(temperature=2.0, seed=3, top_p=0.5, logit_bias=((6, 3.0), (2, 2.5))),
        Sampling(repetition_penalty=1.5, logit_bias=((1, -9.0),)),
    ):
        want = Golden(one.model).answer(prompt, 8, how)
        got = one.driver.generate(
            prompt, 8, settings=how.settings(one.model), biases=how.biases(one.model)
        )
        assert list(got) == want
    one.check()
    assert one.driver.read("SHAPE")["candidates"] == HARDWARE.sampler.candidates == 64
    with pytest.raises(BusError, match="START"):
        list(one.driver.generate(prompt, 8, settings=Settings(count=65)))


def test_another_model_on_the_same_card(card):
    """What the chip has read ahead for the first one is gone."""
    one = card().load()
    one.check()
    other = Card.__new__(Card)
    other.transport, other.driver = one.transport, one.driver
    other.prepare({**SMALL, "layers": 1, "vocab": 20})
    assert other.image.words <= one.image.words
    for _ in range(2):
        other.load().check()
        one.load().check()


def test_prompt_and_answer_beyond_the_queues(card):
    one = card(SMALLEST, "ideal").load()
    one.check(PROMPT_DEPTH + 20, OUTPUT_DEPTH + 10)


def test_belt_waits_for_a_host_that_does_not_read(card):
    one = card(SMALLEST, "ideal").load()
    prompt = one.prompt(3)
    want = Golden(one.model).greedy(prompt, OUTPUT_DEPTH + 10)
    run = one.driver.generate(prompt, OUTPUT_DEPTH + 10)
    got = [next(run)]
    one.transport.wait(200_000)
    stopped = one.driver.counters()["scheduled"]
    one.transport.wait(10_000)
    assert one.driver.counters()["scheduled"] == stopped
    assert got + list(run) == want


def test_end_of_text(card):
    one = card().load()
    prompt = one.prompt(3)
    free = Golden(one.model).greedy(prompt, 12)
    stop = free[4]
    assert list(one.driver.generate(prompt, 12, eos=[stop])) == free[: free.index(stop) + 1]
    one.check()


def test_context_full(card):
    one = card(SMALLEST, "ideal").load()
    limit = HARDWARE.maxima.positions
    got = []
    with pytest.raises(RequestFailed, match="no free KV page, its context is full"):
        got.extend(one.driver.generate(one.prompt(limit - 1), 9))
    assert len(got) == 2
    # A prompt of which the chip takes only a part, and the host has not given the rest.
    with pytest.raises(RequestFailed, match="no free KV page"):
        list(one.driver.generate(one.prompt(limit + 20), 2))
    one.check()


def test_memory_fault_is_named(card):
    one = card().load()
    word = one.image.channels[1].size // WORD - 1
    for channel in range(2):
        one.transport.fail_at(channel, word // 2 * WORD)
    with pytest.raises(RequestFailed, match=r"read of channel [01], address 0x[0-9a-f]+, failed"):
        list(one.driver.generate(one.prompt(3), 4))
    for channel in range(2):
        one.transport.fail_at(channel, 0, 0)
    one.check()


# Refusals.


def test_refused_ids_are_counted(card):
    one = card().load()
    before = one.driver.counters()["refused_ids"]
    for i, token in enumerate((33, 34, 0xFFFFFFFF)):
        with pytest.raises(BusError, match=f"PROMPT value={token} was refused with SLVERR"):
            list(one.driver.generate([1, token, 2], 4))
        assert one.driver.counters()["refused_ids"] == before + i + 1
    assert one.driver.read("STATUS")["refused"] == 1
    one.driver.write("COMMAND", clear=1)
    assert one.driver.read("STATUS")["refused"] == 0
    one.check()


def test_ids_that_the_chip_refuses_are_counted_too(card):
    one = card().load()
    before = one.driver.counters()["refused_ids"]
    one.driver.write("VOCAB", value=36)  # more than the model has, so PROMPT lets them pass
    with pytest.raises(RequestFailed):
        list(one.driver.generate([1, 35, 2], 4))
    assert one.driver.counters()["refused_ids"] == before + 1
    one.check()


def test_settings_beyond_the_tables_are_refused(card):
    one = card(memory="ideal").load()
    driver = one.driver
    with pytest.raises(BusError, match="CFG_WRITE"):
        driver.write("CFG_DATA1", value=33)  # the bias's id: one more than the last
        driver.write("CFG_WRITE", address=0, select=Select.BIASES)
    driver.write("CFG_DATA1", value=32)
    driver.write("CFG_WRITE", address=0, select=Select.BIASES)
    driver.write("REQ_TOKENS", count=1)
    driver.write("REQ_NEW", count=1)
    for rules in ({"window": WINDOW_MAX + 1, "biases": 0}, {"window": 0, "biases": BIASES_MAX + 1}):
        driver.write("REQ_RULES", **rules)
        with pytest.raises(BusError, match="START"):
            driver.write("START", go=1)
    driver.write("REQ_RULES", window=0, biases=0)
    one.check()


def test_commands_are_refused_while_they_make_no_sense(card):
    one = card(memory="ideal")
    driver = one.driver
    driver.write("REQ_TOKENS", count=1)
    driver.write("REQ_NEW", count=1)
    with pytest.raises(BusError, match="START"):  # not configured
        driver.write("START", go=1)
    one.load()
    for name, bad, good in (
        ("REQ_TOKENS", {"count": 0}, {"count": 3}),
        ("REQ_NEW", {"count": 0}, {"count": 40}),
        ("REQ_SLOT", {"slot": HARDWARE.memory.slots}, {"slot": 0}),
    ):
        driver.write(name, **good)
        driver.write(name, **bad)
        with pytest.raises(BusError, match="START"):
            driver.write("START", go=1)
        driver.write(name, **good)
    driver.write("TEST_FIRST", value=1)
    for words in (0, (1 << 32) // WORD):
        driver.write("TEST_WORDS", value=words)
        with pytest.raises(BusError, match="COMMAND"):
            driver.write("COMMAND", test=1)
    driver.write("START", go=1)
    for name, fields in (("START", {"go": 1}), ("CFG_WRITE", {"select": 0})):
        with pytest.raises(BusError, match=name) as error:
            driver.write(name, **fields)
        assert error.value.response == Response.SLVERR
    driver.abort()
    one.check()


def test_bus_errors(card):
    transport = card(memory="ideal").transport
    used = {register.offset for register in by_name().values()}
    for offset in (*range(0, 0x300, 4), 0xFFC):
        if offset not in used:
            with pytest.raises(BusError, match="DECERR"):
                transport.read(offset)
            with pytest.raises(BusError, match="DECERR"):
                transport.write(offset, 1)
    for name in ("MAGIC", "ANSWER", "PASSES_LOW"):
        with pytest.raises(BusError, match="SLVERR"):
            transport.write(by_name()[name].offset, 0)
    with pytest.raises(BusError, match="SLVERR"):
        transport.read(by_name()["START"].offset)


# Identity.


def test_identity(card):
    one = card(memory="ideal")
    assert one.driver.identity() == SIMULATED
    assert one.driver.digest() == HARDWARE.digest()
    shape = one.driver.read("SHAPE")
    assert shape == {"columns": 2, "rows": 2, "port_bytes": 64, "candidates": 64}
    with pytest.raises(TokenloomError, match="another hardware configuration"):
        Driver(one.transport, load("mini", ["memory.pages=65"]))


# Counters.


def test_counters_are_those_of_the_harness(card):
    one = card(memory="ideal").load()
    prompt = one.prompt(5)
    device = ChipDevice(one.model, HARDWARE)
    records = list(device.generate(prompt, 6))
    device.close()
    tokens = list(one.driver.generate(prompt, 6))
    count = one.driver.counters()
    assert tokens == [r.token for r in records if r.sample]
    assert count["passes"] == len(records) and count["tokens"] == 6
    for name in ("scheduled", "beats"):
        assert count[name] == sum(getattr(r, name) for r in records), name
    assert count["saturations"] == sum(r.saturated for r in records)
    stalls = sum(count[f"stall_{cause}"] for cause in ("tape", "row", "kv", "other"))
    assert count["elapsed"] == count["scheduled"] + stalls
    assert count["beats"] < count["array_busy"] < count["scheduled"]
    # A snapshot stays what it was.
    low = one.driver.read("SCHEDULED_LOW")["value"]
    list(one.driver.generate(prompt, 2))
    assert one.driver.read("SCHEDULED_LOW")["value"] == low
    assert one.driver.counters()["scheduled"] > low


@pytest.mark.parametrize("memory", ["ideal", "hbm2", "ddr4"])
def test_counters_on_hostile_memory(memory, card):
    """In hardware and by the harness, in the same passes: stalls and their causes too."""
    one = card(memory=memory).load()
    fields = {"saturations": "saturated"} | {
        name: name for name in ("elapsed", "scheduled", "beats", *(f"stall_{c}" for c in CAUSES))
    }
    tokens = 0
    for seed in range(3):
        one.check(4, 5, seed)
        tokens += 5
        count, passes = one.driver.counters(), one.transport.passes()
        assert {name: count[name] for name in fields} == {
            name: passes[field].sum() for name, field in fields.items()
        }
        assert (count["passes"], count["tokens"]) == (len(passes), tokens)
        assert count["elapsed"] == count["scheduled"] + sum(count[f"stall_{c}"] for c in CAUSES)
    if memory != "ideal":
        assert count["stall_tape"] > 1000
    assert count["stall_row"] > 0 and count["saturations"] == passes["saturated"].sum()


CAUSES = ("tape", "row", "kv", "other")


# Single steps.


def test_single_steps(card):
    one = card().load()
    driver = one.driver
    prompt = one.prompt(3)
    want = Golden(one.model).greedy(prompt, 3)
    driver.hold()
    run = driver.generate(prompt, 3)
    driver._patience = 0.2
    with pytest.raises(TokenloomError, match="no token"):
        next(run)
    driver._patience = 20.0
    assert driver.counters()["scheduled"] == 0  # and the request was aborted
    driver.hold(False)
    driver.write("REQ_TOKENS", count=3)
    driver.write("REQ_NEW", count=3)
    driver.write("REQ_SLOT", slot=0)
    driver.write("REQ_EOS_USED", mask=0)
    driver.hold()
    driver.write("START", go=1)
    for token in prompt:
        driver.write("PROMPT", value=token)
    total = 0
    for cycles in (1, 1, 2, 7, 100):
        assert driver.step(cycles) == 0
        total += cycles
        assert driver.counters()["scheduled"] == total
        one.transport.wait(500)
        assert driver.counters()["scheduled"] == total
    driver.hold(False)
    got = []
    for _ in range(10_000):
        output = driver.read("ANSWER")
        if output["valid"]:
            got.append(output["token"])
            if output["last"]:
                break
    assert got == want
    driver.hold()
    assert driver.step(5) == 5  # no pass, no step
    driver.hold(False)
    assert driver.read("STEPS_LEFT")["value"] == 0
    one.check()


# Abort and reset, with reads under way: the checker of the protocol and the golden model watch.


def reads_of(one):
    return sum(one.transport.memory_counters(c).reads for c in range(HARDWARE.array.columns))


@pytest.mark.parametrize("reset", [False, True], ids=["abort", "reset"])
def test_abort_and_reset_at_any_time(reset, card):
    slow = dataclasses.replace(memory_profile("hbm2"), latency=3000.0)
    one = card(memory=slow).load()
    one.check()
    rng = np.random.default_rng(11)
    for wait in [0, 1, 2, *rng.integers(3, 6000, 17).tolist()]:
        one.driver.write("REQ_TOKENS", count=7)
        one.driver.write("REQ_NEW", count=30)
        one.driver.write("REQ_SLOT", slot=1)
        one.driver.write("REQ_EOS_USED", mask=0)
        one.driver.write("START", go=1)
        for token in one.prompt(int(rng.integers(0, 8)), seed=int(wait)):
            one.driver.write("PROMPT", value=token)
        one.transport.wait(int(wait))
        if reset:
            one.driver.reset()
            with pytest.raises(BusError, match="START"):
                one.driver.write("START", go=1)
            assert one.driver.counters()["elapsed"] == 0
            one.driver.configure(one.program, HARDWARE, one.model.shape.vocab)
        else:
            one.driver.abort()
        assert one.driver.read("STATUS")["idle"] == 1
        one.check(3, 3)


def test_reset_while_idle_waits_for_reads_ahead(card):
    """The tape reads ahead between requests: its answers must not reach the next program."""
    slow = dataclasses.replace(memory_profile("hbm2"), latency=3000.0)
    one = card(memory=slow).load()
    latency = 300  # cycles at the board's 100 MHz
    seen = reads_of(one)
    for wait in (20, 50, 120, 200):
        one.transport.wait(wait)
        assert reads_of(one) > seen
        before = one.transport.cycles
        one.driver.reset()
        assert one.transport.cycles - before > latency - wait
        seen = reads_of(one)
        one.transport.wait(2000)
        assert reads_of(one) == seen  # nothing to read without a program
        one.driver.configure(one.program, HARDWARE, one.model.shape.vocab)
    one.check()


def test_slots_are_free_after_an_abort(card):
    """An aborted request gives its pages back: more of them than there are pages."""
    one = card(SMALLEST, "ideal").load()
    pages = HARDWARE.memory.pages // HARDWARE.pages_per_slot
    for i in range(3 * pages):
        run = one.driver.generate(one.prompt(200), 4, slot=i % HARDWARE.memory.slots)
        next(run)
        run.close()
    one.check()


# Memory test.


def test_memory_test_passes_and_covers_the_range(card):
    one = card(memory="hbm2")
    words = one.image.words
    first, count, seed = 3, words - 8, 0x1234567
    assert one.driver.test_memory(first=first, words=count, seed=seed) is None
    for channel in range(HARDWARE.array.columns):
        data = np.frombuffer(one.transport.peek(channel, 0, words * WORD), "<u4")
        data = data.reshape(words, WORD // 4)
        assert not data[:first].any() and not data[first + count :].any()
        for address in (first, first + 1, first + count // 2, first + count - 1):
            want = [lane_pattern(address, channel, lane, seed) for lane in range(WORD // 4)]
            assert data[address].tolist() == want
        assert len(np.unique(data[first : first + count, 5])) == count
    one.load()
    one.check()


@pytest.mark.parametrize("channel", [0, 1])
def test_memory_test_names_a_channel_that_answers_with_errors(channel, card):
    one = card(memory="hbm2")
    one.transport.fail_at(channel, 37 * WORD)
    found = one.driver.test_memory(first=0, words=100)
    assert (found.channel, found.kind, found.address) == (channel, Finding.WRITE_ERROR, 37)
    one.transport.fail_at(channel, 37 * WORD, 1)  # no retries: the memory shall be sound
    found = one.driver.test_memory(first=0, words=100)
    assert (found.channel, found.kind, found.address) == (channel, Finding.WRITE_ERROR, 37)
    assert one.driver.test_memory(first=0, words=100) is None
