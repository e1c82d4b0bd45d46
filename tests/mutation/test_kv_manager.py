"""Mutants of the KV-cache manager, which has by far the most logic of all control blocks."""

from tests.deep import DEEP_ONLY
from tests.mutation.control import check
from tokenloom.hw.kv.kv_manager import KvManager

pytestmark = DEEP_ONLY

MANAGER = {"slots": 4, "pages": 14, "positions": 128, "page_tokens": 16}


def test_manager():
    parameters = {**MANAGER, "turns": 1000}
    check(KvManager(**MANAGER), "tests.hw.kv.test_kv_manager", parameters, count=100)
