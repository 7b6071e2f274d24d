"""The queues as a real Redis tells them, with what kombu itself puts there."""

from __future__ import annotations

import json
import time

import pytest
from kombu import Connection
from redis import Redis

from producers.publisher import KombuPublisher
from producers.topology import EVENTS, QUEUES, REPACKS, SENT_AT, URGENT, events_queue
from workers.broker.queue_depths import QueueCount, RedisQueues, broker_of
from workers.celery_app.app import make_app
from workers.celery_app.config import CANARY
from workers.embedded.ports import free_port
from workers.runtime.settings import Settings

pytestmark = pytest.mark.acceptance


def test_depth_and_age_are_the_brokers_own(redis_url: str) -> None:
    """What Celery and a publisher put into a queue is counted there, and as old as its first message."""
    celery = make_app(Settings(broker_url=redis_url))
    for _ in range(3):
        celery.send_task(CANARY, args=[REPACKS], queue=REPACKS)
    publisher = KombuPublisher(redis_url)
    publisher.publish(b"{}", routing_key="main_key.revoked")
    publisher.close()
    broker = RedisQueues(Redis.from_url(redis_url), clock=lambda: time.time() + 60)
    counts = broker.count()
    broker.close()
    celery.close()
    assert counts.answers
    assert {name: count.depth for name, count in counts.queues.items()} == dict.fromkeys(QUEUES, 0) | {
        REPACKS: 3,
        EVENTS: 1,
    }
    assert counts.queues[REPACKS].oldest_seconds == pytest.approx(60, abs=10)
    assert counts.queues[EVENTS].oldest_seconds == pytest.approx(60, abs=10)
    assert counts.queues[URGENT].oldest_seconds is None


def test_what_was_taken_and_not_acknowledged_is_told_by_queue(redis_url: str) -> None:
    """Redis' lists leave it out: a worker that hangs on a message would show as an empty queue."""
    celery = make_app(Settings(broker_url=redis_url))
    celery.send_task(CANARY, args=[URGENT], queue=URGENT)
    celery.close()
    publisher = KombuPublisher(redis_url)
    publisher.publish(b"{}", routing_key="main_key.revoked")
    publisher.close()
    broker = broker_of(redis_url)
    with Connection(redis_url) as connection:
        for queue in (URGENT, events_queue()):
            taken = connection.SimpleQueue(queue).get(timeout=5)
            assert taken is not None
        counts = broker.count().queues
        told = {name: (count.depth, count.unacknowledged) for name, count in counts.items()}
    broker.close()
    assert told[URGENT] == told[EVENTS] == (0, 1)
    assert told[REPACKS] == (0, 0)


def test_bytes_that_are_no_message_are_counted_without_an_age(redis_url: str) -> None:
    """Whoever put them there: a page about trouble must not fail by it."""
    client = Redis.from_url(redis_url)
    for odd in (b"\xff\x00", b"[]", b"{}", json.dumps({"headers": {SENT_AT: "noon"}}).encode()):
        client.delete(URGENT)
        client.lpush(URGENT, odd)
        client.hset("unacked", "tag", odd)
        assert broker_of(redis_url).count().queues[URGENT] == QueueCount(depth=1, unacknowledged=0)
    client.close()


def test_a_broker_that_is_away_raises_nothing() -> None:
    """It is said to be so, and why; nothing is known of its queues."""
    for url in (f"redis://127.0.0.1:{free_port()}/0", f"amqp://127.0.0.1:{free_port()}//"):
        broker = broker_of(url)
        counts = broker.count()
        assert (counts.answers, dict(counts.queues)) == (False, {})
        assert "does not answer" in counts.why
        broker.close()
