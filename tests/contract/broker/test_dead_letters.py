"""RabbitMQ keeps what nobody can take: rejected messages, and those that end whoever takes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection, Queue
from pydantic import SecretStr

from producers.publisher import BrokerAway, KombuPublisher
from producers.topology import DEAD, DELIVERIES, EVENTS, REPACKS, declare, events_queue, work_queues
from tests.contract.broker.conftest import connection_to, url_of, waiting
from tests.poll import poll
from workers.celery_app.app import make_app
from workers.celery_app.waker import CeleryWaker
from workers.cli.doctor_checks import _broker
from workers.runtime.settings import Settings

pytestmark = pytest.mark.acceptance

SECONDS = 10.0


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """RabbitMQ, empty."""
    return url_of("rabbitmq", request)


@pytest.fixture
def connection(url: str) -> Iterator[Connection]:
    """A connection to it, with all that events need declared."""
    with connection_to(url) as connection:
        declare(connection.default_channel)
        yield connection


def taken(connection: Connection, queue: Queue) -> Any:
    """The next message of a queue."""
    bound = queue(connection.default_channel)
    return poll(lambda: bound.get(accept=["application/cloudevents+json", "json"]), SECONDS, f"a message in {queue}")


def test_a_rejected_message_is_kept_with_where_it_was(url: str, connection: Connection) -> None:
    """Its bytes, its queue and the reason stay to be looked at."""
    publisher = KombuPublisher(url)
    publisher.publish(b"nonsense", routing_key="main_key.replaced")
    publisher.close()
    taken(connection, events_queue()).reject()
    poll(lambda: waiting(url, DEAD) == 1, SECONDS, "a dead letter")
    dead = connection.default_channel.basic_get(DEAD)
    assert dead.body in (b"nonsense", "nonsense")
    assert dead.properties["application_headers"]["x-first-death-queue"] == EVENTS
    assert dead.properties["application_headers"]["x-first-death-reason"] == "rejected"


def test_a_poisonous_message_is_kept_in_the_end(url: str, connection: Connection) -> None:
    """What comes back time and again, as from workers that it ends, is handed out so often and no more."""
    publisher = KombuPublisher(url)
    publisher.publish(b"poison", routing_key="main_key.replaced")
    publisher.close()
    for _ in range(DELIVERIES + 1):
        taken(connection, events_queue()).requeue()
    poll(lambda: waiting(url, DEAD) == 1, SECONDS, "a dead letter")
    assert waiting(url, EVENTS) == 0


def test_doctor_says_how_many_there_are(url: str, connection: Connection) -> None:
    """None before the first, and where nothing was declared yet; then their number."""
    settings = Settings(broker_url=SecretStr(url))
    assert _broker(settings).detail == "It answers."
    connection.default_channel.queue_delete(DEAD)
    assert _broker(settings).detail == "It answers."
    declare(connection.default_channel)
    publisher = KombuPublisher(url)
    publisher.publish(b"nonsense", routing_key="main_key.replaced")
    publisher.close()
    taken(connection, events_queue()).reject()
    poll(lambda: waiting(url, DEAD) == 1, SECONDS, "a dead letter")
    assert _broker(settings).detail.endswith(f"1 messages that nobody could take are in its queue {DEAD}.")


def test_a_wake_up_that_is_late_is_no_dead_letter(url: str, connection: Connection) -> None:
    """How old it may be is in its header, for a worker to judge: the broker is told nothing."""
    celery = make_app(Settings(broker_url=SecretStr(url)))
    CeleryWaker(celery).repack(7)
    [queue] = [queue for queue in work_queues() if queue.name == REPACKS]
    message = taken(connection, queue)
    assert message.headers["expires"] is not None
    assert "expiration" not in message.properties
    assert message.delivery_info["exchange"] == ""
    celery.close()


def test_a_queue_of_another_kind_is_told(url: str) -> None:
    """One that somebody made as a classic queue is not taken for ours: the publisher is told within its deadline."""
    with connection_to(url) as connection:
        connection.default_channel.queue_declare(EVENTS, durable=True, auto_delete=False)
    publisher = KombuPublisher(url)
    with pytest.raises(BrokerAway, match="PreconditionFailed"):
        publisher.publish(b"{}", routing_key="main_key.replaced")
    publisher.close()
