"""How a process learns of a lock: by the bell, by the tick, and at the latest when it reads."""

from __future__ import annotations

import threading
from uuid import UUID, uuid4

import pytest

from tests.engine import World
from tests.poll import poll
from workers.crypto.epochs import FRESH_SECONDS, Epochs, QuietBell
from workers.crypto.plaintext_cache import PlaintextCache
from workers.errors import DatabaseAway, EnvironmentLocked
from workers.keyring.single_flight import Failures, Flights
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

    epochs._look = away  # type: ignore[method-assign]
    clock.seconds += 1
    with pytest.raises(DatabaseAway):
        epochs.check(environment.environment_id)


def test_the_watcher_drops_plaintext_that_nobody_asks_for(world: World) -> None:
    """R8: plaintext goes from memory when the lock is seen, not when it is next read."""
    environment = world.environment()
    cache: PlaintextCache[str] = PlaintextCache(ttl=300, size=10, clock=lambda: 0.0)
    bell = QuietBell()
    epochs = Epochs(world.main.database, bell, lambda: 0.0)
    epochs.keep_honest(cache)
    try:
        epoch = epochs.check(environment.environment_id)
        cache.put("key", bytes(32), environment=environment.environment_id, epoch=epoch)
        locking.revoke(world.main, [environment], actor="customer")
        bell.ring([environment.environment_id])
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


def test_of_many_who_ask_at_once_one_fetches() -> None:
    """Single flight: the KMS is asked once, and all get the answer."""
    flights: Flights[str, int] = Flights()
    entered, go, calls, answers = threading.Event(), threading.Event(), [], []

    def work() -> int:
        calls.append(1)
        entered.set()
        go.wait(5)
        return 7

    threads = [threading.Thread(target=lambda: answers.append(flights.fetch("key", work))) for _ in range(8)]
    threads[0].start()
    entered.wait(5)
    for thread in threads[1:]:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(5)
    assert set(answers) == {7}
    assert len(answers) == 8
    assert len(calls) <= 2  # a thread that came after the flight had landed makes its own


def test_a_flight_that_fails_fails_for_all_and_is_forgotten() -> None:
    """A failure reaches whoever waits, and the next one tries again."""
    flights: Flights[str, int] = Flights()

    def fail() -> int:
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            flights.fetch("key", fail)
    assert flights.fetch("key", lambda: 1) == 1


def test_a_failure_is_remembered_for_ten_seconds() -> None:
    """A KMS that says no is not asked again for every read."""
    clock = Clock()
    failures: Failures[str] = Failures(clock=clock)
    error = ValueError("no")
    failures.put("key", error, epoch=3)
    assert failures.find("key") == (3, error)
    clock.seconds = 10
    assert failures.find("key") is None
