"""The user that deploy/redis/users.acl gives to keyrepack may do what keyrepack does with Redis, and no more."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from kombu import Connection

from producers.publisher import KombuPublisher
from producers.topology import events_queue
from tests.servers import running_redis
from workers.broker.lock_notifier import RedisNotifier
from workers.broker.queue_depths import broker_of
from workers.kms.rate_limit.budget import Terms
from workers.kms.rate_limit.shared_budget import SharedBudget

FILE = Path(__file__).parents[2] / "deploy" / "redis" / "users.acl"
PASSWORD = "a password"


class NoOther:
    """A budget that must not be asked: Redis counts."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"Redis did not answer: {name}")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A Redis with that user."""
    line = next(line for line in FILE.read_text().splitlines() if line.startswith("user keyrepack "))
    rules = line.replace("HASH", hashlib.sha256(PASSWORD.encode()).hexdigest()).split()[2:]
    with running_redis() as server:
        with redis.Redis.from_url(server.url) as admin:
            admin.execute_command("ACL", "SETUSER", "keyrepack", *rules)
        yield f"redis://keyrepack:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{server.port}/0"


def test_events_are_published_and_taken(url: str) -> None:
    """Exchange, bindings, queue, unacknowledged."""
    publisher = KombuPublisher(url)
    publisher.publish(b"{}", routing_key="main_key.rotated")
    publisher.close()
    with Connection(url) as connection:
        message = events_queue()(connection.default_channel).get()
        assert message is not None
        message.ack()
    assert broker_of(url).count().answers


def test_locks_are_rung(url: str) -> None:
    """The bell's channel."""
    with redis.Redis.from_url(url) as client:
        subscription = client.pubsub()
        subscription.subscribe(RedisNotifier.CHANNEL)
        assert client.publish(RedisNotifier.CHANNEL, "x") == 1
        subscription.close()


def test_kms_calls_are_counted_in_redis(url: str) -> None:
    """By the script and Redis's own clock; no process counts alone."""

    async def count() -> None:
        budget = SharedBudget(url, Terms(rate=10, burst=5, live_share=0.2), alone=NoOther())  # type: ignore[arg-type]
        assert await budget.take("aws-kms:own/eu-west-1") == 0
        assert [left.scope for left in await budget.left()] == ["aws-kms:own/eu-west-1"]
        await budget.close()

    asyncio.run(count())


@pytest.mark.parametrize("command", ["FLUSHALL", "KEYS *", "CONFIG GET *", "GET foreign", "ACL LIST", "SHUTDOWN"])
def test_nothing_else_is_allowed(url: str, command: str) -> None:
    """What would end or read the server, or another's keys."""
    with redis.Redis.from_url(url) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command.split())
