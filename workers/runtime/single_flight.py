"""One computation for many callers who ask for the same thing at once. Every class is safe under threads.

Which answer a caller may share is the difference between them:

| class | a caller gets |
|---|---|
| SingleFlight | the answer of a call that runs now |
| FreshFlight | the answer of a call that began after this caller asked: nobody misses what they just did |
| Recent | an answer of the last seconds |
| StaleWhileRevalidate | the last answer, however old; it is computed anew behind the caller |
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from schemas.errors import KeyrepackError
from workers.runtime.logs import log

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

FAILURE_SECONDS = 10.0
"""How long a failure is answered from memory: it spares a KMS that refuses every caller."""

FAILURES_KEPT = 10_000
VALUES_KEPT = 2000
"""Values that StaleWhileRevalidate keeps at most; the oldest is dropped first."""


class SingleFlight(Generic[K, V]):
    """Calls under way, by key."""

    def __init__(self) -> None:
        self._flying: dict[K, Future[V]] = {}
        self._lock = threading.Lock()

    def fetch(self, key: K, work: Callable[[], V]) -> V:
        """Return what `work` returns, or raise what it raises; it is called once for all who ask while it runs."""
        with self._lock:
            flight = self._flying.get(key)
            mine = flight is None
            if flight is None:
                flight = self._flying[key] = Future()
        if not mine:
            return flight.result()
        try:
            _resolve(flight, work)
            return flight.result()
        finally:
            with self._lock:
                del self._flying[key]


@dataclass(slots=True)
class _Meeting(Generic[V]):
    """Where the callers for one key meet."""

    found: Future[V] = field(default_factory=Future)
    asking: int = 0
    begun: int = 0
    running: threading.Lock = field(default_factory=threading.Lock)


class FreshFlight(Generic[K, V]):
    """Calls by key, one at a time each; no answer is kept."""

    def __init__(self) -> None:
        self._meetings: dict[K, _Meeting[V]] = {}
        self._lock = threading.Lock()

    @property
    def asking(self) -> int:
        """Count the callers that wait for an answer now, those included that compute one."""
        with self._lock:
            return sum(meeting.asking for meeting in self._meetings.values())

    def fetch(self, key: K, work: Callable[[], V]) -> V:
        """Return what a call of `work` returned that began after this one was asked, or raise what it raised."""
        with self._lock:
            meeting = self._meetings.setdefault(key, _Meeting())
            meeting.asking += 1
            asked = meeting.begun
        try:
            with meeting.running:
                if meeting.begun == asked:  # none has begun since
                    meeting.begun += 1
                    meeting.found = Future()
                    _resolve(meeting.found, work)
                return meeting.found.result()
        finally:
            with self._lock:
                meeting.asking -= 1
                if not meeting.asking:
                    del self._meetings[key]


class Recent(Generic[V]):
    """One value, computed at most once per `seconds`. `clock` is monotonic."""

    def __init__(self, work: Callable[[], V], *, seconds: float, clock: Callable[[], float]) -> None:
        self._work, self._seconds, self._clock = work, seconds, clock
        self._found: tuple[float, V] | None = None
        self._lock = threading.Lock()

    def __call__(self) -> V:
        """Return a value that is at most `seconds` old. Raises what `work` raises."""
        with self._lock:
            if self._found is None or self._clock() - self._found[0] > self._seconds:
                self._found = (self._clock(), self._work())
            return self._found[1]


class StaleWhileRevalidate(Generic[K, V]):
    """Values by key, each computed in a background thread at most once per `seconds`. `clock` is monotonic."""

    def __init__(self, work: Callable[[K], V], *, seconds: float, clock: Callable[[], float]) -> None:
        self._work, self._seconds, self._clock = work, seconds, clock
        self._kept: dict[K, tuple[float, V]] = {}
        self._running: set[K] = set()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="keyrepack-revalidate")

    def peek(self, key: K) -> V | None:
        """Return the last value, however old; None while it is computed for the first time."""
        with self._lock:
            found = self._kept.get(key)
            is_old = found is None or self._clock() - found[0] > self._seconds
            if is_old and key not in self._running:
                self._running.add(key)
                self._pool.submit(self._renew, key)
        return found[1] if found is not None else None

    def wait(self, key: K) -> V:
        """Return the last value; the first time, compute it. Raises what `work` raises."""
        with self._lock:
            is_there = key in self._kept
        if not is_there:
            self._keep(key, self._work(key))
        value = self.peek(key)
        assert value is not None
        return value

    def close(self) -> None:
        """Compute nothing any more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _renew(self, key: K) -> None:
        try:
            self._keep(key, self._work(key))
        except KeyrepackError as error:
            log.warning("revalidation.failed", code=error.code)
        finally:
            with self._lock:
                self._running.discard(key)

    def _keep(self, key: K, value: V) -> None:
        with self._lock:
            self._kept.pop(key, None)
            self._kept[key] = (self._clock(), value)
            while len(self._kept) > VALUES_KEPT:
                del self._kept[next(iter(self._kept))]


class FailureCache(Generic[K]):
    """Failures of the last seconds by key, each with the epoch in which it happened."""

    def __init__(self, *, clock: Callable[[], float], seconds: float = FAILURE_SECONDS) -> None:
        self._clock, self._seconds = clock, seconds
        self._entries: OrderedDict[K, tuple[float, int, Exception]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: K) -> tuple[int, Exception] | None:
        """Return (epoch, failure) of the last seconds, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or self._clock() >= entry[0]:
                return None
            return entry[1], entry[2]

    def put(self, key: K, error: Exception, *, epoch: int) -> None:
        """Keep a failure."""
        with self._lock:
            self._entries[key] = (self._clock() + self._seconds, epoch, error.with_traceback(None))
            self._entries.move_to_end(key)
            while len(self._entries) > FAILURES_KEPT:
                self._entries.popitem(last=False)


def _resolve(future: Future[V], work: Callable[[], V]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - raised to all who share it
        future.set_exception(error)
