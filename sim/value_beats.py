"""What sparse attention could leave unread: beats of V without a token that takes part."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tokenloom.hw.numbers import formats as fx

__all__ = ["ValueBeats"]


class ValueBeats:
    """Counts them in every row of a sparse golden model; its `trace`.

    A beat of V is a dim of a block of 32 tokens, and the heads of a group share the stream: it can
    be left out if none of them keeps any of the 32. Counted where there is a choice at all, in rows
    that see more than `sparse` tokens.

    Parameters
    ----------
    sparse : int
        As the golden model's.

    Attributes
    ----------
    beats, idle : int
        Per dim of V: those that attention to all tokens reads, and those of them that it need not.
    """

    def __init__(self, sparse: int) -> None:
        self.sparse, self.beats, self.idle = sparse, 0, 0
        self._seen: npt.NDArray[np.bool_] = np.empty((0, 0), dtype=bool)

    @property
    def share(self) -> float:
        """Idle ones of all; 0 when there were none."""
        return self.idle / max(1, self.beats)

    def __call__(self, name: str, layer: int, array: npt.NDArray[Any]) -> None:
        """As the golden model calls its trace."""
        if name == "seen":
            self._seen = array
        elif name == "kept":
            rows = self._seen.sum(axis=-1) > self.sparse
            seen = _blocks(self._seen[rows])
            needed = _blocks(np.logical_or.reduce(array[:, :, rows], axis=1))
            self.beats += len(array) * int(seen.sum())
            self.idle += len(array) * int(seen.sum()) - int(needed.sum())


def _blocks(tokens: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Whether any of 32 tokens is marked: [..., T] becomes [..., T / 32, rounded up]."""
    first = np.arange(0, tokens.shape[-1], fx.BLOCK)
    result: npt.NDArray[np.bool_] = np.logical_or.reduceat(tokens, first, axis=-1)
    return result
