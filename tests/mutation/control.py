"""Mutants of control blocks: the blocks' benches have to notice at least nine in ten."""

import os
from unittest.mock import patch

from tests.hw.many import ONCE
from tests.mutation.mutation import mutate
from tokenloom.hw.verilog.build_folder import build_root, write_whole

__all__ = ["COUNT", "check"]

COUNT = 40  # mutants of a block
KILLED = 0.9  # share of what is not proved to be equivalent


def check(block, module, parameters, *, count=COUNT, within=None):
    """Mutants of `block` against the bench `module`, as `mutate` takes them.

    What became of them is printed, and kept in build/mutation.
    """
    with patch.dict(os.environ, {ONCE: "1"}):
        found = mutate(
            block, module, count=count, within=within, parameters=parameters, enough=KILLED
        )
    print(found)
    write_whole(build_root() / "mutation" / f"{block.module_name}.txt", f"{found}\n")
    assert found.share >= KILLED, found
