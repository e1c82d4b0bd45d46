"""A request's numbers as the hardware takes them, at the ends of what is allowed."""

import math

import pytest

from tokenloom.hw.sampler.settings import FACTOR_ONE, FIELDS, make_settings


@pytest.mark.parametrize("penalty", [math.nextafter(4, 0), 3.99999, math.nextafter(0.25, 1)])
def test_every_penalty_in_the_interval_is_taken(penalty):
    found = make_settings(fraction_bits=11, penalty=penalty)
    most = (1 << FIELDS["up"]) - 1
    for factor, exact in ((found.up, penalty), (found.down, 1 / penalty)):
        assert factor == min(round(exact * FACTOR_ONE), most)


@pytest.mark.parametrize("penalty", [0.25, 4, math.nan])
def test_the_ends_are_not(penalty):
    with pytest.raises(ValueError, match=r"repetition_penalty .* allowed: above 0.25, below 4"):
        make_settings(fraction_bits=11, penalty=penalty)
