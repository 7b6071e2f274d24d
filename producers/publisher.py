"""Publishes events: a port, its adapter for kombu, and one in memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from kombu import Connection, Exchange, Producer
from kombu.exceptions import OperationalError

from producers.signing import sign
from producers.topology import EXCHANGE, SENT_AT, declare
from producers.transports import PUBLISH_TIMEOUT, publisher_options
from schemas.aws_events import read_message
from schemas.broker_address import read_broker_url
from schemas.errors import KeyrepackError
from schemas.events import CONTENT_TYPE, INBOUND, read_data


class BrokerAway(KeyrepackError):
    """The broker did not take a message."""

    code = "broker_away"

    def __init__(self, detail: str) -> None:
        super().__init__("The broker does not answer.", detail, "Check that it is up, and KEYREPACK_BROKER_URL.")


class Publisher(Protocol):
    """Says that something happened. Returns once the broker has taken the message."""

    def publish(self, body: bytes, *, routing_key: str, headers: Mapping[str, str] | None = None) -> None:
        """Publish one event (JSON bytes) with message headers. Raises BrokerAway."""


class KombuPublisher:
    """Publishes through any broker kombu speaks; confirmed where the broker can (RabbitMQ)."""

    def __init__(self, url: str, *, exchange: Exchange = EXCHANGE) -> None:
        """Connect at the first publish. Raises ValueError for a URL with TLS options that are none.

        `exchange` is where inbound events go, unless this system publishes its own (TOLD).
        """
        options = publisher_options(url)
        address = read_broker_url(url).kombu
        self._connection = Connection(**address, transport_options=options, connect_timeout=PUBLISH_TIMEOUT)
        self._exchange = exchange

    def publish(self, body: bytes, *, routing_key: str, headers: Mapping[str, str] | None = None) -> None:
        """See Publisher.publish."""
        self.publish_all([(body, routing_key)], headers=headers)

    def publish_all(self, events: Iterable[tuple[bytes, str]], *, headers: Mapping[str, str] | None = None) -> None:
        """Publish many over one channel.

        Over a connection of its own: kombu remembers what it has declared for as long as a connection lives, and a
        Redis that was flushed meanwhile would drop what is routed to a queue that it has forgotten.
        """
        try:
            with self._connection.clone() as connection:
                channel = connection.default_channel
                declare(channel)
                producer = Producer(channel, exchange=self._exchange, auto_declare=False)
                for body, routing_key in events:
                    stamped = {SENT_AT: time.time(), **(headers or {})}
                    producer.publish(
                        body, routing_key=routing_key, content_type=CONTENT_TYPE, content_encoding="utf-8",
                        delivery_mode=2, timeout=PUBLISH_TIMEOUT, confirm_timeout=PUBLISH_TIMEOUT,
                        headers=stamped, retry=True,
                        retry_policy={"max_retries": 3, "interval_start": 0, "interval_step": 0.2},
                    )  # fmt: skip
        except (
            OperationalError,
            OSError,
            *self._connection.connection_errors,
            *self._connection.channel_errors,  # a queue of that name is there, and of another kind
        ) as error:
            raise BrokerAway(f"{type(error).__name__} while publishing.") from error

    def declare(self) -> None:
        """Make the exchanges and the queue of inbound events, where the broker has them not, or no more."""
        self.publish_all([])

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()


class MemoryPublisher:
    """Keeps what was published: for tests, and for a caller that wants to see it first."""

    def __init__(self) -> None:
        self.published: list[tuple[bytes, str]] = []
        self.headers: list[dict[str, str]] = []

    def publish(self, body: bytes, *, routing_key: str, headers: Mapping[str, str] | None = None) -> None:
        """See Publisher.publish."""
        self.published.append((body, routing_key))
        self.headers.append(dict(headers or {}))

    def publish_all(self, events: Iterable[tuple[bytes, str]]) -> None:
        """Publish many."""
        self.published += events

    def declare(self) -> None:
        """Do nothing: there is nothing to make."""

    def close(self) -> None:
        """Do nothing: there is no connection."""


def publish_event(publisher: Publisher, body: bytes, *, signing_key: str | Sequence[str] | None = None) -> None:
    """Publish an inbound event under its own type, signed if a key (`whsk_…`) is given, or several.

    Raises EventRejected (it is no event), MalformedKey, BrokerAway.
    """
    event = read_message(body)
    if event.type not in INBOUND:
        read_data(
            event
        )  # it would end among the rejected events; here its publisher learns at once what types there are
    headers = sign(event.id, body, signing_key) if signing_key else None
    publisher.publish(body, routing_key=event.type, headers=headers)
