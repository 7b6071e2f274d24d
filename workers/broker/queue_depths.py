"""Counts the broker's queues: how long, how old, who serves them.

What a broker does not report is None, "unknown". One that is away is said to be so, and raises nothing: a page about
trouble must not fail by it.

| | Redis | AMQP (RabbitMQ) |
|---|---|---|
| depth | length of the lists | passive declare |
| unacknowledged | kombu's hash of them, by where each was going | None |
| oldest message | the stamp of the list's last one | None |
| consumers | None: see the workers' own rows | passive declare |
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from kombu import Connection
from kombu.exceptions import ChannelError, OperationalError
from kombu.transport.redis import Channel
from redis import Redis
from redis.exceptions import RedisError

from producers.topology import EVENTS, EXCHANGE, QUEUES, read_sent_at
from producers.transports import transport_options
from schemas.broker_address import read_broker_url
from workers.runtime.logs import log

ANSWER_SECONDS = 2.0
"""How long a broker may take: the reader of a page waits as long."""

READ_AT_ONCE = 1000
"""Unacknowledged messages that are read at most: there are a few a worker, and each is read whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCount:
    """One queue as the broker reports it. None: it does not."""

    depth: int | None = None
    unacknowledged: int | None = None
    oldest_seconds: float | None = None
    consumers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerCounts:
    """All queues. `answers` False: the broker is away, `why` in words; then nothing is known of any."""

    answers: bool
    why: str = ""
    queues: Mapping[str, QueueCount] = field(default_factory=dict)


class Broker(Protocol):
    """Counts what is in its queues."""

    def count(self) -> BrokerCounts:
        """Count what is in the queues now. Never raises for a broker that is away."""

    def close(self) -> None:
        """Let go of connections."""


def broker_of(url: str) -> Broker:
    """Make the reader of the broker that a URL names; no connection is made yet."""
    if url.startswith(("redis://", "rediss://")):
        address = read_broker_url(url)
        client = Redis.from_url(
            address.url, **address.tls, socket_timeout=ANSWER_SECONDS, socket_connect_timeout=ANSWER_SECONDS
        )
        return RedisQueues(client)
    return AmqpQueues(url)


class RedisQueues:
    """Lists in Redis, as kombu keeps them: pushed on the left, taken from the right."""

    def __init__(self, client: Redis, *, clock: Callable[[], float] = time.time) -> None:
        self._client, self._clock = client, clock

    def count(self) -> BrokerCounts:
        """See Broker.count."""
        try:
            unacknowledged = self._unacknowledged()
            queues = {name: self._count(name, unacknowledged) for name in QUEUES}
        except (RedisError, OSError) as error:
            return _away(error)
        return BrokerCounts(answers=True, queues=queues)

    def close(self) -> None:
        """See Broker.close."""
        self._client.close()

    def _count(self, name: str, unacknowledged: Mapping[str, int] | None) -> QueueCount:
        lists = [f"{name}{Channel.sep}{step}" if step else name for step in Channel.priority_steps]
        pipe: Any = self._client.pipeline(transaction=False)
        for key in lists:
            pipe.llen(key)
        pipe.lindex(name, -1)
        *lengths, oldest = pipe.execute()
        return QueueCount(
            depth=sum(lengths),
            unacknowledged=None if unacknowledged is None else unacknowledged.get(name, 0),
            oldest_seconds=self._age(oldest),
        )

    def _age(self, message: bytes | None) -> float | None:
        if message is None:
            return None
        try:
            sent_at = read_sent_at(json.loads(message)["headers"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return None  # no message at all
        return None if sent_at is None else max(0.0, self._clock() - sent_at)

    def _unacknowledged(self) -> Mapping[str, int] | None:
        """Count unacknowledged messages by queue; None if there are too many to read."""
        client: Any = self._client
        if client.hlen(Channel.unacked_key) > READ_AT_ONCE:
            return None
        found: Counter[str] = Counter()
        for value in client.hvals(Channel.unacked_key):
            try:
                _, exchange, routing_key = json.loads(value)[:3]
            except (ValueError, TypeError):
                continue
            found[EVENTS if exchange == EXCHANGE.name else str(routing_key)] += 1
        return found


class AmqpQueues:
    """Any broker that kombu speaks AMQP to, by passive declarations: the management plugin may not be there."""

    def __init__(self, url: str) -> None:
        connect: Any = Connection  # kombu has no types
        self._connection = connect(
            **read_broker_url(url).kombu,
            connect_timeout=ANSWER_SECONDS,
            transport_options=transport_options(url) | {"max_retries": 0},
        )

    def count(self) -> BrokerCounts:
        """See Broker.count."""
        try:
            self._connection.ensure_connection(max_retries=1, interval_start=0, timeout=ANSWER_SECONDS)
            queues = {name: self._count(name) for name in QUEUES}
        except (OperationalError, OSError, *self._connection.connection_errors) as error:
            self._connection.close()
            return _away(error)
        return BrokerCounts(answers=True, queues=queues)

    def close(self) -> None:
        """See Broker.close."""
        self._connection.close()

    def _count(self, name: str) -> QueueCount:
        with self._connection.channel() as channel:  # the broker closes a channel that asks for what is not there
            try:
                declared = channel.queue_declare(queue=name, passive=True)
            except (ChannelError, *self._connection.channel_errors):
                return QueueCount(depth=0, consumers=0)
        return QueueCount(depth=int(declared.message_count), consumers=int(declared.consumer_count))


def _away(error: Exception) -> BrokerCounts:
    log.debug("broker.not_counted", error=type(error).__name__)
    return BrokerCounts(answers=False, why=f"The broker does not answer ({type(error).__name__}).")
