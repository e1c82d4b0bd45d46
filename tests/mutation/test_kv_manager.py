"""Mutants of the KV-cache manager's own logic; the blocks below it have benches of their own."""

from tests.deep import DEEP_ONLY
from tests.mutation.control import check
from tokenloom.hw.kv.kv_manager import KvManager

pytestmark = DEEP_ONLY

MANAGER = {"slots": 4, "pages": 14, "positions": 128, "page_tokens": 16}


def test_manager():
    block, parameters = KvManager(**MANAGER), {**MANAGER, "turns": 1000}
    check(block, "tests.hw.kv.test_kv_manager", parameters, count=60, within=block)
