"""Functional coverage: the situations that a bench has to bring about, by name."""

from __future__ import annotations

__all__ = ["Coverage"]


class Coverage:
    """Counts how often each of its points was hit.

    Random traffic that never fills a queue proves nothing about a full queue: so a bench lists what
    has to happen, and `check` fails if one of the points did not.

    Parameters
    ----------
    points : str
        Names; a point nobody listed cannot be hit.
    least : int
        Hits that each of them needs.
    """

    def __init__(self, *points: str, least: int = 1) -> None:
        if len(set(points)) != len(points):
            raise ValueError(f"a point is listed twice: {points}")
        self._hits, self._least = dict.fromkeys(points, 0), least

    @property
    def points(self) -> frozenset[str]:
        """The names."""
        return frozenset(self._hits)

    def hit(self, point: str, when: object = True) -> None:
        """Count `point` if `when` is true."""
        self._hits[point] += bool(when)

    def sample(self, **points: object) -> None:
        """Count each point whose value is true."""
        for point, when in points.items():
            self.hit(point, when)

    def check(self) -> None:
        """Print the counts.

        Raises
        ------
        AssertionError
            When a point was hit too seldom.
        """
        print("coverage:", ", ".join(f"{point} {n}" for point, n in self._hits.items()))
        missed = [point for point, n in self._hits.items() if n < self._least]
        assert not missed, f"hit fewer than {self._least} times: {', '.join(missed)}"
