"""The brokers that a stack runs on: how each is killed, comes back empty, forgets, and what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import redis

from producers.topology import EVENTS, EXCHANGE
from tests.rabbitmq import STACK, RabbitServer
from workers.embedded.redis import start_redis
from workers.embedded.supervisor import Supervisor


class Broker(Protocol):
    """A real broker."""

    url: str

    def start(self) -> None:
        """Start it where it was, unless it runs; it remembers nothing."""

    def kill(self) -> None:
        """SIGKILL; gone when this returns."""

    def forget(self) -> None:
        """Lose every message, queue and binding, under whoever uses them."""

    def hears(self) -> bool:
        """Whether there is a queue for inbound events."""

    def waiting(self, *queues: str) -> int:
        """Messages that are ready in queues."""

    def push(self, queue: str, item: bytes) -> None:
        """Put bare bytes into a queue, as anybody can who reaches it."""

    def contents(self) -> dict[str, bytes]:
        """All that it holds, by where it is."""


class RedisBroker:
    """A Redis of a stack's own."""

    def __init__(self, supervisor: Supervisor, folder: Path) -> None:
        self._supervisor, self._folder = supervisor, folder
        self._server = start_redis(supervisor, folder)
        self.url = self._server.url

    def start(self) -> None:
        """See Broker.start."""
        if self._server.name not in self._supervisor.running():
            start_redis(self._supervisor, self._folder, port=self._server.port)

    def kill(self) -> None:
        """See Broker.kill."""
        self._supervisor.kill(self._server.name, restart=False)
        self._supervisor.stop_child(self._server.name)

    def forget(self) -> None:
        """See Broker.forget."""
        with self._client() as client:
            client.flushall()

    def hears(self) -> bool:
        """See Broker.hears."""
        with self._client() as client:
            return bool(client.exists(f"_kombu.binding.{EXCHANGE.name}"))

    def waiting(self, *queues: str) -> int:
        """See Broker.waiting."""
        with self._client() as client:
            return sum(int(client.llen(name)) for name in queues)

    def push(self, queue: str, item: bytes) -> None:
        """See Broker.push: past kombu, which has no envelope around it."""
        with self._client() as client:
            client.lpush(queue, item)

    def contents(self) -> dict[str, bytes]:
        """See Broker.contents."""
        with self._client() as client:
            return {f"redis {name!r}": b"\n".join(_values(client, name)) for name in client.scan_iter()}

    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)


class RabbitBroker:
    """A virtual host of the RabbitMQ that all tests share."""

    def __init__(self, server: RabbitServer) -> None:
        self._server = server
        server.start()
        server.forget(STACK)
        self.url = server.url(STACK)

    def start(self) -> None:
        """See Broker.start."""
        self._server.start()

    def kill(self) -> None:
        """See Broker.kill."""
        self._server.kill()

    def forget(self) -> None:
        """See Broker.forget."""
        self._server.forget(STACK)

    def hears(self) -> bool:
        """See Broker.hears."""
        return self._server.has(EVENTS, host=STACK)

    def waiting(self, *queues: str) -> int:
        """See Broker.waiting."""
        return self._server.waiting(*queues, host=STACK)

    def push(self, queue: str, item: bytes) -> None:
        """See Broker.push: no content type, no headers."""
        self._server.push(queue, item, host=STACK)

    def contents(self) -> dict[str, bytes]:
        """See Broker.contents: messages are in its files."""
        files = (path for path in (self._server.folder / "data").rglob("*") if path.is_file())
        return {f"rabbitmq {path.name}": path.read_bytes() for path in files}


def _values(client: redis.Redis, name: bytes) -> Iterator[bytes]:
    kind = client.type(name)
    if kind == b"list":
        yield from client.lrange(name, 0, -1)
    elif kind == b"hash":
        for field, value in client.hgetall(name).items():
            yield from (field, value)
    elif kind == b"set":
        yield from client.smembers(name)
    elif kind == b"zset":
        yield from client.zrange(name, 0, -1)
    else:
        yield client.get(name) or b""
