"""Temperature and seed on the whole chip: the golden model's tokens, for every array shape."""

import numpy as np
import pytest

from tests.deep import DEEP, deep
from tests.models_for_tests import SMALL, random_model
from tokenloom.compiler.errors import TokenloomError
from tokenloom.compiler.image import lay_out
from tokenloom.compiler.program import compile_program
from tokenloom.compiler.quantise import quantise
from tokenloom.compiler.schedule import predict
from tokenloom.host.golden_device import GoldenDevice
from tokenloom.host.session import compare_with_golden, predictor
from tokenloom.hw.config import load
from tokenloom.hw.sampler.noise import Noise
from tokenloom.sim.chip_device import Hold
from tokenloom.sim.golden import Golden
from tokenloom.sim.request import GREEDY, Sampling

NARROW = dict(width=2, ffn=1, heads=1, kv_heads=1, head_size=2, vocab=2, layers=1)
PROMPT = [1, 7, 3, 30, 2]
# Beginnings of it: in a chip of four rows the last pass ends in each of them.
LENGTHS = (4, 3, 2, 5)
WARM = Sampling(temperature=1.5, seed=0x0123456789ABCDEF)


def shape(columns, rows, drain):
    sizes = {"columns": columns, "rows": rows, "drain": drain}
    return [f"array.{name}={value}" for name, value in sizes.items()]


SHAPES = [
    shape(2, 2, 2),  # mini as it is
    deep(shape(4, 1, 2)),
    deep(shape(4, 4, 2)),
    deep(shape(2, 1, 1)),
]


def tokens(device, new, sampling, prompt=PROMPT):
    records = list(device.generate(prompt, new, sampling=sampling))
    assert compare_with_golden(device.model, prompt, records, sampling=sampling) is None
    return [record.token for record in records if record.sample]


@pytest.mark.parametrize("overrides", SHAPES, ids=lambda o: "-".join(o))
def test_the_same_seed_gives_the_same_tokens_for_every_shape(overrides, device):
    model = quantise(random_model(**SMALL))
    chip, golden = device(model, hardware=load("mini", overrides)), Golden(model)
    warm = (WARM, Sampling(temperature=0.3, seed=1), Sampling(temperature=2.0, seed=8))
    for length, sampling in zip(LENGTHS, (*warm, GREEDY), strict=True):
        prompt = PROMPT[:length]
        assert tokens(chip, 30, sampling, prompt) == golden.answer(prompt, 30, sampling)


CHOSEN = (
    Sampling(temperature=1.5, seed=2, top_k=5),
    Sampling(temperature=1.5, seed=3, top_p=0.6),
    Sampling(temperature=2.0, seed=4, min_p=0.2, repetition_penalty=1.4),
    Sampling(temperature=0.9, seed=5, top_k=20, top_p=0.9, min_p=0.01, logit_bias=((3, 1.5),)),
    Sampling(repetition_penalty=1.2),
    Sampling(repetition_penalty=3.0, repetition_window=3, logit_bias=((0, 9.0), (7, -2.0))),
    Sampling(temperature=1.0, seed=6, logit_bias=((1, -50.0), (5, 2.0))),
)


@pytest.mark.parametrize("overrides", SHAPES, ids=lambda o: "-".join(o))
def test_cut_offs_and_rules_for_every_shape(overrides, device):
    """Tokens of the golden model, in the predicted number of cycles."""
    model = quantise(random_model(**SMALL))
    chip, golden = device(model, hardware=load("mini", overrides)), Golden(model)
    answers = set()
    for length, sampling in zip(2 * LENGTHS, (*CHOSEN, WARM), strict=True):
        prompt = PROMPT[:length]
        records = list(chip.generate(prompt, 24, sampling=sampling))
        assert compare_with_golden(model, prompt, records, sampling=sampling) is None
        found = [record.token for record in records if record.sample]
        assert found == golden.answer(prompt, 24, sampling)
        answers.add(tuple(found))
        schedule = predictor(chip, sampling)
        for one in records:
            assert one.scheduled == schedule(one.rows, one.pos, one.sample).cycles, sampling
    assert len(answers) == len(CHOSEN) + 1


def test_repetitions_reach_into_the_prompt_and_not_into_other_requests(device):
    """A penalty that forbids a token: none comes twice within the window."""
    model = quantise(random_model(**SMALL))
    chip = device(model)
    how = Sampling(temperature=1.0, seed=9, repetition_penalty=3.9, repetition_window=2)
    first = tokens(chip, 20, how)
    assert tokens(chip, 20, how, prompt=[9, 9, 9]) != first
    assert tokens(chip, 20, how) == first


def test_stalls_do_not_change_what_is_cut(device):
    model = quantise(random_model(**SMALL))
    chip = device(model)
    first = tokens(chip, 6, CHOSEN[3])
    for mode, seed in ((Hold.EVERY, 0), (Hold.RANDOM, 5)):
        chip.hold(mode, seed)
        assert tokens(chip, 6, CHOSEN[3]) == first


def test_a_chip_without_candidates_says_so(device):
    model = quantise(random_model(**SMALL))
    chip = GoldenDevice(model, load("mini", ["sampler.candidates=0"]))
    for sampling in CHOSEN:
        with pytest.raises(TokenloomError, match="sampler.candidates = 2 to 64"):
            tokens(chip, 3, sampling)
    assert tokens(chip, 3, WARM) == Golden(model).answer(PROMPT, 3, WARM)
    fewer = GoldenDevice(model, load("mini", ["sampler.candidates=16"]))
    with pytest.raises(TokenloomError, match="made for 64 candidates, the chip keeps 16"):
        tokens(fewer, 3, CHOSEN[1])


@pytest.mark.parametrize("rows", [1, 2, 4, 8])
def test_the_golden_device_takes_prompts_in_any_pieces(rows):
    model = quantise(random_model(**SMALL))
    device = GoldenDevice(model, load("mini", [f"array.rows={rows}"]))
    assert tokens(device, 20, WARM) == Golden(model).answer(PROMPT, 20, WARM)


def test_requests_do_not_leave_noise_behind(device):
    """Greedy after a seeded request, and the seeded one again."""
    model = quantise(random_model(**SMALL))
    chip = device(model)
    first = tokens(chip, 12, WARM)
    greedy = tokens(chip, 12, GREEDY)
    assert tokens(chip, 12, Sampling(seed=77)) == greedy
    assert tokens(chip, 12, WARM) == first
    assert (
        len({tuple(first), tuple(greedy), tuple(tokens(chip, 12, Sampling(temperature=1.5)))}) == 3
    )


def test_stalls_do_not_change_the_tokens(device):
    model = quantise(random_model(**SMALL))
    chip = device(model)
    first = tokens(chip, 8, WARM)
    for mode, seed in ((Hold.EVERY, 0), (Hold.RANDOM, 5), (Hold.RANDOM, 6)):
        chip.hold(mode, seed)
        assert tokens(chip, 8, WARM) == first


def test_the_schedule_is_that_of_greedy_passes(device):
    model = quantise(random_model(**SMALL))
    chip = device(model)
    passes = [
        [(one.pos, one.rows, one.scheduled) for one in chip.generate(PROMPT, 8, sampling=sampling)]
        for sampling in (GREEDY, WARM)
    ]
    assert passes[0] == passes[1]


def test_the_smallest_pass_gives_the_noise_its_time(device):
    """The head begins later than the first noise is made, even with one layer of width 2."""
    model = quantise(random_model(**NARROW))
    chip = device(model)
    schedule = predict(
        compile_program(model, lay_out(model, chip.hardware), chip.hardware),
        chip.hardware, model, rows=1, pos=0, sample=True,
    )  # fmt: skip
    head = max(one.first for one in schedule.operations if one.beats)
    assert head > 2 * Noise.LEAD
    found = tokens(chip, 60, Sampling(temperature=2.0, seed=3), prompt=[1])
    assert set(found) == {0, 1}


@pytest.mark.skipif(not DEEP, reason="only with TOKENLOOM_DEEP=1: 2000 passes")
def test_the_chip_draws_from_the_softmax(device):
    """First tokens of many seeds: chi-square below its mean plus 4 standard deviations."""
    model = quantise(random_model(**NARROW | dict(vocab=9)))
    chip, golden = device(model), Golden(model)
    count = 2000
    logits = golden.session().prefill([1])[-1] * golden.logit_scale
    expected = np.exp((logits - logits.max()) / 2.0)
    expected *= count / expected.sum()
    found = np.zeros(9)
    for seed in range(count):
        sampling = Sampling(temperature=2.0, seed=seed)
        found[next(iter(chip.generate([1], 1, sampling=sampling))).token] += 1
    assert expected.min() > 10
    assert (np.square(found - expected) / expected).sum() < 8 + 4 * 4


def test_refused():
    with pytest.raises(TokenloomError, match="temperature -1 is impossible; allowed: 0 .*0.001 to"):
        Sampling(temperature=-1.0)
    for temperature in (0.0009, 100.1, float("nan"), float("inf")):
        with pytest.raises(TokenloomError, match="allowed"):
            Sampling(temperature=temperature)
    for wrong, message in (
        (dict(top_k=65), "top_k 65 is impossible; allowed: 0 .off. to 64"),
        (dict(top_k=-1), "top_k -1"),
        (dict(top_k=17, candidates=16), "allowed: 0 .off. to 16"),
        (dict(top_p=0.0), "top_p 0 is impossible; allowed: above 0, up to 1"),
        (dict(top_p=1.1), "top_p 1.1"),
        (dict(min_p=1.0), "min_p 1 is impossible; allowed: 0 .off. or more, below 1"),
        (dict(min_p=float("nan")), "min_p nan"),
        (dict(repetition_penalty=4.0), "repetition_penalty 4 is impossible; allowed: above 0.25"),
        (dict(repetition_penalty=0.25), "repetition_penalty 0.25"),
        (dict(repetition_window=0), "repetition_window 0 is impossible; allowed: 1 to 64"),
        (dict(logit_bias=((1, 1.0), (1, 2.0))), "logit_bias has token 1 twice"),
        (dict(logit_bias=tuple((i, 1.0) for i in range(33))), "33 tokens; allowed: up to 32"),
        (dict(logit_bias=((1, float("inf")),)), "logit_bias of token 1 is inf"),
    ):
        with pytest.raises(TokenloomError, match=message):
            Sampling(**wrong)
    with pytest.raises(TokenloomError, match="token 999999 is none of the model's"):
        Sampling(logit_bias=((999999, 1.0),)).biases(quantise(random_model(**SMALL)))
    for seed in (-1, 1 << 64):
        with pytest.raises(TokenloomError, match=f"seed {seed} is impossible; allowed: 0 to"):
            Sampling(seed=seed)
