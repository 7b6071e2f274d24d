"""One flight a key: of many who ask for the same thing one fetches it, and a failure is remembered for a while."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

NEGATIVE_SECONDS = 10.0
"""How long a failure is answered from memory: it spares a KMS that says no to everybody."""

NEGATIVE_SIZE = 10_000


class Flights(Generic[K, T]):
    """Fetches under way, by key. Safe under threads."""

    def __init__(self) -> None:
        self._flying: dict[K, Future[T]] = {}
        self._lock = threading.Lock()

    def fetch(self, key: K, work: Callable[[], T]) -> T:
        """What `work` returns or raises; called once for all who ask while it runs."""
        with self._lock:
            flight = self._flying.get(key)
            mine = flight is None
            if flight is None:
                flight = self._flying[key] = Future()
        if not mine:
            return flight.result()
        try:
            result = work()
        except BaseException as error:
            flight.set_exception(error)
            raise
        else:
            flight.set_result(result)
            return result
        finally:
            with self._lock:
                del self._flying[key]


class Failures(Generic[K]):
    """Failures of the last seconds, each with the epoch it happened in."""

    def __init__(self, *, clock: Callable[[], float], seconds: float = NEGATIVE_SECONDS) -> None:
        self._clock, self._seconds = clock, seconds
        self._entries: OrderedDict[K, tuple[float, int, Exception]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: K) -> tuple[int, Exception] | None:
        """(epoch, failure) of the last seconds."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or self._clock() >= entry[0]:
                return None
            return entry[1], entry[2]

    def put(self, key: K, error: Exception, *, epoch: int) -> None:
        """Remember a failure."""
        with self._lock:
            self._entries[key] = (self._clock() + self._seconds, epoch, error.with_traceback(None))
            self._entries.move_to_end(key)
            while len(self._entries) > NEGATIVE_SIZE:
                self._entries.popitem(last=False)
