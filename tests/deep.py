"""Cases that a quick run leaves out."""

import os

import pytest

__all__ = ["DEEP", "DEEP_ONLY", "deep"]

DEEP = os.environ.get("TOKENLOOM_DEEP") == "1"
DEEP_ONLY = pytest.mark.skipif(not DEEP, reason="only with TOKENLOOM_DEEP=1")
"""Marks what only runs with TOKENLOOM_DEEP=1, as `make verify` does."""


def deep(*values, **options):
    """A parameter set that is `DEEP_ONLY`."""
    return pytest.param(*values, marks=DEEP_ONLY, **options)
