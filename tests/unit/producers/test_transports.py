"""Options of kombu's transports: each is one that the installed kombu, or its client, really reads."""

from __future__ import annotations

import inspect

import amqp
import botocore.config
import pytest
from kombu import Connection
from kombu.transport import SQS, pyamqp, redis

from producers.transports import (
    ANSWER_TIMEOUT,
    PUBLISH_TIMEOUT,
    RETRIES,
    consumer_options,
    kind_of,
    publisher_options,
    transport_options,
)

URLS = {
    "redis": "redis://127.0.0.1:1/0",
    "rabbitmq": "amqp://127.0.0.1:1/none",
    "sqs": "sqs://",
}


def every_option(kind: str) -> dict[str, object]:
    """Each option that anybody gives to a kind of broker."""
    url = URLS[kind]
    return transport_options(url) | publisher_options(url) | consumer_options(url, visibility_timeout=300)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://h", "redis"), ("rediss://h", "redis"), ("amqp://h", "rabbitmq"), ("amqps://h", "rabbitmq"),
        ("pyamqp://h", "rabbitmq"), ("sqs://", "sqs"), ("SQS://", "sqs"), ("memory://", "other"),
        ("sentinel://h", "other"),
    ],
)  # fmt: skip
def test_a_broker_is_known_by_its_url(url: str, kind: str) -> None:
    """The scheme says which it is; of another nothing is promised."""
    assert kind_of(url) == kind


@pytest.mark.parametrize("name", sorted(RETRIES))
def test_kombu_knows_how_to_try_again(name: str) -> None:
    """Its connection takes these out of any transport's options."""
    assert repr(name) in inspect.getsource(Connection._extract_failover_opts)


@pytest.mark.parametrize("name", sorted(every_option("redis").keys() - RETRIES.keys()))
def test_redis_channel_knows_the_option(name: str) -> None:
    """Every option is read by kombu's channel to Redis."""
    assert name in redis.Channel.from_transport_options
    assert hasattr(redis.Channel, name)


@pytest.mark.parametrize("name", sorted(every_option("rabbitmq").keys() - RETRIES.keys()))
def test_amqp_connection_knows_the_option(name: str) -> None:
    """Every option is a parameter of the client's connection, which swallows those it does not know."""
    assert "**conninfo.transport_options" in inspect.getsource(pyamqp.Transport.establish_connection)
    assert name in inspect.signature(amqp.Connection).parameters


@pytest.mark.parametrize("name", sorted(every_option("sqs").keys() - RETRIES.keys()))
def test_sqs_channel_knows_the_option(name: str) -> None:
    """Every option is looked up by kombu's channel to SQS, or set on its transport."""
    read = inspect.getsource(SQS.Channel)
    assert repr(name) in read or name in SQS.Channel.from_transport_options or hasattr(SQS.Transport, name)


def test_sqs_client_knows_its_own_options() -> None:
    """What kombu hands on is what the AWS SDK's client is configured by."""
    options = transport_options(URLS["sqs"])["client-config"]
    assert options.keys() <= botocore.config.Config.OPTION_DEFAULTS.keys()


def test_an_unknown_option_would_be_seen() -> None:
    """The places that these tests ask do not hold everything."""
    assert "sockettimeout" not in redis.Channel.from_transport_options
    assert "confirm" not in inspect.signature(amqp.Connection).parameters


def test_nothing_is_waited_for_without_end() -> None:
    """Sockets have deadlines and retries an end: the clients' own defaults are for ever."""
    for url in URLS.values():
        assert transport_options(url)["max_retries"] >= 1
    assert transport_options(URLS["redis"])["socket_timeout"] == ANSWER_TIMEOUT
    assert transport_options(URLS["redis"])["socket_connect_timeout"] == PUBLISH_TIMEOUT
    assert transport_options(URLS["rabbitmq"])["read_timeout"] == ANSWER_TIMEOUT
    assert transport_options(URLS["sqs"])["client-config"]["read_timeout"] == ANSWER_TIMEOUT


def test_who_publishes_waits_less_than_a_worker() -> None:
    """A publisher's deadline is its own; a worker's socket has to sit out a blocking read."""
    assert publisher_options(URLS["redis"])["socket_timeout"] == PUBLISH_TIMEOUT < ANSWER_TIMEOUT
    assert publisher_options(URLS["redis"])["retry_on_timeout"] is False
    assert publisher_options(URLS["rabbitmq"])["read_timeout"] == PUBLISH_TIMEOUT


def test_what_rabbitmq_took_is_confirmed() -> None:
    """A publish returns once the broker has the message, for wake-ups too."""
    assert publisher_options(URLS["rabbitmq"])["confirm_publish"] is True
    assert consumer_options(URLS["rabbitmq"], visibility_timeout=300)["confirm_publish"] is True


def test_sqs_is_spoken_to_in_clear_on_loopback_alone() -> None:
    """There an emulator answers; everywhere else it is TLS."""
    assert transport_options("sqs://key:secret@127.0.0.1:4566")["is_secure"] is False
    assert transport_options("sqs://")["is_secure"] is True
    assert transport_options("sqs://key:secret@sqs.example")["is_secure"] is True
