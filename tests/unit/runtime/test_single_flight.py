"""Many callers at once: one computes, and each gets an answer of the age that it may have."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.engine import Clock
from tests.poll import poll
from workers.errors import DatabaseAway
from workers.runtime.single_flight import FailureCache, FreshFlight, SingleFlight, StaleWhileRevalidate


def test_of_many_who_ask_at_once_one_fetches() -> None:
    """Single flight: the KMS is asked once, and all get the answer."""
    flights: SingleFlight[str, int] = SingleFlight()
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
    flights: SingleFlight[str, int] = SingleFlight()

    def fail() -> int:
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            flights.fetch("key", fail)
    assert flights.fetch("key", lambda: 1) == 1


def test_a_failure_is_remembered_for_ten_seconds() -> None:
    """A KMS that says no is not asked again for every read."""
    clock = Clock()
    failures: FailureCache[str] = FailureCache(clock=clock)
    error = ValueError("no")
    failures.put("key", error, epoch=3)
    assert failures.find("key") == (3, error)
    clock.seconds += 10
    assert failures.find("key") is None


def test_what_takes_long_is_served_old_while_it_is_read_anew() -> None:
    """The first to look may be told "not yet"; nobody waits for a second reading."""
    now, count, gate = [0.0], [0], threading.Event()

    def read(key: str) -> str:
        gate.wait(5)
        count[0] += 1
        return f"{key} {count[0]}"

    kept: StaleWhileRevalidate[str, str] = StaleWhileRevalidate(read, seconds=10, clock=lambda: now[0])
    assert kept.peek("a") is None
    assert kept.peek("a") is None
    gate.set()
    assert poll(lambda: kept.peek("a"), 5, "it was read") == "a 1"
    now[0] = 11
    assert kept.peek("a") == "a 1"
    assert poll(lambda: kept.peek("a") == "a 2", 5, "it was read anew")
    assert kept.wait("b") == "b 3"
    kept.close()


@pytest.mark.parametrize("fails", [False, True])
def test_those_who_ask_while_it_is_read_share_the_next_reading(fails: bool) -> None:
    """Not that one: it may have begun before what they did. Its error is theirs as well; nothing is kept."""
    count, gate = [0], threading.Event()
    readings: FreshFlight[str, str] = FreshFlight()

    def read() -> str:
        count[0] += 1
        number = count[0]
        gate.wait(5)
        if fails:
            raise DatabaseAway(str(number))
        return str(number)

    with ThreadPoolExecutor(9) as threads:
        first = threads.submit(readings.fetch, "a", read)
        poll(lambda: count[0] == 1, 5, "the first reads")
        others = [threads.submit(readings.fetch, "a", read) for _ in range(8)]
        poll(lambda: readings.asking == 9, 5, "all of them ask")
        gate.set()
    told = [getattr(one.exception(), "why", None) or one.result() for one in (first, *others)]
    assert told == ["1"] + ["2"] * 8
    assert readings.asking == 0
    assert readings.fetch("a", lambda: "another") == "another"
