"""Proof: the KV manager never loses a page and never shares one by mistake."""

import pytest

from tests.deep import DEEP_ONLY, deep
from tests.formal.kv.manager_proof import ForgetfulCounts, ManagerProof
from tests.formal.sby import prove

# Rings of two entries for sequences of four pages, fewer pages than two slots may want.
SMALL = {"slots": 2, "pages": 3, "positions": 8, "page_tokens": 2, "slot_pages": 2}


@pytest.mark.parametrize(("mode", "depth"), [deep("prove", 1), deep("bmc", 12)])
def test_manager(mode, depth):
    prove("kv_manager", ManagerProof(**SMALL), mode=mode, depth=depth)


@DEEP_ONLY
def test_counts_that_are_forgotten_break_it():
    design = ManagerProof(**SMALL, counts=ForgetfulCounts)
    with pytest.raises(AssertionError, match="Assert failed in top"):
        prove("kv_manager_wrong", design, mode="bmc", depth=10)
