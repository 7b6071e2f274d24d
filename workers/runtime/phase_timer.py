"""Measures where the time goes: seconds by phase, at the price of one reading of the clock per phase and batch."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable


class PhaseTimer:
    """Laps: each one adds the time since the last to its phase, so that phases sum up to the whole."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Start it."""
        self._clock, self._lapped_at = clock, clock()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def lap(self, phase: str) -> None:
        """Count the time since the last lap as spent in `phase`."""
        now = self._clock()
        self._seconds[phase] += now - self._lapped_at
        self._lapped_at = now

    def spent(self) -> dict[str, float]:
        """Seconds by phase so far, to the microsecond."""
        return {phase: round(seconds, 6) for phase, seconds in self._seconds.items()}
