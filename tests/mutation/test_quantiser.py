"""Mutants of the quantiser's control."""

from tests.deep import DEEP_ONLY
from tests.mutation.control import check
from tokenloom.hw.array.quantiser import Quantiser

pytestmark = DEEP_ONLY

CODES = {"kv_bits": 8, "tag_bits": 5}


def test_quantiser():
    check(Quantiser(**CODES), "tests.hw.array.test_quantiser", CODES)
