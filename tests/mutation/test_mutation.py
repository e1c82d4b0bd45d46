"""Mutants of control blocks: the blocks' benches have to notice at least nine in ten."""

import pytest

from tests.deep import deep
from tests.mutation.mutation import mutate
from tests.mutation.toy import Toy
from tokenloom.hw.kv.kv_manager import KvManager

COUNT = 100
MANAGER = {"slots": 4, "pages": 14, "positions": 128, "page_tokens": 16}


@pytest.mark.parametrize("look", [True, False])
def test_what_is_noticed(look):
    found = mutate(Toy(), "tests.mutation.toy", count=20, parameters={"look": look})
    assert found.killed + len(found.equivalent) + len(found.survived) == 20
    assert found.equivalent, "the term that never matters"
    if look:
        assert found.share == 1, found
    else:
        assert found.killed == 0, found


@pytest.mark.parametrize(
    "make, module, parameters",
    [
        deep(
            lambda: KvManager(**MANAGER),
            "tests.hw.kv.test_kv_manager",
            {**MANAGER, "turns": 1000},
            id="kv_manager",
        )
    ],
)
def test_control_blocks(make, module, parameters):
    found = mutate(make(), module, count=COUNT, parameters=parameters)
    print(found)
    assert found.share >= 0.9, found
