"""The coverage points' own rules."""

import pytest

from tests.coverage import Coverage


def test_a_point_that_was_not_hit_fails():
    seen = Coverage("full", "empty")
    seen.sample(full=1, empty=0)
    with pytest.raises(AssertionError, match="times: empty$"):
        seen.check()
    seen.hit("empty")
    seen.check()


def test_each_point_needs_its_number_of_hits():
    seen = Coverage("full", least=2)
    seen.hit("full")
    with pytest.raises(AssertionError, match="full"):
        seen.check()


def test_only_listed_points_can_be_hit():
    with pytest.raises(KeyError):
        Coverage("full").hit("fall")
    with pytest.raises(ValueError, match="twice"):
        Coverage("full", "full")
