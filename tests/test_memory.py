"""The chip on hostile memory: nothing but the time it takes differs from the ideal one."""

import ctypes
import dataclasses

import numpy as np
import pytest

from tests.deep import DEEP
from tests.models_for_tests import KINDS, SMALL, SMALLEST, prompt_for, random_model
from tokenloom.compiler.errors import TokenloomError
from tokenloom.compiler.quantise import quantise
from tokenloom.hw.config import load
from tokenloom.hw.memory.tape_format import TapeKind
from tokenloom.hw.sequencer.isa import TAPE_OP
from tokenloom.sim import chip_device
from tokenloom.sim.chip_device import Hold, MemoryFault
from tokenloom.sim.memory import MEMORIES, linear_reader, memory_profile
from tokenloom.sim.simulator import build

HARDWARE = load("mini")
RETRIES = HARDWARE.memory.retries
PAGE = HARDWARE.memory.page_tokens
HOSTILE = [name for name in MEMORIES if name != "ideal"]


@pytest.fixture(scope="module", autouse=True)
def simulator():
    build(HARDWARE)


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(chip_device, "_PATIENCE", 500_000)


def play(chip, prompt, new):
    """Passes, and starts and ends of every operation, counted from the first pass."""
    seen = len(chip.events())
    records = list(chip.generate(prompt, new))
    events = chip.events()[seen:]
    first = events[0].number
    return records, [(e.number - first, e.unit, e.finished, e.cycle) for e in events]


def assert_same(got, want):
    """Tokens, logits, belt cycles and events; each stalled cycle has one cause."""
    assert got[1] == want[1]
    for mine, other in zip(got[0], want[0], strict=True):
        assert (mine.pos, mine.rows, mine.token, mine.scheduled, mine.beats) == (
            other.pos,
            other.rows,
            other.token,
            other.scheduled,
            other.beats,
        )
        assert mine.elapsed == mine.scheduled + sum(mine.stalls.values())
        if mine.sample:
            np.testing.assert_array_equal(mine.logits, other.logits)


def elapsed(result):
    return sum(record.elapsed for record in result[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("memory", HOSTILE)
def test_hostile_is_ideal_but_for_time(memory, kind, device):
    model = quantise(random_model(**SMALL, kind=kind))
    prompt = prompt_for(model, 5)
    want = play(device(model), prompt, 6)
    times = []
    for seed in range(1, 6):
        chip = device(model, memory, seed)
        for _ in range(2):  # a second request, with other memory timing
            got = play(chip, prompt, 6)
            assert_same(got, want)
            times.append(elapsed(got))
        assert sum(count.writes for count in chip.memory_counters()) > 100
    if memory != "onchip":
        assert len(set(times)) > 5 and min(times) > elapsed(want)


def test_port_of_256_bits(device):
    """The port as the HBM has it, in bursts of 16 beats."""
    hardware = load("mini", ["memory.port_bits=256"])
    model = quantise(random_model(**SMALL))
    prompt = prompt_for(model, 5)
    want = play(device(model, hardware=hardware), prompt, 6)
    for seed in range(1, 6):
        chip = device(model, failing(0.01), seed, hardware)
        assert_same(play(chip, prompt, 6), want)
        assert errors_of(chip) > 0


@pytest.mark.parametrize(
    ("limits", "rule"), [((1, 8), "AR_OUTSTANDING"), ((16, 0), "AW_OUTSTANDING")]
)
def test_a_broken_rule_ends_the_run(limits, rule, device):
    model = quantise(random_model(**SMALLEST))
    chip = device(model, "hbm2")
    chip._library.tl_limits(chip._chip, *map(ctypes.c_int64, limits))
    with pytest.raises(TokenloomError, match=f"AXI rule {rule} broken on channel [01] in cycle"):
        list(chip.generate(prompt_for(model, 3), 4))


def test_over_pages(device):
    model = quantise(random_model(**SMALLEST))
    prompt = prompt_for(model, PAGE - 5)
    want = play(device(model), prompt, 12)
    assert_same(play(device(model, "hbm2", 3), prompt, 12), want)


def test_stalls_of_belt_and_memory_together(device):
    model = quantise(random_model(**SMALL))
    prompt = prompt_for(model, 4)
    want = play(device(model), prompt, 4)
    for seed in range(3):
        chip = device(model, "hbm2", seed)
        chip.hold(Hold.RANDOM, 77 + seed)
        assert_same(play(chip, prompt, 4), want)


def failing(rate):
    return dataclasses.replace(memory_profile("hbm2"), error_rate=rate)


@pytest.mark.parametrize(("kind", "beat_bytes"), [("f32", 34), ("q4_1", 20)])
def test_useful_bytes_against_a_linear_reader(kind, beat_bytes, device):
    """Memory whose peak is what the array takes (32 codes, scale, minimum): of what an endless
    linear read gets, the beats that the array uses are 90 % and more.
    """
    maxima = HARDWARE.maxima
    shape = {name: getattr(maxima, name) for name in
             ("width", "ffn", "heads", "kv_heads", "head_size", "vocab", "layers")}  # fmt: skip
    model = quantise(random_model(**shape, kind=kind))
    clock, word = HARDWARE.board.clock_mhz, HARDWARE.memory.port_bits // 8
    profile = dataclasses.replace(memory_profile("hbm2"), bytes_per_ns=beat_bytes * clock / 1000)
    linear = linear_reader(profile, 1, clock_mhz=clock, beat_bytes=word, cycles=200_000)
    records = list(device(model, profile).generate(prompt_for(model, 2), 4))
    useful = sum(r.beats for r in records) * beat_bytes / sum(r.elapsed for r in records)
    assert 0.9 * linear < useful < linear <= 0.925 * beat_bytes


def test_command_line_names_memory_and_seed(tmp_path):
    """The stalls differ with the memory, the text does not."""
    from tests.host.test_commands import write_model
    from tokenloom.host.commands.run import run

    model = str(write_model(tmp_path / "tiny"))
    common = dict(model=model, board="mini", overrides=(), prompt="abc", max_tokens=4, raw=True)
    results = [
        run(**common, ignore_eos=True, memory=memory, memory_seed=seed)
        for memory, seed in (("ideal", 1), ("hbm2", 1), ("hbm2", 2))
    ]
    assert [(r["memory"], r["memory_seed"]) for r in results] == [
        ("ideal", 1), ("hbm2", 1), ("hbm2", 2)
    ]  # fmt: skip
    assert len({tuple(r["tokens"]) for r in results}) == 1
    assert len({sum(p["scheduled"] for p in r["passes"]) for r in results}) == 1
    stalled = [sum(p["stalled"] for p in r["passes"]) for r in results]
    assert stalled[0] < min(stalled[1:]) and stalled[1] != stalled[2]


def test_a_thousand_errors_recovered(device):
    """One burst of a hundred fails, until a thousand have: no wrong token, no hang."""
    model = quantise(random_model(**SMALL))
    prompt = prompt_for(model, 5)
    want = play(device(model), prompt, 12)
    reads = writes = seed = 0
    while reads + writes < 1000:
        seed += 1
        chip = device(model, failing(0.01), seed)
        for _ in range(3):
            assert_same(play(chip, prompt, 12), want)
        reads += sum(count.read_errors for count in chip.memory_counters())
        writes += sum(count.write_errors for count in chip.memory_counters())
    assert reads > 500 and writes > 50


def test_every_unrecovered_error_is_reported(device):
    """So many errors that retries run out: the right answer, or the report; never else."""
    model = quantise(random_model(**SMALLEST))
    prompt = prompt_for(model, 3)
    want = play(device(model), prompt, 3)
    errors = reported = fine = 0
    for seed in range(40 if DEEP else 12):
        chip = device(model, failing(0.3), seed)
        for _ in range(4):
            try:
                assert_same(play(chip, prompt, 3), want)
                fine += 1
            except MemoryFault:
                reported += 1
        errors += errors_of(chip)
    assert errors > 1000 and reported > 10 and fine > 1


def errors_of(chip):
    return sum(c.read_errors + c.write_errors for c in chip.memory_counters())


def places(chip):
    """A byte of each kind of access: (name, channel, address, whether it is written)."""
    program, word = chip.program, HARDWARE.memory.port_bits // 8
    registers = program.registers
    kv = registers["kv_base"] * word
    ops = [TAPE_OP.from_bits(number) for number in program.tape]
    weights = [op.addr for op in ops if op.kind < TapeKind.K and not op.stop]
    token = 5  # the prompt's first
    row = registers["embedding_base"] + token // 2 * registers["embedding_stride"]
    return [
        ("weights", 1, 0, False),
        ("head", 0, max(weights) * word, False),
        ("embedding row", token % 2, row * word, False),
        ("KV page", 0, kv, True),
        ("V codes", 1, kv + registers["v_offset"] * word, True),
    ]


@pytest.mark.parametrize("number", range(5))
def test_one_place_fails(number, device):
    """As often as it is retried: survived. Always: reported with its place, and after a repair
    the next request is right, although reads were outstanding.
    """
    model = quantise(random_model(**SMALL))
    prompt = [5, *prompt_for(model, 4)]
    want = play(device(model), prompt, 4)
    chip = device(model, "hbm2")
    _, channel, address, written = places(chip)[number]
    for times in (1, RETRIES):
        before = errors_of(chip)
        chip.fail_at(channel, address, times)
        assert_same(play(chip, prompt, 4), want)
        assert errors_of(chip) == before + times
    for _ in range(2):
        chip.fail_at(channel, address)
        with pytest.raises(MemoryFault, match=f"channel {channel}, address 0x") as caught:
            list(chip.generate(prompt, 4))
        fault = caught.value
        assert (fault.channel, fault.write) == (channel, written)
        assert fault.address <= address < fault.address + 512
        assert f"in each of {RETRIES + 1} attempts" in str(fault)
        # Whoever asks again while it lasts hears it again.
        with pytest.raises(MemoryFault):
            list(chip.generate(prompt, 4))
        chip.fail_at(channel, address, 0)
        assert_same(play(chip, prompt, 4), want)


def test_errors_need_a_model_and_a_channel(device):
    model = quantise(random_model(**SMALLEST))
    with pytest.raises(TokenloomError, match="the ideal memory has no errors"):
        device(model).fail_at(0, 0)
    with pytest.raises(TokenloomError, match="channel is 2; allowed: 0 to 1"):
        device(model, "hbm2").fail_at(2, 0)


def test_an_error_while_the_chip_reads_ahead_for_nobody(device):
    """The tape's first word fails for good before there is a request: none is charged with it."""
    model = quantise(random_model(**SMALL))
    prompt = prompt_for(model, 4)
    want = play(device(model), prompt, 4)
    # A request that ends leaves the chip reading ahead for the next one.
    chip = device(model, "hbm2")
    for place in (0, 512):
        assert_same(play(chip, prompt, 4), want)
        before = errors_of(chip)
        chip.fail_at(1, place)
        chip.wait(3000)
        # What was read before the place went bad does not fail; reset, so that it is read again.
        chip.replace(model)
        chip.fail_at(1, place)
        chip.wait(3000)
        assert errors_of(chip) == RETRIES + 1, before
        chip.fail_at(1, place, 0)
        assert_same(play(chip, prompt, 4), want)
    # While it lasts, the request that needs the word is told, with its place; then all is well.
    chip.replace(model)
    chip.fail_at(1, 0)
    chip.wait(3000)
    for _ in range(2):
        with pytest.raises(MemoryFault, match="read of channel 1, address 0x0, failed in each"):
            play(chip, prompt, 4)
    # Another reason to end is not taken for the error that is past.
    chip.fail_at(1, 0, 0)
    chip.wait(3000)
    assert_same(play(chip, prompt, 4), want)


def test_another_model_after_a_request_that_was_left(device):
    """A reset with reads outstanding: memory and checkers begin anew, too."""
    small, smallest = (quantise(random_model(**shape)) for shape in (SMALL, SMALLEST))
    prompt = prompt_for(smallest, 3)
    want = play(device(smallest), prompt, 4)
    chip = device(small, "hbm2")
    run = chip.generate(prompt_for(small, 4), 20)
    for _ in range(3):
        next(run)
    chip.replace(smallest)
    assert_same(play(chip, prompt, 4), want)
