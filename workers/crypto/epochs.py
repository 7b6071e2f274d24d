"""Lock epochs: every process learns that an environment was locked (R8) at once through Redis' pub/sub where that is
the broker, within a second through the database otherwise, and never later than the next read.

A watcher thread drops plaintext without being asked. A reader trusts what the watcher saw for at most FRESH_SECONDS;
then it asks the database itself, so a watcher that died opens nothing.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from workers.broker.lock_notifier import LockNotifier
from workers.errors import DatabaseFailed, EnvironmentLocked
from workers.runtime.counters import LOCK_NOTICE_SECONDS, Counters
from workers.runtime.logs import log
from workers.store.database import Database
from workers.store.environments import read_epochs

FRESH_SECONDS = 0.9
"""How long a read epoch holds: less than the second in which a lock has to reach every process."""

TICK_SECONDS = 0.5
"""How often the watcher reads the database while no notification comes."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """An environment's epoch, and why it is locked if it is."""

    number: int
    lock_cause: str | None
    seen_at: float


class Droppable(Protocol):
    """What holds plaintext by environment."""

    def drop(self, environment: UUID, *, before: int) -> int:
        """Let go of an environment's plaintext from before an epoch."""

    def environments(self) -> set[UUID]:
        """Whose plaintext it holds."""


class Epochs:
    """What this process knows of its environments' epochs, and the caches it keeps honest."""

    def __init__(
        self,
        database: Database,
        notifier: LockNotifier | None,
        clock: Callable[[], float],
        counters: Counters | None = None,
    ) -> None:
        """Know the epochs of a database. Without a `notifier` there is no watcher thread: plaintext stays until its
        time is over, but is never served.
        """
        self._database, self._notifier, self._clock = database, notifier, clock
        self._counters = counters or Counters()
        self._known: dict[UUID, Epoch] = {}
        self._caches: list[Droppable] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def register_cache(self, cache: Droppable) -> None:
        """Drop from this cache, too, when an epoch goes up."""
        self._caches.append(cache)

    def check(self, environment: UUID) -> int:
        """Return the epoch to read and cache in. Raises EnvironmentLocked; DatabaseFailed if the epoch cannot be read:
        closed.
        """
        self._start()
        known = self._known.get(environment)
        if known is None or self._clock() - known.seen_at > FRESH_SECONDS:
            self._refresh([environment])
            known = self._known[environment]
        if known.lock_cause is not None:
            raise EnvironmentLocked(environment=environment, cause=known.lock_cause)
        return known.number

    def announce(self, environments: list[UUID]) -> None:
        """Tell the other processes that an epoch went up here, then drop our own plaintext."""
        if self._notifier is not None:
            self._notifier.notify(environments)
        with contextlib.suppress(DatabaseFailed):
            self._refresh(environments)

    def close(self) -> None:
        """End the watcher."""
        self._closed.set()
        if self._notifier is not None:
            self._notifier.close()
        if self._thread is not None:
            self._thread.join(5)

    def _refresh(self, environments: list[UUID]) -> None:
        """Ask the database, and drop what is of an older epoch."""
        seen_at = self._clock()  # before the question: the answer is at least as new
        with self._database.read() as connection:
            rows = read_epochs(connection, environments)
        for environment, number, lock_cause, lock_age in rows:
            with self._lock:
                before = self._known.get(environment)
                if before is not None and before.number > number:
                    continue
                self._known[environment] = Epoch(number, lock_cause, seen_at)
            if before is None or before.number < number:
                for cache in self._caches:
                    cache.drop(environment, before=number)
                if before is not None and lock_age is not None:
                    self._counters.observe(LOCK_NOTICE_SECONDS, seconds=max(0.0, lock_age))

    def _start(self) -> None:
        if self._notifier is None or self._thread is not None or self._closed.is_set():
            return
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._watch, args=[self._notifier], name="keyrepack-epochs", daemon=True
                )
                self._thread.start()

    def _watch(self, notifier: LockNotifier) -> None:
        while not self._closed.is_set():
            notifier.wait(TICK_SECONDS)
            held: set[UUID] = set().union(*(cache.environments() for cache in self._caches))
            if not held or self._closed.is_set():
                continue
            try:
                self._refresh(sorted(held))
            except DatabaseFailed as error:
                log.warning("epochs.not_seen", why=str(error))  # readers ask for themselves, and fail closed
