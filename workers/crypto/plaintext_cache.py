"""Plaintext keys in memory: bounded, and at most five minutes from when each was filled, whatever happens (R8).

Every entry carries its environment and the epoch it was read in. A lock raises the epoch: entries of an older one are
never served again, also those that a slow reader puts in after they were dropped.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from uuid import UUID

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class _Entry:
    expires: float
    environment: UUID
    epoch: int
    material: bytes = field(repr=False)  # R10


class PlaintextCache(Generic[K]):
    """Least recently used out first; a read never prolongs an entry's life. Safe under threads."""

    def __init__(self, *, ttl: float, size: int, clock: Callable[[], float]) -> None:
        """`ttl` in seconds; `clock` is monotonic. With a ttl or size of 0 nothing is kept."""
        self._ttl, self._size, self._clock = ttl, size, clock
        self._entries: OrderedDict[K, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: K) -> tuple[UUID, int, bytes] | None:
        """(environment, epoch, material), unless its time is over; whether the epoch holds is for the caller to ask."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if self._clock() >= entry.expires:
                del self._entries[key]
                return None
            self._entries.move_to_end(key)
            return entry.environment, entry.epoch, entry.material

    def get(self, key: K, epoch: int) -> bytes | None:
        """Return the material, if it was read in this very epoch and its time is not over."""
        found = self.find(key)
        return found[2] if found is not None and found[1] == epoch else None

    def put(self, key: K, material: bytes, *, environment: UUID, epoch: int) -> None:
        """Keep `material`, read in `epoch`, from now for the cache's lifetime."""
        if not self._ttl or not self._size:
            return
        with self._lock:
            self._entries[key] = _Entry(self._clock() + self._ttl, environment, epoch, material)
            self._entries.move_to_end(key)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)

    def drop(self, environment: UUID, *, before: int) -> int:
        """Let go of an environment's plaintext from before an epoch. Returns how many entries went."""
        with self._lock:
            gone = [
                key for key, entry in self._entries.items() if entry.environment == environment and entry.epoch < before
            ]
            for key in gone:
                del self._entries[key]
            return len(gone)

    def environments(self) -> set[UUID]:
        """Whose plaintext is here."""
        with self._lock:
            return {entry.environment for entry in self._entries.values()}

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"PlaintextCache({len(self)} entries)"  # R10
