"""Tokenizers, streaming and chat templates."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from tests.shared import shared
from tokenloom.compiler.errors import ModelError
from tokenloom.compiler.models import resolve
from tokenloom.compiler.text import Text, hf_text

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "{{ bos_token }}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def byte_tokenizer() -> Tokenizer:
    """Return a byte-level tokenizer without merges: every byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<s>"), AddedToken("</s>")])
    return tokenizer


def byte_text(template: str | None = None) -> Text:
    return Text(byte_tokenizer(), bos=256, eos=(257,), template=template, bos_text="<s>")


def test_encode_and_decode() -> None:
    text = byte_text()
    ids = text.encode("aé</s>")
    assert ids[0] == 256 and ids[-1] == 257 and len(ids) == 5
    assert text.encode("aé</s>", bos=False) == ids[1:]
    assert text.decode(ids) == "aé" and text.decode(ids, special=True) == "<s>aé</s>"
    assert text.vocab == 258


def test_stream_emits_whole_characters() -> None:
    text = byte_text()
    sample = "naïve 日本語 🙂 end"
    decoder = text.decoder()
    parts = [decoder.push(token) for token in text.encode(sample) + [257]]
    assert "".join(parts) == sample
    assert all("\ufffd" not in part for part in parts)
    assert "🙂" in parts and decoder.finish() == ""


def test_stream_finishes_broken_character() -> None:
    text = byte_text()
    decoder = text.decoder()
    ids = text.encode("🙂", bos=False)
    assert [decoder.push(token) for token in ids[:3]] == ["", "", ""]
    assert decoder.finish() == "\ufffd"


def test_chat() -> None:
    messages = [{"role": "user", "content": "<hi>"}]
    assert byte_text().chat(messages) is None
    assert byte_text(TEMPLATE).chat(messages) == "<s>user: <hi>\nassistant: "
    assert byte_text(TEMPLATE).chat(messages, add_generation_prompt=False) == "<s>user: <hi>\n"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (TEMPLATE, "no tools"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% for %}", "failed"),
        ("{{ messages[5].content.x }}", "failed"),
    ],
)
def test_chat_errors(template: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        byte_text(template).chat([{"role": "tool", "content": ""}])


@pytest.mark.parametrize(
    ("config", "bos"),
    [
        ({}, None),
        ({"bos_token": "<s>", "add_bos_token": True}, 256),
        ({"bos_token": {"content": "<s>"}, "add_bos_token": True}, 256),
        ({"bos_token": "<s>", "add_bos_token": False}, None),
    ],
)
def test_hf_config(tmp_path: Path, config: dict[str, Any], bos: int | None) -> None:
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    several = [{"name": "default", "template": TEMPLATE}, {"name": "x", "template": ""}]
    config = {**config, "eos_token": "</s>", "chat_template": several}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    text = hf_text(tmp_path, eos=(3,))
    assert text.bos == bos and text.eos == (3, 257)
    assert "user: x" in (text.chat([{"role": "user", "content": "x"}]) or "")


def test_hf_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"needs tokenizer\.json"):
        hf_text(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="not a tokenizer"):
        hf_text(tmp_path)


@pytest.mark.parametrize("name", ["stories260K", "tinystories-656k"])
def test_reference_prompts(name: str) -> None:
    expected = json.loads(shared("models/greedy-fp32.json").read_text())[name]
    text = resolve(shared(f"models/{name}")).text()
    assert text.encode(expected["prompt"]) == expected["prompt_ids"]
    assert text.decode(expected["ids"]).strip() in expected["text"]
    decoder = text.decoder(expected["prompt_ids"])
    new = expected["ids"][len(expected["prompt_ids"]) :]
    streamed = "".join(decoder.push(token) for token in new) + decoder.finish()
    assert text.decode(expected["prompt_ids"]) + streamed == text.decode(expected["ids"])


def test_unknown_model() -> None:
    with pytest.raises(
        ModelError, match="allowed are smollm2, tiny, stories260K, tinystories-656k"
    ):
        resolve("no-such-model")
