"""Cases that a quick run leaves out."""

import os

import pytest

__all__ = ["DEEP", "deep"]

DEEP = os.environ.get("TOKENLOOM_DEEP") == "1"


def deep(*values, **options):
    """A parameter set that only runs with TOKENLOOM_DEEP=1 (as `make verify` does)."""
    mark = pytest.mark.skipif(not DEEP, reason="only with TOKENLOOM_DEEP=1")
    return pytest.param(*values, marks=mark, **options)
