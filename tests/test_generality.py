"""Random models on random hardware, and impossible ones; the benchmark plays more of both."""

import random

import pytest

from tests.deep import DEEP
from tokenloom.compiler.errors import ConfigError
from tokenloom.host.bench.generality import cases, check_case, draw_hardware, refusals
from tokenloom.hw.config import load
from tokenloom.sim import chip_device
from tokenloom.sim.random_models import random_model

# The benchmark's first ones, whose simulators both can use; or others.
SEED, CONFIGURATIONS, SHAPES = (7, 10, 8) if DEEP else (20, 2, 6)


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(chip_device, "_PATIENCE", 2_000_000)


@pytest.mark.parametrize("number", range(CONFIGURATIONS * SHAPES))
def test_random_models_on_random_hardware(number):
    case = list(cases(SEED, CONFIGURATIONS, SHAPES))[number]
    print(f"seed {SEED}: {case}")
    difference, operations = check_case(case)
    assert not difference, f"{difference}; to repeat: {case}"
    assert operations > 10


def test_draws_are_valid_and_repeat_themselves():
    one, two = (list(cases(seed, 4, 5)) for seed in (1, 1))
    assert one == two and one != list(cases(2, 4, 5))
    assert len({case.overrides for case in one}) == 4
    namespace = {"check_case": lambda case: case}
    for case in one:
        from tokenloom.host.bench.generality import Case

        assert eval(str(case), namespace | {"Case": Case}) == case
    for seed in range(300):
        load("mini", draw_hardware(random.Random(seed)))


def test_a_wrong_bit_and_a_wrong_cycle_are_found(monkeypatch):
    """The check of a case can fail."""
    case = next(cases(SEED, CONFIGURATIONS, SHAPES))
    honest = chip_device.ChipDevice._record

    def wrong_bit(self, token):
        record = honest(self, token)
        if record.logits is not None:
            record.logits[-1, 0] ^= 1
        return record

    monkeypatch.setattr(chip_device.ChipDevice, "_record", wrong_bit)
    assert "lane (vocabulary id) 0" in check_case(case)[0]
    monkeypatch.setattr(chip_device.ChipDevice, "_record", honest)
    events = chip_device.ChipDevice.events
    monkeypatch.setattr(chip_device.ChipDevice, "events", lambda self: events(self)[:-1])
    assert "measured" in check_case(case)[0]


@pytest.mark.parametrize("number", range(len(list(refusals(SEED)))))
def test_refusals(number):
    refusal = list(refusals(SEED))[number]
    assert not refusal.wrong()


def test_a_refusal_without_the_reason_is_found():
    refusal = next(refusals(SEED))

    def silent():
        raise ConfigError("no")

    def broken():
        raise KeyError("no")

    kind = type(refusal)
    for tried, told in ((silent, "without"), (broken, "KeyError"), (int, "was taken")):
        assert told in kind(what="x", tried=tried, told=("reason",)).wrong()


def test_the_hardware_takes_a_model_that_it_is_for():
    load("mini").check_model(random_model().shape)
