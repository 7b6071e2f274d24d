"""The database's time on any machine: processes that have to agree on a moment with other machines ask here.

Leases and ticks are judged inside the database. What leaves it, the time at which a message is too old, is judged on
machines whose own clocks may be an hour off.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from workers.errors import DatabaseFailed
from workers.runtime.logs import log

HOLDS_SECONDS = 60.0
"""How long an answer is carried on by the steady clock: two machines drift apart by milliseconds in it."""

OFF_SECONDS = 5.0
"""From how many seconds on a clock that is off is logged."""


class SharedClock:
    """Seconds since the epoch, as the database has it. Its last answer counts while it is away; at first our own."""

    def __init__(
        self,
        ask: Callable[[], float],
        *,
        own: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ask` may raise DatabaseFailed."""
        self._ask, self._own, self._steady = ask, own, steady
        self._lock = threading.Lock()
        self._answer: tuple[float, float] | None = None  # the database's time, and ours when it came
        self._asked_at: float | None = None

    def __call__(self) -> float:
        """Return the time now."""
        with self._lock:
            now = self._steady()
            if self._asked_at is None or now - self._asked_at >= HOLDS_SECONDS:
                self._asked_at = now
                self._look()
            if self._answer is None:
                return self._own()
            told, at = self._answer
            return told + self._steady() - at

    def _look(self) -> None:
        try:
            told = self._ask()
        except DatabaseFailed as error:
            log.warning("clock.not_asked", code=error.code)
            return
        self._answer = (told, self._steady())
        off = self._own() - told
        if abs(off) > OFF_SECONDS:
            log.warning("clock.is_off", seconds=round(off), remedy="Set this machine's clock by NTP.")
