"""Shapes of published models, from their config.json: for estimates, without weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenloom.compiler.checkpoint import ModelShape
from tokenloom.compiler.errors import ModelError

__all__ = ["PUBLIC_MODELS", "PublicModel", "public_model"]


@dataclass(frozen=True, kw_only=True)
class PublicModel:
    """A published model.

    Attributes
    ----------
    source : str
        Whose config.json it is.
    shape : ModelShape
    missing : str
        What the generator does not have yet and the model needs; empty if nothing.
    """

    source: str
    shape: ModelShape
    missing: str = ""


_FIELDS = ("width", "ffn", "layers", "heads", "kv_heads", "head_size", "vocab", "positions")

# name: (source, the fields above, theta, epsilon, tied, missing)
_TABLE: dict[str, tuple[str, tuple[int, ...], float, float, bool, str]] = {
    "stories260K": (
        "karpathy/tinyllamas",
        (64, 172, 5, 8, 4, 8, 512, 512), 1e4, 1e-5, True, "",
    ),
    "SmolLM2-135M": (
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        (576, 1536, 30, 9, 3, 64, 49152, 8192), 1e5, 1e-5, True, "",
    ),
    "TinyLlama-1.1B": (
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        (2048, 5632, 22, 32, 4, 64, 32000, 2048), 1e4, 1e-5, False, "",
    ),
    "Llama-2-7B": (
        "meta-llama/Llama-2-7b-hf",
        (4096, 11008, 32, 32, 32, 128, 32000, 4096), 1e4, 1e-5, False, "",
    ),
    "Qwen2.5-7B": (
        "Qwen/Qwen2.5-7B-Instruct",
        (3584, 18944, 28, 28, 4, 128, 152064, 32768), 1e6, 1e-6, False,
        "",
    ),
    "Llama-3-8B": (
        "meta-llama/Meta-Llama-3-8B",
        (4096, 14336, 32, 32, 8, 128, 128256, 8192), 5e5, 1e-5, False, "",
    ),
    "Qwen3-8B": (
        "Qwen/Qwen3-8B",
        (4096, 12288, 36, 32, 8, 128, 151936, 40960), 1e6, 1e-6, False,
        "",
    ),
    "Llama-3-70B": (
        "meta-llama/Meta-Llama-3-70B",
        (8192, 28672, 80, 64, 8, 128, 128256, 8192), 5e5, 1e-5, False, "",
    ),
}  # fmt: skip

_BIASED = ("Qwen2.5-7B",)
"""Models whose q, k and v have a bias."""

_NORMED = ("Qwen3-8B",)
"""Models with a norm over every head of q and k."""


def _shape(name: str) -> ModelShape:
    _, sizes, theta, eps, tied, _ = _TABLE[name]
    numbers: dict[str, Any] = dict(zip(_FIELDS, sizes, strict=True))
    return ModelShape(
        name=name, **numbers, rope_theta=theta, norm_eps=eps, tied=tied, bos=None, eos=(),
        qkv_bias=name in _BIASED, qk_norm=name in _NORMED,
    )  # fmt: skip


PUBLIC_MODELS: dict[str, PublicModel] = {
    name: PublicModel(source=row[0], shape=_shape(name), missing=row[-1])
    for name, row in _TABLE.items()
}
"""Name -> model, small to large."""


def public_model(name: str) -> PublicModel:
    """The model of that name, whatever its case.

    Raises
    ------
    ModelError
        If there is none; the message lists them.
    """
    for known, model in PUBLIC_MODELS.items():
        if known.lower() == name.lower():
            return model
    raise ModelError(f"no shape is known of {name!r}; allowed are {', '.join(PUBLIC_MODELS)}")
