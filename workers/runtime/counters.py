"""Counters of one process: calls, seconds, losses. A few words and a lock; nothing is written here.

`presence` adds what was counted to the database every few seconds, so a metric is the sum over all processes, on all
hosts, dead ones included. Labels are words of the code, never a tenant's.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping

KMS_CALLS = "kms_calls"
"""By scheme, operation of the port, and code: `ok`, or why it failed."""

KMS_SECONDS = "kms_seconds"
"""By scheme and operation."""

BATCH_SECONDS = "batch_seconds"
"""By stage: from reading a batch to its commit."""

LOCK_NOTICE_SECONDS = "lock_notice_seconds"
"""From the commit of an environment's lock to the moment at which a process knew of it (R8)."""

LEASE_LOSSES = "lease_losses"
"""Batches that were void because their shard was another worker's by then."""

MESSAGES_TAKEN = "messages_taken"
"""By queue."""

BOUNDS: Mapping[str, tuple[float, ...]] = {
    KMS_SECONDS: (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    BATCH_SECONDS: (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
    LOCK_NOTICE_SECONDS: (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0, 10.0),
}
"""Upper bounds of what is observed, in seconds; the promise of each lies on one (a lock is known within a second)."""

Key = tuple[str, tuple[str, ...]]
Deltas = dict[Key, float]

SUM, BUCKET = ".sum", ".bucket"
"""An observation is stored as the sum of its seconds, and as a count in one bucket (its bound is the last label)."""

BEYOND = "+Inf"


class Counters:
    """Counts since they were last taken. Safe under threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Deltas = {}
        self._latest: dict[str, float] = {}

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Add `by` to a counter."""
        with self._lock:
            self._add((name, labels), by)

    def observe(self, name: str, *labels: str, seconds: float) -> None:
        """Record how long something took, in seconds."""
        bounds = BOUNDS[name]
        place = bisect_left(bounds, seconds)
        bound = repr(bounds[place]) if place < len(bounds) else BEYOND
        with self._lock:
            self._add((name + SUM, labels), seconds)
            self._add((name + BUCKET, (*labels, bound)), 1)
            self._latest[name] = seconds

    def take(self) -> Deltas:
        """Return the counts since the last `take`, and reset them."""
        with self._lock:
            counts, self._counts = self._counts, {}
        return counts

    def give_back(self, counts: Deltas) -> None:
        """Add counts back that could not be written: they count the next time."""
        with self._lock:
            for key, value in counts.items():
                self._add(key, value)

    def take_latest(self, name: str) -> float | None:
        """Return the last observation of `name` once, then None until there is another."""
        with self._lock:
            return self._latest.pop(name, None)

    def _add(self, key: Key, value: float) -> None:
        self._counts[key] = self._counts.get(key, 0.0) + value
