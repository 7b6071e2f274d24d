"""Wake-ups in a real broker's queue: few enough, whoever sends them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from pydantic import SecretStr

from producers.topology import HOUSEKEEPING, REPACKS, URGENT
from workers.celery_app.app import make_app
from workers.celery_app.config import MAY_WAIT
from workers.celery_app.waker import CeleryWaker
from workers.runtime.settings import Settings


@pytest.fixture
def waker(redis_url: str) -> Iterator[CeleryWaker]:
    """A waker of an application of its own."""
    celery = make_app(Settings(broker_url=SecretStr(redis_url)))
    yield CeleryWaker(celery)
    celery.close()


def waiting(url: str, queue: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.llen(queue))


def test_a_thousand_repacks_fill_no_queue(waker: CeleryWaker, redis_url: str) -> None:
    """However many ask for workers, so many wake-ups wait: each serves whoever has waited longest."""
    for repack in range(100):
        waker.repack(repack, times=8)
        waker.outbox()
    assert waiting(redis_url, REPACKS) == MAY_WAIT[REPACKS]
    assert waiting(redis_url, HOUSEKEEPING) == MAY_WAIT[HOUSEKEEPING]


def test_an_event_always_has_its_wake_up(waker: CeleryWaker, redis_url: str) -> None:
    """One is for one event: none is left out."""
    for row in range(100):
        waker.event(row)
    assert waiting(redis_url, URGENT) == 100
