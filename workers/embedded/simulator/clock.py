"""The simulator's clock: real time, and what was added to it."""

from __future__ import annotations

import time
from collections.abc import Callable

DAY = 86_400.0
"""Seconds: rotation periods and waiting periods before deletion are given in days."""


class Clock:
    """Seconds since the epoch. It runs by itself and can be put forward, never back."""

    def __init__(self, source: Callable[[], float] = time.time) -> None:
        self._source = source
        self._ahead = 0.0

    def now(self) -> float:
        """Seconds since the epoch, as the simulated KMS sees them."""
        return self._source() + self._ahead

    def advance(self, seconds: float) -> float:
        """Put the clock forward; returns the new time. Raises ValueError for a step back."""
        if seconds < 0:
            raise ValueError("The clock goes forward only.")
        self._ahead += seconds
        return self.now()
