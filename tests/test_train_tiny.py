"""The training script, for a few steps; only where torch is installed."""

import dataclasses
import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest

from tokenloom.compiler.hf_dir import load_hf
from tokenloom.compiler.text import hf_text
from tokenloom.sim.reference import Reference

torch = pytest.importorskip("torch", reason="training needs torch: pip install -e '.[train]'")

torch.set_num_threads(1)

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "train_tiny.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_tiny", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Forty stories, all different."""
    who, what = ("Lily", "Tom", "a cat", "the dog", "Mom"), ("ran", "sang", "slept", "ate")
    where = ("home", "in the park")
    stories = [
        f"One day, {a} {b} {c}. Then {a} {b} again, and again, and was happy."
        for a, b, c in itertools.product(who, what, where)
    ]
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    path.write_text("\n<|endoftext|>\n".join(stories))
    return path


@pytest.fixture(scope="module")
def settings(script):
    recipe = script.Recipe(steps=12, batch=4, warmup=2, dropout=0.1)
    return recipe, script.Shape(width=32, ffn=64, layers=1, heads=2, kv_heads=1, vocab=280)


@pytest.fixture(scope="module")
def trained(script, text, settings, tmp_path_factory):
    work = tmp_path_factory.mktemp("whole")
    script.train(text, work, *settings, every=4)
    return work


def test_a_resumed_run_ends_with_the_same_bits(script, text, settings, trained, tmp_path):
    script.train(text, tmp_path, *settings, every=4, stop=8)
    halfway = torch.load(tmp_path / "last.pt", weights_only=True)
    assert halfway["step"] == 8
    script.train(text, tmp_path, *settings, every=4)
    want, have = (
        torch.load(folder / "last.pt", weights_only=True) for folder in (trained, tmp_path)
    )
    assert have["step"] == want["step"] == 12
    for name, weight in want["model"].items():
        assert torch.equal(have["model"][name], weight), name
        assert not torch.equal(halfway["model"][name], weight), name


def test_it_learns(script, trained):
    state = torch.load(trained / "best.pt", weights_only=True)
    assert state["loss"] < np.log(280) - 0.3


def test_other_settings_are_refused(script, text, settings, trained):
    recipe, shape = settings
    with pytest.raises(SystemExit, match="was begun with"):
        script.train(text, trained, dataclasses.replace(recipe, seed=2), shape)


def test_export_is_the_model_that_was_trained(script, text, trained, tmp_path):
    figures = script.export(trained, tmp_path, text, text)
    assert {path.name for path in tmp_path.iterdir()} == {
        "README.md", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    checkpoint, tokens = load_hf(tmp_path), hf_text(tmp_path)
    assert checkpoint.embedding.kind == "bf16"
    state = torch.load(trained / "best.pt", weights_only=True)
    model = script.Llama(script.Shape(**state["shape"]), 0.0)
    model.load_state_dict({k: v.to(torch.bfloat16) for k, v in state["model"].items()})
    story = script.read_stories(text)[0]
    ids = tokens.encode(story)
    assert [*ids, script.END] == script.encode(
        script.Tokenizer.from_file(str(trained / "tokenizer.json")), [story]
    )[0].tolist()
    with torch.no_grad():
        want = model.eval()(torch.tensor([ids]))[0].numpy()
    np.testing.assert_allclose(Reference(checkpoint).logits(ids), want, atol=1e-4)
    card = (tmp_path / "README.md").read_text()
    for key in ("held-out", "evaluation"):
        assert f"{figures[key]['loss']:.4f}" in card
    assert "--batch 4" in card and "stories.txt" in card and str(tmp_path.parent) not in card


def test_splitting_keeps_the_text(script, trained):
    tokenizer = script.Tokenizer.from_file(str(trained / "tokenizer.json"))
    pairs = script.parents(tokenizer)
    ids = np.array(tokenizer.encode("One day, Lily ran home. Then the cat sang again.").ids)
    merged = int((pairs[ids, 0] >= 0).sum())
    assert merged > 5
    for share, most in ((0.0, 0), (0.5, merged - 1), (1.0, merged)):
        spread = script.split_some(ids, pairs, share, np.random.default_rng(1))
        added = len(spread) - len(ids)
        assert (0 < added if share else added == 0) and added <= most
        assert tokenizer.decode(spread.tolist()) == tokenizer.decode(ids.tolist())


def test_the_rate_rises_and_falls(script, settings):
    rates = [script.learning_rate(settings[0], step) for step in range(12)]
    peak = int(np.argmax(rates))
    assert rates[peak] == pytest.approx(settings[0].rate) and 0 < peak < 3
    assert rates[:peak] == sorted(rates[:peak]) and rates[peak:] == sorted(rates[peak:])[::-1]
    assert rates[-1] < 0.1 * settings[0].rate
