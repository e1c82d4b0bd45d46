"""Mutants of the blocks that the KV-cache manager is made of."""

from tests.deep import DEEP_ONLY
from tests.mutation.control import check
from tokenloom.hw.kv.eviction import Eviction
from tokenloom.hw.kv.free_list import FreeList
from tokenloom.hw.kv.page_table import PageTable
from tokenloom.hw.kv.page_use import PageUse
from tokenloom.hw.kv.ref_counts import RefCounts

pytestmark = DEEP_ONLY

FREE = {"pages": 5}
COUNTS = {"pages": 6, "most": 3}
USE = {"pages": 5, "stamp_bits": 10}
TABLE = {"slots": 3, "pages": 20, "slot_pages": 3, "sequence_pages": 11}


def test_free_list():
    check(FreeList(**FREE), "tests.hw.kv.test_free_list", FREE)


def test_page_table():
    check(PageTable(**TABLE), "tests.hw.kv.test_page_table", TABLE)


def test_ref_counts():
    check(RefCounts(**COUNTS), "tests.hw.kv.test_ref_counts", COUNTS)


def test_page_use():
    block = PageUse(**USE)
    parameters = {**USE, "turns": 3000, "rest": 2 * block.refresh}
    check(block, "tests.hw.kv.test_page_use", parameters)


def test_eviction():
    check(Eviction(tag_bits=8), "tests.hw.kv.test_eviction", {"searches": 600})
