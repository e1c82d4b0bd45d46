"""Mutants of the free list and the page table."""

from tests.deep import DEEP_ONLY
from tests.mutation.control import check
from tokenloom.hw.kv.free_list import FreeList
from tokenloom.hw.kv.page_table import PageTable

pytestmark = DEEP_ONLY

FREE = {"pages": 5}
TABLE = {"slots": 3, "pages": 20, "slot_pages": 3, "sequence_pages": 11}


def test_free_list():
    check(FreeList(**FREE), "tests.hw.kv.test_free_list", FREE)


def test_page_table():
    check(PageTable(**TABLE), "tests.hw.kv.test_page_table", TABLE)
