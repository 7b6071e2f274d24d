"""Readings that are shared: of many who ask for the same page at once, all but the first are answered by one.

What happens to a run reaches every browser that watches it in the same moment, and each asks for its page's buttons.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class _Place(Generic[V]):
    """Where those meet who ask for one thing."""

    found: Future[V] = field(default_factory=Future)
    asking: int = 0
    begun: int = 0
    reading: threading.Lock = field(default_factory=threading.Lock)


class Readings(Generic[K, V]):
    """Readings by key, one at a time each. Safe under threads; nothing is kept."""

    def __init__(self) -> None:
        self._places: dict[K, _Place[V]] = {}
        self._lock = threading.Lock()

    @property
    def asking(self) -> int:
        """How many wait for a reading now, those included who read."""
        with self._lock:
            return sum(place.asking for place in self._places.values())

    def share(self, key: K, read: Callable[[], V]) -> V:
        """What a reading found that began after this call: nobody misses what they just did. Raises its error."""
        with self._lock:
            place = self._places.setdefault(key, _Place())
            place.asking += 1
            asked = place.begun
        try:
            with place.reading:
                if place.begun == asked:  # none has begun since
                    _read(place, read)
                return place.found.result()
        finally:
            with self._lock:
                place.asking -= 1
                if not place.asking:
                    del self._places[key]


def _read(place: _Place[V], read: Callable[[], V]) -> None:
    place.begun += 1
    place.found = Future()
    try:
        place.found.set_result(read())
    except BaseException as error:  # noqa: BLE001 - told to all who share it
        place.found.set_exception(error)
