"""The whole verilated chip against the golden model: every logit, token, stall and event."""

import ctypes
import signal
from dataclasses import dataclass

import numpy as np
import pytest

from tests.deep import DEEP, DEEP_ONLY
from tests.models_for_tests import KINDS, SMALL, SMALLEST, prompt_for, random_model
from tokenloom.compiler.errors import TokenloomError
from tokenloom.compiler.models import resolve
from tokenloom.compiler.quantise import quantise
from tokenloom.hw.config import load
from tokenloom.sim import chip_device
from tokenloom.sim.chip_device import Hold
from tokenloom.sim.golden import Golden
from tokenloom.sim.simulator import build

HARDWARE = load("mini")
ROWS = HARDWARE.array.rows
PAGE = HARDWARE.memory.page_tokens


@pytest.fixture(scope="module", autouse=True)
def simulator():
    build(HARDWARE)


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A pass here takes a few thousand cycles; one that hangs shall not take minutes."""
    monkeypatch.setattr(chip_device, "_PATIENCE", 300_000)


def tokens(records):
    return [r.token for r in records if r.sample]


def check(chip, prompt, new, eos=(), slot=0):
    """Run a request, compare everything with the golden model; returns the records."""
    records = list(chip.generate(prompt, new, eos=eos, slot=slot))
    golden = Golden(chip.model)
    session = golden.session()
    expected = []  # (first position, rows, logits or None, token or None)
    logits = session.prefill(prompt, every_logit=True)
    for start in range(0, len(prompt), ROWS):
        stop = min(start + ROWS, len(prompt))
        last = stop == len(prompt)
        expected.append((start, stop - start, logits[start:stop] if last else None))
    answer = []
    for _ in range(new):
        answer.append(int(np.argmax(expected[-1][2][-1])))
        if answer[-1] in eos or len(answer) == new:
            break
        expected.append((session.length, 1, session.decode(answer[-1])[None]))
    assert [(r.pos, r.rows, r.sample) for r in records] == [
        (pos, rows, want is not None) for pos, rows, want in expected
    ]
    for record, (pos, _, want) in zip(records, expected, strict=True):
        if want is None:
            assert record.logits is None and record.token is None
        else:
            np.testing.assert_array_equal(record.logits, want, err_msg=f"position {pos}")
        assert record.elapsed == record.scheduled + sum(record.stalls.values())
        assert 0 < record.beats <= record.scheduled
    assert tokens(records) == answer
    if golden.saturations == 0:
        assert sum(r.saturated for r in records) == 0
    return records


@DEEP_ONLY
def test_a_guided_simulator(device):
    model = quantise(resolve("tiny").checkpoint())
    check(device(model, guided=True), prompt_for(model, 2 * PAGE + 3), 12)


SHAPES = {
    "plain": {},
    "smallest": SMALLEST,
    "small": SMALL,
    "width-40-one-kv-head": dict(width=40, ffn=33, heads=2, kv_heads=1, head_size=8, vocab=33),
    "head-8-group-1": dict(width=33, ffn=31, heads=3, kv_heads=3, head_size=8, vocab=65),
    "head-8-group-2": dict(width=65, ffn=97, heads=8, kv_heads=4, head_size=8, layers=3),
    "head-16-group-1": dict(width=48, ffn=64, heads=4, kv_heads=4, head_size=16, layers=2),
    "head-2": dict(width=24, ffn=20, heads=4, kv_heads=2, head_size=2, vocab=7),
    "head-6-context-of-18": dict(width=31, ffn=65, heads=3, kv_heads=3, head_size=6, vocab=5),
    "biased": dict(**SMALL, bias=2.0),
    "narrow": dict(width=2, ffn=1, heads=1, kv_heads=1, head_size=2, vocab=2, layers=2),
    "maxima": dict(width=128, ffn=384, heads=8, kv_heads=4, head_size=16, vocab=301, layers=8),
}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name, tied, device):
    model = quantise(random_model(**{**SHAPES[name], "tied": tied}, seed=len(name)))
    check(device(model), prompt_for(model, 3), 4)


def test_the_shipped_model(device):
    """Trained weights; with TOKENLOOM_DEEP=1 over several pages."""
    source = resolve("tiny")
    model = quantise(source.checkpoint(), positions=HARDWARE.maxima.positions)
    check(device(model), source.text().encode("Once upon a time"), 256 if DEEP else 48)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_prompts_of_every_kind(kind, count, device):
    model = quantise(random_model(**SMALL, kind=kind, seed=count))
    check(device(model), prompt_for(model, count), 5)


@pytest.mark.parametrize(
    "kinds",
    [
        dict(q="q4_0", k="f32", v="q4_1", down="q4_1"),
        dict(gate="q4_0", up="q8_0", embedding="q4_1"),
        dict(gate="q4_1", up="q4_0", head="q4_0"),
        dict(o="q4_0", gate="f32", up="q8_0", head="q4_1"),
        # One codebook per chip: the others' codes have 8 bits on the tape.
        dict(q="nf4", gate="nf4", up="nf4", down="q4_0", embedding="nf4", v="iq4_nl"),
        dict(o="mxfp4", head="mxfp4", gate="nf4", up="mxfp4"),
    ],
    ids=lambda kinds: "-".join(kinds),
)
def test_mixed_kinds(kinds, device):
    model = quantise(random_model(**SMALL, kinds=kinds))
    check(device(model), prompt_for(model, 3), 4)


def test_gate_and_up_of_kinds_without_a_common_tape(device):
    """8-bit codes with minima: either it works or there is an error that a user understands."""
    try:
        model = quantise(random_model(**SMALL, kinds=dict(gate="q4_1", up="q8_0")))
        chip = device(model)
    except TokenloomError:
        return
    check(chip, prompt_for(model, 3), 4)


def test_another_codebook_after_one(device):
    """What a model's 4-bit codes mean does not outlast it."""
    chip = device(quantise(random_model(**SMALL, kind="nf4")))
    check(chip, prompt_for(chip.model, 3), 3)
    for kind in ("q4_0", "mxfp4", "iq4_nl", "q4_1"):
        chip.replace(quantise(random_model(**SMALL, kind=kind)))
        check(chip, prompt_for(chip.model, 3), 3)


@pytest.mark.parametrize("kind", ["q4_0", "q4_1", "nf4", "mxfp4", "iq4_nl"])
def test_dense_weights_as(kind, device):
    model = quantise(random_model(**SMALL, kind="f32"), weights=kind)
    assert model.layers[0].down.bits == model.embedding.bits == 4
    check(device(model), prompt_for(model, 3), 4)


@pytest.mark.parametrize("scale", [2.0**-12, 2.0**-4, 2.0**4, 2.0**9])
def test_magnitudes(scale, device):
    """Weights far from those of trained models: shifts at their ends, flat and sharp softmax."""
    checkpoint = random_model(**SMALL, kind="f32")
    for layer in checkpoint.layers:
        for matrix in (layer.q, layer.v, layer.gate):
            np.multiply(matrix.dense, np.float32(scale), out=matrix.dense)
    model = quantise(checkpoint)
    check(device(model), prompt_for(model, 5), 6)


def test_equal_logits_give_the_lowest_id(device):
    """All rows of the head alike: every logit ties."""
    checkpoint = random_model(**{**SMALL, "tied": False}, kind="f32")
    checkpoint.head.dense[3:] = checkpoint.head.dense[3]
    checkpoint.head.dense[:3] = -checkpoint.head.dense[3]
    model = quantise(checkpoint)
    records = check(device(model), prompt_for(model, 4), 6)
    assert set(tokens(records)) <= {0, 3}


@pytest.mark.parametrize("name", ["small", "head-8-group-2"])
def test_decode_over_pages(name, device):
    model = quantise(random_model(**SHAPES[name]))
    records = check(device(model), prompt_for(model, 7), 2 * PAGE + 12)
    assert records[-1].pos >= 2 * PAGE + 12


@pytest.mark.parametrize("count", [PAGE - 1, PAGE, PAGE + 1, 2 * PAGE + 3])
def test_prompt_over_pages(count, device):
    model = quantise(random_model(**SMALL, kind="q4_1"))
    check(device(model), prompt_for(model, count), 4)


# Requests one after the other.


def test_slots_and_dirty_pages(device):
    """A request gives the same again wherever it runs and whatever ran there before."""
    model = quantise(random_model(**SMALL))
    chip = device(model)
    prompt, other = prompt_for(model, 5), prompt_for(model, 2 * PAGE + 5, seed=6)
    first = check(chip, prompt, 6)
    for slot in range(HARDWARE.memory.slots):
        check(chip, other[slot:], 3, slot=slot)
        again = list(chip.generate(prompt, 6, slot=(slot + 1) % HARDWARE.memory.slots))
        for old, new in zip(first, again, strict=True):
            assert (old.token, old.scheduled) == (new.token, new.scheduled)
            if old.sample:
                np.testing.assert_array_equal(old.logits, new.logits)


def test_memory_holds_garbage_before_the_first_request(device):
    model = quantise(random_model(**SMALL))
    chip = device(model)
    size = chip.image.words * HARDWARE.memory.port_bits // 8
    rng = np.random.default_rng(3)
    for channel, data in enumerate(chip.image.channels):
        junk = rng.choice(np.array([0, 0x7F, 0x80, 0xFF], np.uint8), size)
        junk[: len(data)] = data
        chip._library.tl_memory(
            chip._chip, channel, junk.ctypes.data_as(ctypes.c_void_p), ctypes.c_uint64(size),
            ctypes.c_uint64(size),
        )  # fmt: skip
    check(chip, prompt_for(model, 3), 40)


def test_eos_stops(device):
    model = quantise(random_model(**SMALL, seed=4))
    chip, prompt = device(model), prompt_for(model, 3)
    free = tokens(check(chip, prompt, 12))
    assert len(set(free)) > 3, "the model should not repeat itself"
    absent = [t for t in range(model.shape.vocab) if t not in free]
    for stop in dict.fromkeys(free):
        # The chip compares with four; a fifth one stops it as well.
        for eos in ([stop], [*absent[:3], stop], [stop, *absent[:2]], [*absent[:4], stop]):
            records = check(chip, prompt, 12, eos=eos)
            assert tokens(records) == free[: free.index(stop) + 1]
    assert tokens(check(chip, prompt, 12, eos=absent[:4])) == free
    assert tokens(check(chip, prompt, 1)) == free[:1]


def test_request_after_an_end_by_eos_in_a_long_context(device):
    model = quantise(random_model(**SMALL, seed=4))
    chip, prompt = device(model), prompt_for(model, 3)
    want = check(chip, prompt, 5)
    long = prompt_for(model, PAGE + 9, seed=8)
    stop = tokens(check(chip, long, 1))
    check(chip, long, 20, eos=stop)
    assert tokens(check(chip, prompt, 5)) == tokens(want)


@pytest.mark.parametrize("after", [1, 2, 6], ids=lambda n: f"after-{n}-passes")
def test_abandoned_request(after, device):
    """Whoever leaves the loop early gets the next request's own answer."""
    model = quantise(random_model(**SMALL))
    chip, prompt = device(model), prompt_for(model, 3)
    want = tokens(check(device(model), prompt, 5))
    run = chip.generate(prompt_for(model, 7, seed=9), 20)
    for _ in range(after):
        next(run)
    before = chip._library.tl_cycles(chip._chip)
    run.close()
    assert chip._library.tl_cycles(chip._chip) == before  # nobody waits for the end of it
    assert tokens(chip.generate(prompt, 5)) == want


def test_abandoned_request_before_another_model(device):
    chip = device(quantise(random_model(**SMALL)))
    run = chip.generate(prompt_for(chip.model, 7, seed=9), 20)
    next(run)
    run.close()
    chip.replace(quantise(random_model(**SMALL, seed=2)))
    check(chip, prompt_for(chip.model, 3), 5)


def test_ctrl_c_is_seen_while_the_chip_plays(monkeypatch, device):
    chip = device(quantise(random_model(**SMALL)))
    want = tokens(check(chip, [1, 2, 3], 5))
    monkeypatch.setattr(chip_device, "_SLICE", 100)
    seen = chip._library.tl_cycles(chip._chip)
    play = chip._sliced

    def interrupted(function, *arguments):
        def once(*given):
            signal.raise_signal(signal.SIGINT)
            return function(*given)

        return play(once, *arguments)

    monkeypatch.setattr(chip, "_sliced", interrupted)
    # A shell's background jobs are started with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            next(chip.generate([1, 2, 3], 5))
    finally:
        signal.signal(signal.SIGINT, before)
    assert chip._library.tl_cycles(chip._chip) - seen <= 100
    monkeypatch.setattr(chip, "_sliced", play)
    assert tokens(check(chip, [1, 2, 3], 5)) == want


# Stalls.


@dataclass
class Run:
    """What must not depend on stalls, and what does."""

    belt: list
    logits: list
    events: list
    elapsed: int
    stalls: int
    held: int


def run(chip, prompt, new):
    seen = len(chip.events())
    records = list(chip.generate(prompt, new))
    events = chip.events()[seen:]
    before = events[0].number
    return Run(
        belt=[(r.pos, r.rows, r.sample, r.token, r.scheduled, r.beats) for r in records],
        logits=[r.logits for r in records if r.sample],
        events=[(e.number - before, e.unit, e.finished, e.cycle) for e in events],
        elapsed=sum(r.elapsed for r in records),
        stalls=sum(sum(r.stalls.values()) for r in records),
        held=sum(r.stalls["other"] for r in records),
    )


def assert_same(stalled, free):
    assert stalled.belt == free.belt
    assert stalled.events == free.events
    for a, b in zip(stalled.logits, free.logits, strict=True):
        np.testing.assert_array_equal(a, b)
    scheduled = sum(entry[4] for entry in free.belt)
    assert free.elapsed == scheduled + free.stalls
    assert stalled.elapsed == scheduled + stalled.stalls


@pytest.mark.parametrize("kind", KINDS)
def test_stall_after_every_cycle(kind, device):
    model = quantise(random_model(**SMALL, kind=kind))
    chip, prompt = device(model), prompt_for(model, 3)
    free = run(chip, prompt, 4)
    chip.hold(Hold.EVERY)
    stalled = run(chip, prompt, 4)
    assert_same(stalled, free)
    assert stalled.elapsed >= 1.9 * sum(entry[4] for entry in free.belt)
    check(chip, prompt, 4)
    chip.hold(Hold.NONE)
    assert_same(run(chip, prompt, 4), free)


@pytest.mark.parametrize("seed", range(40 if DEEP else 4))
def test_random_stalls(seed, device):
    model = quantise(random_model(**SMALL, kind=KINDS[seed % len(KINDS)]))
    chip, prompt = device(model), prompt_for(model, 3, seed)
    free = run(chip, prompt, 4)
    chip.hold(Hold.RANDOM, 0x9E3779B97F4A7C15 * (seed + 1) % 2**64)
    stalled = run(chip, prompt, 4)
    assert_same(stalled, free)
    assert stalled.stalls > free.stalls


def test_random_stalls_over_pages(device):
    model = quantise(random_model(**SMALLEST))
    chip = device(model)
    chip.hold(Hold.RANDOM, 99)
    check(chip, prompt_for(model, PAGE - 5), 10)


@pytest.mark.parametrize("name", ["smallest", "small"] if DEEP else ["smallest"])
def test_stall_at_each_cycle(name, device):
    """One stall per pass, after belt cycle k."""
    model = quantise(random_model(**SHAPES[name]))
    chip, prompt = device(model), prompt_for(model, 3)
    free = run(chip, prompt, 2)
    last = max(entry[4] for entry in free.belt)
    effective = 0
    cycles = range(0, last + 1, 1 if DEEP else 7)
    for k in cycles:
        if k % 50 == 0:  # the record grows with each request
            chip.close()
            chip = device(model)
        chip.hold(Hold.AT, k)
        try:
            stalled = run(chip, prompt, 2)
        except TokenloomError as error:
            raise AssertionError(f"stall after belt cycle {k}: {error}") from error
        assert_same(stalled, free)
        effective += stalled.held > free.held
    # A stall may hide in one that happens anyway.
    assert effective > 0.8 * len(cycles)


# Errors.


def test_device_refuses_what_exceeds_the_context(device):
    model = quantise(random_model(**SMALL, positions=24))
    chip, prompt = device(model), prompt_for(model, 5)
    for size, new in ((25, 1), (5, 21), (24, 2)):
        with pytest.raises(TokenloomError, match="exceed the context of 24 tokens"):
            list(chip.generate(prompt_for(model, size), new))
    with pytest.raises(TokenloomError, match="the prompt is empty"):
        list(chip.generate([], 1))
    check(chip, prompt_for(model, 24), 1)
    check(chip, prompt, 20)


def longer_than_the_chip(**shape):
    limit = HARDWARE.maxima.positions
    return quantise(random_model(**shape, positions=limit + 64)), limit


def test_context_fills_while_decoding(device):
    """The chip's own check, with a model whose context is longer than the chip's."""
    model, limit = longer_than_the_chip(**SMALLEST)
    chip, prompt = device(model), prompt_for(model, 3)
    want = check(chip, prompt, 4)
    check(chip, prompt_for(model, limit - 3), 4)
    records = []
    with pytest.raises(TokenloomError, match="no free KV page|context"):
        records.extend(chip.generate(prompt_for(model, limit - 1), 9))
    assert tokens(check(chip, prompt, 4)) == tokens(want)


@pytest.mark.parametrize("more", [1, 9])
def test_prompt_longer_than_the_chip_context(more, device):
    model, limit = longer_than_the_chip(**SMALLEST)
    chip, prompt = device(model), prompt_for(model, 3)
    with pytest.raises(TokenloomError, match="no free KV page|context"):
        list(chip.generate(prompt_for(model, limit + more), 1))
    check(chip, prompt, 4)


def test_an_unknown_id_costs_only_its_request(device, monkeypatch):
    """The chip looks too: nothing is read for it, and the next request is good."""
    model = quantise(random_model(**SMALL))
    chip = device(model)
    with monkeypatch.context() as patched:
        patched.setattr(chip_device, "check_request", lambda *arguments: None)
        for place, wrong in ((0, SMALL["vocab"]), (ROWS - 1, (1 << 32) - 1), (ROWS, 1 << 31)):
            prompt = prompt_for(model, 2 * ROWS + 3)
            prompt[place] = wrong
            with pytest.raises(TokenloomError, match="none of the model's"):
                list(chip.generate(prompt, 2))
            check(chip, prompt_for(model, 3), 3)


@pytest.mark.parametrize(
    "request_",
    [
        dict(prompt=[1, SMALL["vocab"]], new=2),
        dict(prompt=[1, -1], new=2),
        dict(prompt=[1, 2], new=0),
        dict(prompt=[1, 2], new=2, slot=HARDWARE.memory.slots),
    ],
    ids=["token-past-vocab", "negative-token", "no-new-token", "slot"],
)
def test_impossible_requests_are_refused_before_they_start(request_, device):
    model = quantise(random_model(**SMALL))
    chip = device(model)
    before = chip._library.tl_cycles(chip._chip)
    with pytest.raises(TokenloomError):
        list(chip.generate(**request_))
    assert chip._library.tl_cycles(chip._chip) == before
    check(chip, prompt_for(model, 3), 3)
