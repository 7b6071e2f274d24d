"""Tells other processes that an environment was locked or unlocked: a hint, so that they refresh at once.

The database has the truth and is read every half second anyway: losing a notification costs that much time.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Protocol
from uuid import UUID

from workers.runtime.logs import log


class LockNotifier(Protocol):
    """A hint that some environment's epoch changed. Losing one costs at most TICK_SECONDS."""

    def notify(self, environments: list[UUID]) -> None:
        """Tell every process. Never raises."""

    def wait(self, seconds: float) -> None:
        """Return when it rings, or after `seconds`. Never raises."""

    def close(self) -> None:
        """Let go of connections."""


class LocalNotifier:
    """A notifier within one process: no other process hears it."""

    def __init__(self) -> None:
        self._notified = threading.Event()

    def notify(self, environments: list[UUID]) -> None:
        """See LockNotifier.notify."""
        self._notified.set()

    def wait(self, seconds: float) -> None:
        """See LockNotifier.wait."""
        self._notified.wait(seconds)
        self._notified.clear()

    def close(self) -> None:
        """Wake the thread that waits."""
        self._notified.set()


class RedisNotifier:
    """Rings through Redis' pub/sub. While Redis is away the watcher's own tick has to do."""

    CHANNEL = "keyrepack.epochs"

    def __init__(self, client: Any) -> None:
        """`client` is a redis.Redis with short timeouts."""
        self._client = client
        self._subscription: Any = None
        self._closed = threading.Event()

    def notify(self, environments: list[UUID]) -> None:
        """See LockNotifier.notify. The message names environments; it is a hint, the database is asked."""
        try:
            self._client.publish(self.CHANNEL, ",".join(str(environment) for environment in environments))
        except Exception as error:  # noqa: BLE001 - whatever a broker does, a lock stands in the database
            log.warning("lock_notifier.not_sent", error=type(error).__name__)

    def wait(self, seconds: float) -> None:
        """See LockNotifier.wait."""
        try:
            if self._subscription is None:
                self._subscription = self._client.pubsub(ignore_subscribe_messages=True)
                self._subscription.subscribe(self.CHANNEL)
            self._subscription.get_message(timeout=seconds)
        except Exception as error:  # noqa: BLE001 - as above
            log.debug("lock_notifier.away", error=type(error).__name__)
            self._subscription = None
            self._closed.wait(seconds)

    def close(self) -> None:
        """See LockNotifier.close."""
        self._closed.set()
        with contextlib.suppress(Exception):
            self._client.close()
