"""A tiny random model, and the command line called as the console script does."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from tokenloom.host import cli as cli_module

__all__ = ["CONTEXT", "TEMPLATE", "VOCAB", "call", "failed", "run_golden", "start", "write_model"]

CONTEXT = 64
WIDTH, FFN, HEADS, KV, HEAD, VOCAB, LAYERS = 64, 96, 4, 2, 16, 260, 1
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<answer>"


def write_model(
    folder: Path,
    template: str | None = TEMPLATE,
    *,
    width: int = WIDTH,
    without: str = "",
    beyond: Sequence[str] = (),
) -> Path:
    """A random model in Hugging Face layout whose tokens are bytes.

    `without` names bytes that its tokenizer does not know, `beyond` tokens of the tokenizer that
    the model does not have.
    """
    folder.mkdir()
    rng = np.random.default_rng(3)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCAB, width),
        "model.norm.weight": (width,),
    }
    for index in range(LAYERS):
        shapes |= {
            f"model.layers.{index}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": (width,),
                "post_attention_layernorm": (width,),
                "self_attn.q_proj": (HEADS * HEAD, width),
                "self_attn.k_proj": (KV * HEAD, width),
                "self_attn.v_proj": (KV * HEAD, width),
                "self_attn.o_proj": (width, HEADS * HEAD),
                "mlp.gate_proj": (FFN, width),
                "mlp.up_proj": (FFN, width),
                "mlp.down_proj": (width, FFN),
            }.items()
        }
    values = {
        name: (rng.normal(size=shape) * (0.2 if len(shape) > 1 else 1.0)).astype(np.float32)
        for name, shape in shapes.items()
    }
    save_file(values, folder / "model.safetensors")
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": width,
        "intermediate_size": FFN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV,
        "head_dim": HEAD,
        "vocab_size": VOCAB,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "eos_token_id": 257,
    }
    (folder / "config.json").write_text(json.dumps(config))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*letters, "<s>", "</s>", "<x>", "<y>", *beyond]
    vocab = {f"<no {name}>" if name in without else name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(names[len(letters) :])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "</s>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def call(monkeypatch, *args):
    """Run `main` as the console script does; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["tokenloom", *map(str, args)])
    with pytest.raises(SystemExit) as caught:
        cli_module.main()
        sys.exit(0)
    return caught.value.code


def run_golden(monkeypatch, model, *args):
    common = ["--model", model, "--board", "mini", "--device", "golden"]
    return call(monkeypatch, "run", *common, *args)


def failed(monkeypatch, capsys, *args):
    """The one line of an error; nothing else was said on stdout."""
    capsys.readouterr()
    assert call(monkeypatch, *args) == 2
    out, err = capsys.readouterr()
    line = err.splitlines()[-1]
    assert line.startswith("error: ")
    assert "Traceback" not in err
    assert out == ""
    return line


def start(*args, **options):
    """Start the command line in a process of its own, with pipes behind stdout and stderr."""
    code = "from tokenloom.host.cli import main; main()"
    usual = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": listen_to_ctrl_c}
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, text=True, **{**usual, **options})


def listen_to_ctrl_c():
    """For a child process: a shell's background jobs are started with Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
