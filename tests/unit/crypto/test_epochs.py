"""How a process learns of a lock: by the bell, by the tick, and at the latest when it reads."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from tests.engine import World
from tests.poll import poll
from workers.broker.lock_notifier import LocalNotifier
from workers.crypto.epochs import FRESH_SECONDS, Epochs
from workers.crypto.plaintext_cache import PlaintextCache
from workers.errors import DatabaseAway, EnvironmentLocked
from workers.locks import locking


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_look_holds_for_less_than_a_second(world: World) -> None:
    """R8: a reader trusts what it saw of an epoch for less than a second, then asks the database again."""
    environment, clock = world.environment(), Clock()
    epochs = Epochs(world.main.database, None, clock)
    assert epochs.check(environment.environment_id) == 0
    locking.revoke(world.main, [environment], actor="customer")
    assert epochs.check(environment.environment_id) == 0
    clock.seconds += FRESH_SECONDS + 0.01
    with pytest.raises(EnvironmentLocked):
        epochs.check(environment.environment_id)


def test_a_reader_that_cannot_ask_fails_closed(world: World) -> None:
    """With the database away nobody can tell whether an environment is locked: nothing is served."""
    environment, clock = world.environment(), Clock()
    epochs = Epochs(world.main.database, None, clock)
    epochs.check(environment.environment_id)

    def away(_environments: list[UUID]) -> None:
        raise DatabaseAway("stopped")

    epochs._refresh = away  # type: ignore[method-assign]
    clock.seconds += 1
    with pytest.raises(DatabaseAway):
        epochs.check(environment.environment_id)


def test_the_watcher_drops_plaintext_that_nobody_asks_for(world: World) -> None:
    """R8: plaintext goes from memory when the lock is seen, not when it is next read."""
    environment = world.environment()
    cache: PlaintextCache[str] = PlaintextCache(ttl=300, size=10, clock=lambda: 0.0)
    notifier = LocalNotifier()
    epochs = Epochs(world.main.database, notifier, lambda: 0.0)
    epochs.register_cache(cache)
    try:
        epoch = epochs.check(environment.environment_id)
        cache.put("key", bytes(32), environment=environment.environment_id, epoch=epoch)
        locking.revoke(world.main, [environment], actor="customer")
        notifier.notify([environment.environment_id])
        poll(lambda: not len(cache), 5, "the plaintext to be dropped")
    finally:
        epochs.close()


def test_what_a_slow_reader_puts_in_after_the_lock_is_never_served() -> None:
    """R8: an entry carries the epoch it was read in; one of an older epoch is no answer."""
    cache: PlaintextCache[str] = PlaintextCache(ttl=300, size=10, clock=lambda: 0.0)
    environment = uuid4()
    cache.drop(environment, before=1)
    cache.put("key", bytes(32), environment=environment, epoch=0)
    assert cache.get("key", 1) is None
    assert cache.get("key", 0) == bytes(32)
