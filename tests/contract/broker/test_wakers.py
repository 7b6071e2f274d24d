"""Wake-ups over connections that outlive the broker they were to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from pydantic import SecretStr
from structlog.testing import capture_logs

from producers.topology import REPACKS, URGENT
from tests.contract.broker.conftest import Mortal, waiting
from workers.celery_app.app import make_app
from workers.celery_app.waker import CeleryWaker
from workers.runtime.settings import Settings


@contextmanager
def waking(url: str) -> Iterator[CeleryWaker]:
    with closing(make_app(Settings(broker_url=SecretStr(url)))) as celery:
        yield CeleryWaker(celery)


def test_the_first_wake_up_after_a_restart_arrives(mortal: Mortal) -> None:
    """The pooled connection was to the broker's last run: no wake-up is lost on finding that out."""
    with waking(mortal.url) as one, waking(mortal.url) as other:
        ways: dict[str, Callable[[], None]] = {URGENT: lambda: one.event(1), REPACKS: lambda: other.repack(1)}
        for wake in ways.values():
            wake()
        mortal.stop()
        mortal.start()
        before = {queue: waiting(mortal.url, queue) for queue in ways}
        for wake in ways.values():
            wake()
        assert {queue: waiting(mortal.url, queue) for queue in ways} == {queue: n + 1 for queue, n in before.items()}


def test_a_broker_that_is_away_is_said_once_and_raises_nothing(mortal: Mortal) -> None:
    """Whoever wakes goes on with their own work: the sweeper comes around."""
    with waking(mortal.url) as waker:
        waker.event(1)
        mortal.stop()
        with capture_logs() as logs:
            waker.event(2)
            waker.repack(1, times=8)
        assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["wake_up.not_sent"] * 2
