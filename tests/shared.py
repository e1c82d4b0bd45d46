"""Finds the models and texts that are used in development but are not part of the project."""

import os
from pathlib import Path

import pytest

_SOURCES = {
    "models/stories260K": "Hugging Face: karpathy/tinyllamas",
    "models/tinystories-656k": "Hugging Face: raincandy-u/TinyStories-656K",
    "models/greedy-fp32.json": "greedy tokens of these models in float32, any float implementation",
    "text": "Hugging Face: roneneldan/TinyStories and Salesforce/wikitext",
}


def shared(name: str) -> Path:
    """Return a file or folder below TOKENLOOM_SHARED, or skip the test if it is not there."""
    default = Path(__file__).resolve().parents[2] / "shared"
    path = Path(os.environ.get("TOKENLOOM_SHARED", default)) / name
    if not path.exists():
        source = next((text for key, text in _SOURCES.items() if name.startswith(key)), "see docs")
        pytest.skip(f"shared file {name} is not there; public source: {source}")
    return path
