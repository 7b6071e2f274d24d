"""Signed messages over a real broker: what is published is, byte for byte, what is verified at the other end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Consumer
from pydantic import SecretStr

from producers.publisher import KombuPublisher, publish_event
from producers.signing import generate_key
from producers.topology import EXCHANGE, events_queue
from workers.compose import build_services
from workers.errors import NotConfigured
from workers.events.receiving import take_event
from workers.events.sources import Sources
from workers.runtime.settings import Settings
from workers.services import Services
from workers.store import inbox
from workers.store.models import metadata

KEY, FOREIGN = generate_key(), generate_key()
BODY = json.dumps(
    {"specversion": "1.0", "id": "e-1", "source": "/console", "type": "main_key.revoked",
     "data": {"workspace": "müller & söhne", "reason": "back\\slash, \"quotes\", ☃"}}, ensure_ascii=False, indent=1,
).encode()  # fmt: skip

Deliver = Callable[[], Any]


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    made = build_services(Settings(database_url=SecretStr(f"sqlite:///{tmp_path}/keyrepack.db")), providers=[])
    with made.database.write() as connection:
        metadata.create_all(connection)
    yield made
    made.close()


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    entry = {"source": "/console", "keys": [KEY.public], "workspaces": ["*"], "types": ["main_key.revoked"]}
    path = tmp_path / "sources.json"
    path.write_text(json.dumps({"sources": [entry]}))
    return Sources(path)


@pytest.fixture
def publisher(redis_url: str) -> Iterator[KombuPublisher]:
    made = KombuPublisher(redis_url)
    yield made
    made.close()


def deliver(redis_url: str, take: Callable[[Any], object]) -> None:
    """Take one message from the queue of events, as the worker's consumer does."""
    with Connection(redis_url) as connection, connection.channel() as channel:
        taken: list[Any] = []
        consumer = Consumer(channel, queues=[events_queue()], on_message=lambda message: taken.append(message))
        with consumer:
            connection.drain_events(timeout=10)
        [message] = taken
        take(message)
        message.ack()


def taken(services: Services, sources: Sources, redis_url: str) -> int | None:
    found: list[int | None] = []

    def take(message: Any) -> None:
        body = message.body if isinstance(message.body, bytes) else str(message.body).encode()
        found.append(take_event(services, body, headers=message.headers, sources=sources))

    deliver(redis_url, take)
    return found[0]


def rejected(services: Services) -> list[str]:
    with services.database.read() as connection:
        return [row["code"] for row in inbox.list_rejected(connection)]


def test_a_signed_message_is_verified_at_the_other_end(
    services: Services, sources: Sources, publisher: KombuPublisher, redis_url: str
) -> None:
    """Headers and raw bytes cross the broker unchanged, letters beyond ASCII and odd spacing too."""
    publish_event(publisher, BODY, signing_key=KEY.secret)
    taken(services, sources, redis_url)
    assert rejected(services) == ["not_found"]  # it was believed: what it names is not there


@pytest.mark.parametrize(
    ("key", "code"), [(None, "unsigned"), (FOREIGN.secret, "bad_signature")], ids=["unsigned", "foreign"]
)
def test_other_messages_are_refused(
    services: Services, sources: Sources, publisher: KombuPublisher, redis_url: str, key: str | None, code: str
) -> None:
    """What is unsigned, or signed by another, is refused behind a real broker too."""
    publish_event(publisher, BODY, signing_key=key)
    assert taken(services, sources, redis_url) is None
    assert rejected(services) == [code]


def test_a_message_changed_in_the_broker_is_refused(
    services: Services, sources: Sources, publisher: KombuPublisher, redis_url: str
) -> None:
    """Whoever can write to the broker can change a body, and is found out."""
    publish_event(publisher, BODY, signing_key=KEY.secret)
    held: list[Any] = []
    deliver(redis_url, held.append)
    forged = BODY.replace(b"revoked", b"restored")
    publisher.publish(forged, routing_key="main_key.revoked", headers=_own(held[0].headers))
    assert taken(services, sources, redis_url) is None
    assert rejected(services) == ["bad_signature"]


def test_an_event_that_nobody_can_judge_stays_in_the_broker(
    services: Services, tmp_path: Path, publisher: KombuPublisher, redis_url: str
) -> None:
    """Where the table of sources was never right an event is neither taken nor rejected: it is not lost."""
    (tmp_path / "broken.json").write_text("{")
    publish_event(publisher, BODY, signing_key=KEY.secret)
    with pytest.raises(NotConfigured):
        taken(services, Sources(tmp_path / "broken.json"), redis_url)
    assert rejected(services) == []
    assert EXCHANGE.name == "keyrepack"


def _own(headers: dict[str, Any]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.startswith("webhook-")}
