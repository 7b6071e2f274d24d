"""The brokers that publishers and consumers speak to: Redis and RabbitMQ are real, SQS is moto's on loopback.

RabbitMQ takes seconds to start, so its tests stand among those that start real processes (`acceptance`), where one
node serves all of them.
"""

from __future__ import annotations

import os
import signal
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Connection
from moto.server import ThreadedMotoServer

from producers.publisher import KombuPublisher, MemoryPublisher
from producers.topology import DEAD, EVENTS, EXCHANGE, WORK_QUEUES, events_queue
from producers.transports import consumer_options, kind_of
from tests.rabbitmq import CONTRACT, RabbitServer
from tests.servers import freeze
from workers.embedded.ports import LOOPBACK
from workers.embedded.redis import start_redis
from workers.embedded.supervisor import Supervisor

Messages = list[tuple[bytes, str]]

REAL = [pytest.param("redis"), pytest.param("rabbitmq", marks=pytest.mark.acceptance)]
ALL = [*REAL, pytest.param("sqs")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A publisher, and what has arrived at the consumers of inbound events."""

    publisher: KombuPublisher | MemoryPublisher
    arrived: Callable[[], Messages]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mortal:
    """A broker of the test's own, and what happens to brokers."""

    url: str
    freeze: Callable[[], None]
    thaw: Callable[[], None]
    stop: Callable[[], None]
    start: Callable[[], None]


@pytest.fixture(scope="session")
def sqs_address() -> Iterator[str]:
    """moto's SQS."""
    server = ThreadedMotoServer(ip_address=LOOPBACK, port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


def url_of(kind: str, request: pytest.FixtureRequest) -> str:
    """The URL of a broker that is empty."""
    if kind == "redis":
        return str(request.getfixturevalue("redis_url"))
    if kind == "sqs":
        address = request.getfixturevalue("sqs_address")
        request.getfixturevalue("monkeypatch").setenv("AWS_DEFAULT_REGION", "eu-central-1")
        urllib.request.urlopen(f"http://{address}/moto-api/reset", data=b"", timeout=5).close()
        return f"sqs://key:secret@{address}"
    server: RabbitServer = request.getfixturevalue("rabbitmq_server")
    server.start()
    server.forget(CONTRACT)
    return server.url(CONTRACT)


@pytest.fixture(params=ALL)
def broker_url(request: pytest.FixtureRequest) -> str:
    """Each broker in turn, empty."""
    return url_of(request.param, request)


@pytest.fixture(params=["memory", *ALL])
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    """A publisher and its broker, empty."""
    if request.param == "memory":
        memory = MemoryPublisher()
        yield Line(publisher=memory, arrived=lambda: memory.published)
        return
    url = url_of(request.param, request)
    publisher = KombuPublisher(url)
    with connection_to(url) as connection:
        yield Line(publisher=publisher, arrived=lambda: drain(connection))
    publisher.close()


@pytest.fixture(params=REAL)
def mortal(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Mortal]:
    """A broker that freezes, dies and comes back."""
    if request.param == "rabbitmq":
        server: RabbitServer = request.getfixturevalue("rabbitmq_server")
        url = url_of("rabbitmq", request)
        yield _mortal(url, server.supervisor, server.name, server.kill, server.start)
        server.start()
        return
    with Supervisor(tmp_path) as supervisor:
        redis_server = start_redis(supervisor, tmp_path)
        name, port = redis_server.name, redis_server.port

        def start() -> None:
            start_redis(supervisor, tmp_path, port=port)

        yield _mortal(redis_server.url, supervisor, name, lambda: supervisor.stop_child(name), start)


def _mortal(url: str, supervisor: Supervisor, name: str, stop: Callable[[], None], start: Callable[[], None]) -> Mortal:
    def leader() -> int:
        pid = supervisor.pid(name)
        assert pid is not None
        return pid

    def freeze_all() -> None:
        children = Path(f"/proc/{leader()}/task/{leader()}/children").read_text().split()
        for pid in (leader(), *map(int, children)):  # RabbitMQ's leader is a shell
            freeze(pid)

    def thaw() -> None:
        os.killpg(leader(), signal.SIGCONT)

    return Mortal(url=url, freeze=freeze_all, thaw=thaw, stop=stop, start=start)


def connection_to(url: str) -> Connection:
    """A connection that consumes as a worker does, and waits for nothing."""
    options = consumer_options(url, visibility_timeout=30)
    return Connection(url, transport_options=options | ({"wait_time_seconds": 0} if kind_of(url) == "sqs" else {}))


def drain(connection: Connection) -> Messages:
    """Every message in the queue of inbound events, acknowledged."""
    channel = connection.default_channel
    queue = events_queue()(channel)
    queue.declare()
    taken: Messages = []
    while (message := queue.get(accept=["application/cloudevents+json"])) is not None:
        message.ack()
        body = message.body if isinstance(message.body, bytes) else message.body.encode()
        assert message.delivery_info["exchange"] == EXCHANGE.name
        taken.append((body, message.delivery_info["routing_key"]))
    return taken


def waiting(url: str, queue: str) -> int:
    """Messages that wait in a queue; none where it is not there."""
    assert queue in (EVENTS, DEAD, *WORK_QUEUES)
    if kind_of(url) == "redis":
        with redis.Redis.from_url(url) as client:
            return int(client.llen(queue))
    with connection_to(url) as connection:
        channel = connection.channel()
        try:
            return int(channel.queue_declare(queue, passive=True).message_count)
        except channel.connection.client.channel_errors:
            return 0
