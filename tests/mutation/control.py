"""Mutants of control blocks: the blocks' benches have to notice at least nine in ten."""

import os
from unittest.mock import patch

from tests.hw.many import ONCE
from tests.mutation.mutation import mutate

__all__ = ["COUNT", "check"]

COUNT = 40  # mutants of a block
KILLED = 0.9  # share of what is not proved to be equivalent


def check(block, module, parameters, *, count=COUNT, within=None):
    """Mutants of `block` against the bench `module`, as `mutate` takes them; prints all that is not
    noticed.
    """
    with patch.dict(os.environ, {ONCE: "1"}):
        found = mutate(
            block, module, count=count, within=within, parameters=parameters, enough=KILLED
        )
    print(found)
    assert found.share >= KILLED, found
