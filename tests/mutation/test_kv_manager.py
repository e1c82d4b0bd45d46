"""Mutants of the KV-cache manager's own logic; the blocks below it have benches of their own."""

from tests.deep import DEEP_ONLY
from tests.hw.kv.test_kv_manager import BENCHES
from tests.mutation.control import check
from tokenloom.hw.kv.kv_manager import KvManager

pytestmark = DEEP_ONLY


def test_manager():
    given = BENCHES[0]
    block = KvManager(**{name: value for name, value in given.items() if name != "turns"})
    check(block, "tests.hw.kv.test_kv_manager", given, count=60, within=block)
