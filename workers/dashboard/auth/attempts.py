"""Limits how often a person may try to sign in: by name and by address, and how many tries run at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

WINDOW_SECONDS = 900.0
BY_PAIR, BY_NAME, BY_ADDRESS = 5, 50, 30
"""Failures in a window: of one name from one address, of one name from anywhere (more: a stranger must not shut
a person out with five tries), and from one address under whatever name (an office shares one)."""

MOST = 50_000
"""Names and addresses remembered at most; the oldest is forgotten first."""


@dataclass(slots=True)
class Attempts:
    """Failures of the last window. Safe under threads; `clock` is monotonic."""

    clock: Callable[[], float]
    _failures: dict[str, deque[float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self, name: str, address: str) -> float:
        """Seconds until this name may try from this address; 0: now."""
        with self._lock:
            return max(self._wait(key, most) for key, most in _keys(name, address))

    def failed(self, name: str, address: str) -> None:
        """Count a wrong password; or one that is about to be tried, until it `succeeded`."""
        with self._lock:
            for key, most in _keys(name, address):
                failures = self._failures.pop(key, deque(maxlen=most))
                failures.append(self.clock())
                self._failures[key] = failures
            while len(self._failures) > MOST:
                self._failures.pop(next(iter(self._failures)))

    def succeeded(self, name: str, address: str) -> None:
        """Forgive a try: the password was right. Earlier tries are forgiven to the name at this address alone."""
        with self._lock:
            pair, *others = (key for key, _ in _keys(name, address))
            self._failures.pop(pair, None)
            for key in others:
                if failures := self._failures.get(key):
                    failures.pop()

    def _wait(self, key: str, most: int) -> float:
        failures = self._failures.get(key, deque())
        if len(failures) < most:
            return 0.0
        return max(0.0, failures[0] + WINDOW_SECONDS - self.clock())


def _keys(name: str, address: str) -> tuple[tuple[str, int], ...]:
    return (f"pair:{address}:{name}", BY_PAIR), (f"name:{name}", BY_NAME), (f"address:{address}", BY_ADDRESS)
