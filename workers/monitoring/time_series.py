"""Rates from counts that only go up: samples of the last hour, in memory that does not grow."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

HOUR = 3600.0

SAMPLE_SECONDS = 5.0
"""Least time between two samples that are kept: 720 of them make the hour."""


class Series:
    """A count over the last hour."""

    def __init__(self, *, span: float = HOUR, every: float = SAMPLE_SECONDS) -> None:
        self._every = every
        self._samples: deque[tuple[float, float]] = deque(maxlen=int(span / every) + 1)
        self._newest: tuple[float, float] | None = None

    def add(self, at: float, count: float) -> None:
        """Add the count as it was at a time; times never go back. A count that fell has begun anew."""
        if self._newest is not None and (at <= self._newest[0] or count < self._newest[1]):
            if at <= self._newest[0]:
                return
            self._samples.clear()
        self._newest = (at, count)
        if not self._samples or at - self._samples[-1][0] >= self._every:
            self._samples.append(self._newest)

    def rate(self, seconds: float) -> float | None:
        """Return the average increase per second over the last `seconds` (since the first sample if that is later).
        None with fewer than two samples.
        """
        if self._newest is None:
            return None
        at, count = self._newest
        since = next((sample for sample in reversed(self._samples) if sample[0] <= at - seconds), self._samples[0])
        return (count - since[1]) / (at - since[0]) if at > since[0] else None

    def points(self) -> list[tuple[float, float]]:
        """(time, rate a second since the point before it), oldest first."""
        samples = list(self._samples)
        return [(at, (count - before) / (at - since)) for (since, before), (at, count) in pairwise(samples)]
