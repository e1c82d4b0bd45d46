"""What a card says of its own origin."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Identity"]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Version and commit of the generator that made a card.

    Attributes
    ----------
    version : str
        "1.2.3"; each part below 256.
    git : str or None
        The commit, 40 hexadecimal digits; None when it is not known.
    modified : bool
        The sources differed from the commit.

    Raises
    ------
    ValueError
        When one of them has another form.
    """

    version: str = "0.0.0"
    git: str | None = None
    modified: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d+\.\d+\.\d+", self.version) or max(self.numbers) > 255:
            raise ValueError(f"version is {self.version!r}; allowed: three numbers up to 255")
        if self.git is not None and not re.fullmatch(r"[0-9a-f]{40}", self.git):
            raise ValueError(f"git is {self.git!r}; allowed: 40 hexadecimal digits")

    @property
    def numbers(self) -> tuple[int, int, int]:
        """Major, minor and patch."""
        major, minor, patch = map(int, self.version.split("."))
        return major, minor, patch
