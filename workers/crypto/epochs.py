"""How every process learns that an environment was locked (R8): at once through Redis' pub/sub where that is the
broker, within a second through the database otherwise, and never later than the next read.

A watcher thread drops plaintext without being asked. A reader trusts what the watcher saw for at most FRESH_SECONDS;
then it asks the database itself, so a watcher that died opens nothing.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from workers.errors import DatabaseFailed, EnvironmentLocked
from workers.runtime.counters import LOCK_NOTICE_SECONDS, Counters
from workers.runtime.logs import log
from workers.store.database import Database
from workers.store.environments import read_epochs

FRESH_SECONDS = 0.9
"""How long a look at an epoch holds: less than the second in which a lock has to reach every process."""

TICK_SECONDS = 0.5
"""How often the watcher looks at the database while nothing rings."""


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


class Bell(Protocol):
    """A hint that some environment's epoch changed. Losing one costs at most TICK_SECONDS."""

    def ring(self, environments: list[UUID]) -> None:
        """Tell every process. Never raises."""

    def wait(self, seconds: float) -> None:
        """Return when it rings, or after `seconds`. Never raises."""

    def close(self) -> None:
        """Let go of connections."""


class QuietBell:
    """Within one process: rings nobody, and is woken to end."""

    def __init__(self) -> None:
        self._rung = threading.Event()

    def ring(self, environments: list[UUID]) -> None:
        """See Bell.ring."""
        self._rung.set()

    def wait(self, seconds: float) -> None:
        """See Bell.wait."""
        self._rung.wait(seconds)
        self._rung.clear()

    def close(self) -> None:
        """Wake whoever waits."""
        self._rung.set()


class Epochs:
    """What this process knows of its environments' epochs, and the caches it keeps honest."""

    def __init__(
        self,
        database: Database,
        bell: Bell | None,
        clock: Callable[[], float],
        counters: Counters | None = None,
    ) -> None:
        """Without a `bell` there is no watcher: plaintext stays until its time is over, but is never served."""
        self._database, self._bell, self._clock = database, bell, clock
        self._counters = counters or Counters()
        self._known: dict[UUID, Epoch] = {}
        self._caches: list[Droppable] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def keep_honest(self, cache: Droppable) -> None:
        """Drop from this cache, too, when an epoch goes up."""
        self._caches.append(cache)

    def check(self, environment: UUID) -> int:
        """The epoch to read and cache in. Raises EnvironmentLocked; DatabaseFailed where nobody can tell: closed."""
        self._start()
        known = self._known.get(environment)
        if known is None or self._clock() - known.seen_at > FRESH_SECONDS:
            self._look([environment])
            known = self._known[environment]
        if known.lock_cause is not None:
            raise EnvironmentLocked(environment=environment, cause=known.lock_cause)
        return known.number

    def announce(self, environments: list[UUID]) -> None:
        """An epoch went up here: drop our own plaintext, and tell the other processes."""
        with contextlib.suppress(DatabaseFailed):
            self._look(environments)
        if self._bell is not None:
            self._bell.ring(environments)

    def close(self) -> None:
        """End the watcher."""
        self._closed.set()
        if self._bell is not None:
            self._bell.close()
        if self._thread is not None:
            self._thread.join(5)

    def _look(self, environments: list[UUID]) -> None:
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
        if self._bell is None or self._thread is not None or self._closed.is_set():
            return
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._watch, args=[self._bell], name="keyrepack-epochs", daemon=True
                )
                self._thread.start()

    def _watch(self, bell: Bell) -> None:
        while not self._closed.is_set():
            bell.wait(TICK_SECONDS)
            held: set[UUID] = set().union(*(cache.environments() for cache in self._caches))
            if not held or self._closed.is_set():
                continue
            try:
                self._look(sorted(held))
            except DatabaseFailed as error:
                log.warning("epochs.not_seen", why=str(error))  # readers ask for themselves, and fail closed


class RedisBell:
    """Rings through Redis' pub/sub. While Redis is away the watcher's own tick has to do."""

    CHANNEL = "keyrepack.epochs"

    def __init__(self, client: Any) -> None:
        """`client` is a redis.Redis with short timeouts."""
        self._client = client
        self._subscription: Any = None
        self._closed = threading.Event()

    def ring(self, environments: list[UUID]) -> None:
        """See Bell.ring. The message names environments; it is a hint, the database is asked."""
        try:
            self._client.publish(self.CHANNEL, ",".join(str(environment) for environment in environments))
        except Exception as error:  # noqa: BLE001 - whatever a broker does, a lock stands in the database
            log.warning("bell.not_rung", error=type(error).__name__)

    def wait(self, seconds: float) -> None:
        """See Bell.wait."""
        try:
            if self._subscription is None:
                self._subscription = self._client.pubsub(ignore_subscribe_messages=True)
                self._subscription.subscribe(self.CHANNEL)
            self._subscription.get_message(timeout=seconds)
        except Exception as error:  # noqa: BLE001 - as above
            log.debug("bell.away", error=type(error).__name__)
            self._subscription = None
            self._closed.wait(seconds)

    def close(self) -> None:
        """See Bell.close."""
        self._closed.set()
        with contextlib.suppress(Exception):
            self._client.close()
