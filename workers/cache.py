"""Plaintext keys in memory: bounded, and at most five minutes from when each was filled, whatever happens (R8)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class PlaintextCache(Generic[K]):
    """Least recently used out first; a read never prolongs an entry's life. Safe under threads."""

    def __init__(self, *, ttl: float, size: int, clock: Callable[[], float]) -> None:
        """`ttl` in seconds; `clock` is monotonic. With a ttl or size of 0 nothing is kept."""
        self._ttl, self._size, self._clock = ttl, size, clock
        self._entries: OrderedDict[K, tuple[float, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> bytes | None:
        """The material, unless its time is over."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if self._clock() >= entry[0]:
                del self._entries[key]
                return None
            self._entries.move_to_end(key)
            return entry[1]

    def put(self, key: K, material: bytes) -> None:
        """Keep `material` from now for the cache's lifetime."""
        if not self._ttl or not self._size:
            return
        with self._lock:
            self._entries[key] = (self._clock() + self._ttl, material)
            self._entries.move_to_end(key)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"PlaintextCache({len(self)} entries)"  # R10
