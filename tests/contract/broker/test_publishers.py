"""What every publisher does, over every broker."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from uuid import uuid4

import pytest
import redis
from kombu import Connection

from producers.publisher import BrokerAway, KombuPublisher, publish_event
from producers.topology import EVENTS, EXCHANGE, WORK_QUEUES, events_queue
from schemas.errors import EventRejected
from schemas.events import CONTENT_TYPE, INBOUND, OUTBOUND, Event
from tests.contract.broker.conftest import Line
from tests.servers import freeze
from workers.embedded.ports import free_port
from workers.embedded.processes import Supervisor
from workers.embedded.redis import start_redis

SECONDS = 30.0
"""The longest a caller may wait for a broker that is away, all retries included."""


def event(kind: str = "main_key.rotated") -> Event:
    """An event of a type."""
    return Event(id=str(uuid4()), source="test", type=kind, data={"environment": str(uuid4())})


@pytest.mark.parametrize("kind", sorted(INBOUND))
def test_an_event_arrives_as_it_was_published(line: Line, kind: str) -> None:
    """Bytes in, the same bytes out, under the event's type as routing key."""
    body = event(kind).to_bytes()
    line.publisher.publish(body, routing_key=kind)
    assert line.arrived() == [(body, kind)]


def test_events_arrive_in_order_and_once(line: Line) -> None:
    """A hundred events in one go come out in order, each once."""
    events = [(event().to_bytes(), "main_key.rotated") for _ in range(100)]
    line.publisher.publish_all(events)
    assert line.arrived() == events


def test_publishing_nothing_is_no_error(line: Line) -> None:
    """An empty list publishes nothing."""
    line.publisher.publish_all([])
    assert line.arrived() == []


def test_outgoing_events_do_not_come_back_in(line: Line) -> None:
    """What this system tells is not what it acts on: the queue of inbound events stays empty."""
    line.publisher.publish_all([(event(kind).to_bytes(), kind) for kind in OUTBOUND])
    assert line.arrived() == []


def test_bytes_that_are_no_event_are_carried_too(line: Line) -> None:
    """The publisher judges nothing: the consumer keeps what is malformed with its reason."""
    line.publisher.publish(b"\xff\x00{", routing_key="main_key.replaced")
    assert line.arrived() == [(b"\xff\x00{", "main_key.replaced")]


def test_publish_event_takes_the_routing_key_from_the_event(line: Line) -> None:
    """An event goes out under its own type."""
    one = event("main_key.replaced")
    publish_event(line.publisher, one.to_bytes())
    assert line.arrived() == [(one.to_bytes(), "main_key.replaced")]


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"{", "malformed_json"), (b"{}", "malformed_event"), (event("main_key.painted").to_bytes(), "unknown_type")],
    ids=["json", "envelope", "type"],
)
def test_publish_event_refuses_what_no_queue_would_take(line: Line, body: bytes, code: str) -> None:
    """What is no event, or of a type that no queue is bound to, is refused: the broker would drop it without a word."""
    with pytest.raises(EventRejected) as refused:
        publish_event(line.publisher, body)
    assert refused.value.code == code
    assert line.arrived() == []


def test_closing_twice_is_no_error(line: Line) -> None:
    """A publisher may be closed more than once."""
    line.publisher.close()
    line.publisher.close()


def test_the_queue_of_events_needs_no_consumer(redis_url: str) -> None:
    """What is published before the first worker ever ran waits for it: the publisher declares the queue."""
    publisher = KombuPublisher(redis_url)
    publisher.publish(event().to_bytes(), routing_key="main_key.rotated")
    publisher.close()
    with redis.Redis.from_url(redis_url) as client:
        assert client.llen(EVENTS) == 1
        assert [client.llen(name) for name in WORK_QUEUES] == [0, 0, 0]


def test_a_message_says_what_it_is(redis_url: str) -> None:
    """It is durable, of the content type of CloudEvents, and goes through the topic exchange."""
    publisher = KombuPublisher(redis_url)
    publisher.publish(event().to_bytes(), routing_key="main_key.rotated")
    publisher.close()
    with Connection(redis_url) as connection:
        message = events_queue()(connection.default_channel).get(no_ack=True, accept=[CONTENT_TYPE])
        assert message.content_type == CONTENT_TYPE
        assert message.properties["delivery_mode"] == 2
        assert message.delivery_info == {"exchange": EXCHANGE.name, "routing_key": "main_key.rotated"}


def test_the_queue_survives_a_flush(redis_url: str) -> None:
    """A publisher that is at work declares the queue anew where the broker has forgotten it."""
    publisher = KombuPublisher(redis_url)
    publisher.publish(event().to_bytes(), routing_key="main_key.rotated")
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
        publisher.publish(event().to_bytes(), routing_key="main_key.rotated")
        publisher.close()
        assert client.llen(EVENTS) == 1


def test_a_broker_that_is_not_there_is_told_within_seconds() -> None:
    """Nobody listens: BrokerAway, without the address's password."""
    publisher = KombuPublisher(f"redis://:hunter2@127.0.0.1:{free_port()}/0")
    begun = time.monotonic()
    with pytest.raises(BrokerAway) as away:
        publisher.publish(event().to_bytes(), routing_key="main_key.rotated")
    publisher.close()
    assert time.monotonic() - begun < SECONDS
    assert "hunter2" not in str(away.value)
    assert away.value.code == "broker_away"


def test_a_broker_that_freezes_is_told_within_seconds(tmp_path: Path) -> None:
    """It accepts and never answers: BrokerAway; once it answers again, the same publisher publishes."""
    with Supervisor(tmp_path) as supervisor:
        server = start_redis(supervisor, tmp_path)
        publisher = KombuPublisher(server.url)
        publisher.publish(event().to_bytes(), routing_key="main_key.rotated")
        pid = supervisor.pid(server.name)
        assert pid is not None
        freeze(pid)
        try:
            begun = time.monotonic()
            with pytest.raises(BrokerAway):
                publisher.publish(event().to_bytes(), routing_key="main_key.rotated")
            assert time.monotonic() - begun < SECONDS
        finally:
            os.kill(pid, signal.SIGCONT)
        publisher.publish(event().to_bytes(), routing_key="main_key.rotated")
        publisher.close()


def test_a_broker_that_was_restarted_is_found_again(tmp_path: Path) -> None:
    """The publisher's connection broke meanwhile: the next message goes over a new one."""
    with Supervisor(tmp_path) as supervisor:
        server = start_redis(supervisor, tmp_path)
        publisher = KombuPublisher(server.url)
        publisher.publish(event().to_bytes(), routing_key="main_key.rotated")
        supervisor.stop_child(server.name)
        with pytest.raises(BrokerAway):
            publisher.publish(event().to_bytes(), routing_key="main_key.rotated")
        start_redis(supervisor, tmp_path, port=server.port)
        publisher.publish(event().to_bytes(), routing_key="main_key.rotated")
        publisher.close()
        with redis.Redis.from_url(server.url) as client:
            assert client.llen(EVENTS) == 1
