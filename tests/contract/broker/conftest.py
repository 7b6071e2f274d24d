"""Publishers over the brokers they speak to: the same contract for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from kombu import Connection

from producers.publisher import KombuPublisher, MemoryPublisher
from producers.topology import EXCHANGE, events_queue
from schemas.events import INBOUND

Messages = list[tuple[bytes, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A publisher, and what has arrived at the consumers of inbound events."""

    publisher: KombuPublisher | MemoryPublisher
    arrived: Callable[[], Messages]


@pytest.fixture(params=["memory", "redis"])
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    """A publisher and its broker, empty."""
    if request.param == "memory":
        memory = MemoryPublisher()
        yield Line(publisher=memory, arrived=lambda: [one for one in memory.published if one[1] in INBOUND])
        return
    url = request.getfixturevalue("redis_url")
    publisher = KombuPublisher(url)
    with Connection(url) as connection:
        yield Line(publisher=publisher, arrived=lambda: _drain(connection))
    publisher.close()


def _drain(connection: Connection) -> Messages:
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
