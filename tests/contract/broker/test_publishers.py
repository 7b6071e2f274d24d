"""What every publisher does, over every broker."""

from __future__ import annotations

import time
from uuid import uuid4

import pytest
import redis

from producers.publisher import BrokerAway, KombuPublisher, publish_event
from producers.topology import EVENTS, EXCHANGE, TOLD, WORK_QUEUES, events_queue
from producers.transports import kind_of
from schemas.errors import EventRejected
from schemas.events import CONTENT_TYPE, INBOUND, OUTBOUND, Event
from tests.contract.broker.conftest import Line, Mortal, connection_to, drain, waiting
from tests.poll import stretched
from workers.embedded.ports import free_port

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


@pytest.mark.parametrize("kind", ["main_key.painted", "repack.finished", "x", "com.example.a.b.c.d"])
def test_whatever_is_said_on_the_exchange_arrives(line: Line, kind: str) -> None:
    """A type that nobody knows arrives as well, to be refused with a code: a broker would drop it without a word."""
    line.publisher.publish(b"{}", routing_key=kind)
    assert line.arrived() == [(b"{}", kind)]


@pytest.mark.parametrize("kind", sorted(INBOUND))
def test_one_who_declares_nothing_is_heard(broker_url: str, kind: str) -> None:
    """A service that only publishes, to an exchange that is there: what is known arrives, once."""
    if kind_of(broker_url) == "sqs":
        pytest.skip("SQS has no exchanges: kombu keeps bindings in the process that declared them")
    KombuPublisher(broker_url).declare()
    with connection_to(broker_url) as connection:
        connection.Producer(auto_declare=False).publish(
            b"{}", exchange=EXCHANGE.name, routing_key=kind, content_type=CONTENT_TYPE, content_encoding="utf-8"
        )
        assert drain(connection) == [(b"{}", kind)]


def test_what_this_system_tells_does_not_come_back_in(broker_url: str) -> None:
    """Outgoing events go through an exchange of their own: the queue of inbound events stays empty."""
    publisher = KombuPublisher(broker_url, exchange=TOLD)
    publisher.publish_all([(event(kind).to_bytes(), kind) for kind in OUTBOUND])
    publisher.close()
    with connection_to(broker_url) as connection:
        assert drain(connection) == []


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
def test_publish_event_refuses_what_has_no_effect(line: Line, body: bytes, code: str) -> None:
    """What is no event, or of a type that nobody acts on, is refused: its publisher is told at once."""
    with pytest.raises(EventRejected) as refused:
        publish_event(line.publisher, body)
    assert refused.value.code == code
    assert line.arrived() == []


def test_closing_twice_is_no_error(line: Line) -> None:
    """A publisher may be closed more than once."""
    line.publisher.close()
    line.publisher.close()


def test_the_queue_of_events_needs_no_consumer(broker_url: str) -> None:
    """What is published before the first worker ever ran waits for it: the publisher declares the queue."""
    publisher = KombuPublisher(broker_url)
    publisher.publish(event().to_bytes(), routing_key="main_key.rotated")
    publisher.close()
    assert waiting(broker_url, EVENTS) == 1
    assert [waiting(broker_url, name) for name in WORK_QUEUES] == [0, 0, 0]


def test_a_message_says_what_it_is(broker_url: str) -> None:
    """It is durable, of the content type of CloudEvents, and goes through the topic exchange."""
    publisher = KombuPublisher(broker_url)
    publisher.publish(event().to_bytes(), routing_key="main_key.rotated")
    publisher.close()
    with connection_to(broker_url) as connection:
        message = events_queue()(connection.default_channel).get(no_ack=True, accept=[CONTENT_TYPE])
        assert message.content_type == CONTENT_TYPE
        assert message.properties["delivery_mode"] == 2
        assert message.delivery_info["exchange"] == EXCHANGE.name
        assert message.delivery_info["routing_key"] == "main_key.rotated"


def test_the_queue_survives_a_flush(redis_url: str) -> None:
    """A publisher that is at work declares the queue anew where the broker has forgotten it."""
    publisher = KombuPublisher(redis_url)
    publisher.publish(event().to_bytes(), routing_key="main_key.rotated")
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    publisher.publish(event().to_bytes(), routing_key="main_key.rotated")
    publisher.close()
    assert waiting(redis_url, EVENTS) == 1


@pytest.mark.parametrize("scheme", ["redis", "amqp", "sqs"])
def test_a_broker_that_is_not_there_is_told_within_seconds(scheme: str) -> None:
    """Nobody listens: BrokerAway, without the address's password."""
    publisher = KombuPublisher(f"{scheme}://user:hunter2@127.0.0.1:{free_port()}/0")
    begun = time.monotonic()
    with pytest.raises(BrokerAway) as away:
        publisher.publish(event().to_bytes(), routing_key="main_key.rotated")
    publisher.close()
    assert time.monotonic() - begun < stretched(SECONDS)
    assert "hunter2" not in str(away.value)
    assert away.value.code == "broker_away"


def test_a_broker_that_freezes_is_told_within_seconds(mortal: Mortal) -> None:
    """It accepts and never answers: BrokerAway; once it answers again, the same publisher publishes."""
    publisher = KombuPublisher(mortal.url)
    publisher.publish(event().to_bytes(), routing_key="main_key.rotated")
    mortal.freeze()
    try:
        begun = time.monotonic()
        with pytest.raises(BrokerAway):
            publisher.publish(event().to_bytes(), routing_key="main_key.rotated")
        assert time.monotonic() - begun < stretched(SECONDS)
    finally:
        mortal.thaw()
    publisher.publish(event().to_bytes(), routing_key="main_key.rotated")
    publisher.close()


def test_a_broker_that_was_restarted_is_found_again(mortal: Mortal) -> None:
    """The publisher's connection broke, and the broker came back empty: the next message goes over a new one."""
    publisher = KombuPublisher(mortal.url)
    publisher.publish(event().to_bytes(), routing_key="main_key.rotated")
    mortal.stop()
    with pytest.raises(BrokerAway):
        publisher.publish(event().to_bytes(), routing_key="main_key.rotated")
    mortal.start()
    publisher.publish(event().to_bytes(), routing_key="main_key.rotated")
    publisher.close()
    with connection_to(mortal.url) as connection:
        assert len(drain(connection)) == 1
