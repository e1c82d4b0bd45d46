"""Draws configurations of the catalog's blocks with hypothesis and puts each through a bench.

Drawing and playing are two things: hypothesis gives a list of configurations when the tests are
collected, and each of them becomes a test of its own. So a build of Verilator is never repeated for
shrinking, no configuration comes twice, and a failure names the configuration.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any
from unittest.mock import patch

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.strategies import SearchStrategy

from tests.deep import DEEP
from tests.hw.many import ONCE
from tokenloom.hw.catalog.catalog import block_spec
from tokenloom.hw.verilog.block import Block
from tokenloom.hw.verilog.build_folder import build_root
from tokenloom.sim.bench import run_block

__all__ = ["COUNT", "built", "draw", "drawn", "play", "repeat", "varied"]

COUNT, FEW = 20, 2
"""Configurations of each block with TOKENLOOM_DEEP=1, and without."""

GIVEN = "TOKENLOOM_DRAWN"
"""Variable with a block's name and its parameters: play this configuration and no other."""

Configuration = dict[str, Any]

# Whatever hypothesis keeps belongs to what is built.
set_hypothesis_home_dir(build_root() / "hypothesis")


def draw(name: str, strategy: SearchStrategy[Configuration], seed: int) -> list[Configuration]:
    """Different configurations of the block, the same ones for the same seed."""
    found: list[Configuration] = []
    names = [parameter.name for parameter in block_spec(name).parameters]

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=5 * COUNT,
        database=None,  # what was drawn before must not decide what is drawn now
        deadline=None,
        phases=[Phase.generate],  # nothing can fail here
        # Parameters depend on each other; that is neither too much nor too slow.
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(strategy)
    def collect(configuration: Configuration) -> None:
        assert set(configuration) == set(names)
        ordered = {one: configuration[one] for one in names}
        if ordered not in found:
            found.append(ordered)

    collect()
    return found


def varied(found: list[Configuration], count: int) -> list[Configuration]:
    """So many of them: the first one, which is the smallest, and then always the one whose values
    are the rarest among those that there are; hypothesis likes to draw close to what it has drawn.
    """
    chosen, rest = found[:1], found[1:]
    seen: Counter[tuple[str, Any]] = Counter(found[0].items())
    while len(chosen) < count:
        best = max(rest, key=lambda one: sum(1 / (1 + seen[item]) for item in one.items()))
        rest.remove(best)
        chosen.append(best)
        seen.update(best.items())
    return chosen


def _words(configuration: Configuration) -> str:
    return " ".join(f"{name}={value}" for name, value in configuration.items())


def drawn(name: str, strategy: SearchStrategy[Configuration]) -> pytest.MarkDecorator:
    """Decorates the test of a block: its `configuration` is each one that is to be played."""
    given = os.environ.get(GIVEN)
    if given is None:
        found = draw(name, strategy, int(os.environ.get("TOKENLOOM_SEED", "1")))
        found = varied(found, COUNT) if DEEP else varied(found, 1 + FEW)[1:]  # not the smallest
    else:
        wanted, *parameters = given.split()
        found = [block_spec(name).arguments(parameters)] if wanted == name else []
    return pytest.mark.parametrize("configuration", found, ids=_words)


def repeat(name: str, configuration: Configuration) -> str:
    """The command that plays exactly this configuration again."""
    seed = os.environ.get("TOKENLOOM_SEED", "1")
    given = f'{GIVEN}="{name} {_words(configuration)}" TOKENLOOM_SEED={seed}'
    return f"{given} python -m pytest tests/drawn/test_{name}.py"


def built(name: str, configuration: Configuration) -> Block:
    """The block; all that its page says about its time has to be computable, too."""
    spec = block_spec(name)
    assert set(configuration) == {parameter.name for parameter in spec.parameters}
    assert all(time.cycles is None or time.cycles >= 0 for time in spec.timing(**configuration))
    return spec.made(configuration)


def play(
    name: str, configuration: Configuration, module: str, *, block: Block | None = None, **more: Any
) -> None:
    """Run the cocotb tests of `module` on the configuration.

    Parameters
    ----------
    name : str
        Of the block in the catalog.
    block : Block, optional
        The top, if it is more than the block itself.
    more : dict
        The bench's parameters beside the configuration's.
    """
    again = repeat(name, configuration)
    try:
        block = block or built(name, configuration)
        # Of each block one configuration sees a million values, in its own test.
        with patch.dict(os.environ, {ONCE: "1"}):
            run_block(block, module, parameters={**configuration, **more})
    except (Exception, SystemExit) as error:  # cocotb-test ends with SystemExit
        raise AssertionError(f"{name}: {_words(configuration)}\nrepeat with: {again}") from error
