"""What is drawn: every block, enough configurations, the same ones each time."""

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.drawn import drawing
from tests.drawn.drawing import COUNT, FEW, GIVEN, draw, play, repeat, varied
from tokenloom.hw.catalog.catalog import block_spec, block_specs

HERE = Path(__file__).parent
PAIRS = st.fixed_dictionaries({"tag_bits": st.integers(1, 70), "kv_bits": st.sampled_from((4, 8))})


def drawn_by(name):
    """The configurations of a block's test, as pytest has them."""
    module = import_module(f"tests.drawn.test_{name}")
    (mark,) = getattr(module, f"test_{name}").pytestmark
    return mark.args[1]


@pytest.mark.skipif(GIVEN in os.environ, reason=f"{GIVEN} says what is played")
@pytest.mark.parametrize("name", block_specs())
def test_every_block_has_configurations_that_differ(name):
    found = drawn_by(name)
    assert len(found) == (COUNT if drawing.DEEP else FEW)
    assert all(one not in found[:i] for i, one in enumerate(found))
    for one in found:
        block_spec(name).made(one)


def test_draws_repeat_themselves_and_vary():
    found = draw("quantiser", PAIRS, 1)
    assert found == draw("quantiser", PAIRS, 1) != draw("quantiser", PAIRS, 2)
    chosen = varied(found, COUNT)
    assert len(chosen) == COUNT and all(one in found for one in chosen)
    assert chosen[0] == {"tag_bits": 1, "kv_bits": 4}
    assert varied(found, 1 + FEW) == chosen[: 1 + FEW]
    # Eight bits are as often drawn as four, whatever hypothesis preferred.
    assert sum(one["kv_bits"] == 8 for one in chosen) == COUNT // 2


def test_a_failure_names_the_configuration_and_how_to_repeat_it(monkeypatch):
    """The command plays that configuration and nothing else."""

    def wrong(*_, **__):
        raise SystemExit("cocotb found it")

    monkeypatch.setattr(drawing, "run_block", wrong)
    given = {"tag_bits": 13, "kv_bits": 4}
    with pytest.raises(AssertionError) as failure:
        play("quantiser", given, "tests.hw.array.test_quantiser")
    text = str(failure.value)
    assert "quantiser: tag_bits=13 kv_bits=4" in text
    assert f"repeat with: {repeat('quantiser', given)}" in text
    variable = re.search(rf'{GIVEN}="([^"]*)"', text)[1]
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", HERE],
        env={**os.environ, GIVEN: variable}, cwd=HERE.parents[1], capture_output=True, text=True,
        check=True,
    ).stdout  # fmt: skip
    played = [line for line in listed.splitlines() if "=" in line]
    assert played == ["tests/drawn/test_quantiser.py::test_quantiser[tag_bits=13 kv_bits=4]"]


def test_a_bench_gets_what_was_drawn(monkeypatch):
    seen = {}
    monkeypatch.setattr(drawing, "run_block", lambda block, module, parameters: seen.update(
        {"block": block, "module": module, **parameters}))  # fmt: skip
    play("quantiser", {"tag_bits": 3, "kv_bits": 8}, "some.module", stalls=[0.5])
    assert seen.pop("block").module_name.startswith("quantiser")
    assert seen == {"module": "some.module", "tag_bits": 3, "kv_bits": 8, "stalls": [0.5]}


def test_an_unknown_parameter_is_no_configuration():
    with pytest.raises(AssertionError):
        draw("quantiser", st.fixed_dictionaries({"kv_bits": st.just(8)}), 1)
