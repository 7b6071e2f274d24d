"""What takes long to read, kept for a while: somebody who looks gets what there is, and it is read anew behind them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from schemas.errors import KeyrepackError
from workers.runtime.logs import log

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MOST = 2000
"""Things kept at most; the oldest is forgotten first."""


@dataclass(frozen=True, slots=True)
class _Kept(Generic[V]):
    value: V
    at: float


class Kept(Generic[K, V]):
    """Values by key, each read in a thread of its own and at most once a `seconds`. `clock` is monotonic."""

    def __init__(self, read: Callable[[K], V], *, seconds: float, clock: Callable[[], float]) -> None:
        self._read, self._seconds, self._clock = read, seconds, clock
        self._kept: dict[K, _Kept[V]] = {}
        self._reading: set[K] = set()
        self._lock = threading.Lock()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="keyrepack-kept")

    def peek(self, key: K) -> V | None:
        """What there is, however old; None: it is being read for the first time."""
        with self._lock:
            found = self._kept.get(key)
            is_old = found is None or self._clock() - found.at > self._seconds
            if is_old and key not in self._reading:
                self._reading.add(key)
                self._reader.submit(self._renew, key)
        return found.value if found is not None else None

    def wait(self, key: K) -> V:
        """What there is; the first time, once it is read. Raises what reading does."""
        with self._lock:
            is_there = key in self._kept
        if not is_there:
            self._keep(key, self._read(key))
        value = self.peek(key)
        assert value is not None
        return value

    def close(self) -> None:
        """Read nothing any more."""
        self._reader.shutdown(wait=True, cancel_futures=True)

    def _renew(self, key: K) -> None:
        try:
            self._keep(key, self._read(key))
        except KeyrepackError as error:
            log.warning("kept.not_read", code=error.code)
        finally:
            with self._lock:
                self._reading.discard(key)

    def _keep(self, key: K, value: V) -> None:
        with self._lock:
            self._kept.pop(key, None)
            self._kept[key] = _Kept(value, self._clock())
            while len(self._kept) > MOST:
                del self._kept[next(iter(self._kept))]
