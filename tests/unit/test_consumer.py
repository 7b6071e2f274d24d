"""The consumer of inbound events: recorded before they are acknowledged, put back where they cannot be recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest
from kombu import Connection
from pydantic import SecretStr
from sqlalchemy import select

from producers.topology import EVENTS
from schemas.events import Event
from workers import consumer as module
from workers.app import make_app
from workers.compose import build_services
from workers.consumer import EventConsumer
from workers.embedded.ports import free_port
from workers.keyring import Keyring
from workers.kms.memory import MemoryKms
from workers.settings import Settings
from workers.sources import Sources
from workers.store import models
from workers.store.database import Database
from workers.store.environments import get_environment
from workers.store.schema import migrate


@dataclass
class Message:
    """What kombu hands over, and what became of it, in order."""

    body: bytes | str
    became: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    def ack(self) -> None:
        self.became.append("acknowledged")

    def requeue(self) -> None:
        self.became.append("put back")


@dataclass
class Wakes:
    """The events somebody was woken for."""

    events: list[int] = field(default_factory=list)

    def event(self, inbox_id: int) -> None:
        self.events.append(inbox_id)


@pytest.fixture
def wakes(monkeypatch: pytest.MonkeyPatch) -> Wakes:
    wakes = Wakes()
    monkeypatch.setattr(module, "waker", wakes)
    return wakes


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/keyrepack.db")
    migrate(database)
    yield database
    database.close()


def consumer_on(database: Database) -> EventConsumer:
    """A consumer step as a worker makes it, on a database."""
    step = EventConsumer.__new__(EventConsumer)
    step._database = database
    step._sources = Sources(None, allow_unsigned=True)
    return step


def an_event() -> Event:
    data = {"environment": str(uuid4())}
    return Event(id=str(uuid4()), source="test", type="main_key.rotated", data=data)


def rows(database: Database, table: str) -> list[str]:
    with database.read() as connection:
        found = models.metadata.tables[table]
        return list(connection.execute(select(found.c.event_id).order_by(found.c.id)).scalars())


def test_an_event_is_recorded_acknowledged_and_woken_for(database: Database, wakes: Wakes) -> None:
    """Take, record, acknowledge, wake: in this order."""
    event, step = an_event(), consumer_on(database)
    message = Message(event.to_bytes())
    message.ack = lambda: message.became.append(f"acknowledged after {len(rows(database, 'inbox'))}")  # type: ignore[method-assign]
    step.on_message(message)
    assert message.became == ["acknowledged after 1"]
    assert rows(database, "inbox") == [event.id]
    assert wakes.events == [1]


def test_a_revocation_is_done_before_the_broker_hears_of_it(
    database: Database, wakes: Wakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8: a broker that stops once it has handed a revocation out holds nothing up; the repeat that follows is none."""
    settings = Settings(database_url=SecretStr(str(database.engine.url)))
    services = build_services(settings, providers=[MemoryKms()])
    monkeypatch.setattr(module, "services", lambda: services)
    environment = Keyring(services).create_environment("acme", "one", main_key="memory:a", actor="test")
    data = {"environment": str(environment.environment_id)}
    body = Event(id="1", source="test", type="main_key.revoked", data=data).to_bytes()
    stopped, again, step = Message(body), Message(body), consumer_on(database)

    def stop() -> None:
        raise ConnectionError

    stopped.ack = stop  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        step.on_message(stopped)
    with database.read() as connection:
        locked = get_environment(connection, environment.id)
    step.on_message(again)
    with database.read() as connection:
        assert get_environment(connection, environment.id) == locked
    services.close()
    assert (locked.lock_cause, again.became, wakes.events) == ("revoked", ["acknowledged"], [])


def test_a_repeat_is_acknowledged(database: Database, wakes: Wakes) -> None:
    """The same event again: acknowledged, one row; woken for again while it waits: the first may be lost."""
    event, step = an_event(), consumer_on(database)
    messages = [Message(event.to_bytes()) for _ in range(3)]
    for message in messages:
        step.on_message(message)
    assert [message.became for message in messages] == [["acknowledged"]] * 3
    assert rows(database, "inbox") == [event.id]
    assert set(wakes.events) == {1}


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", "{", "ü", b"x" * 70_000, b"null", b"[" * 9999])
def test_what_is_no_event_is_kept_and_acknowledged(database: Database, wakes: Wakes, body: bytes | str) -> None:
    """It would come back for ever otherwise; nobody is woken for it."""
    message = Message(body)
    consumer_on(database).on_message(message)
    assert message.became == ["acknowledged"]
    assert rows(database, "rejected_events") == [None]
    assert rows(database, "inbox") == []
    assert wakes.events == []


def test_an_event_goes_back_where_the_database_is_away(wakes: Wakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be recorded is not acknowledged: the broker hands it out again."""
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    away = Database(f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/none?connect_timeout=2")
    message = Message(an_event().to_bytes())
    consumer_on(away).on_message(message)
    away.close()
    assert message.became == ["put back"]
    assert wakes.events == []


def test_it_takes_the_queue_of_inbound_events_alone() -> None:
    """One queue, declared with its bindings, any content type: a wrong one is refused with its reason, not lost."""
    with Connection("memory://") as connection:
        [taken] = EventConsumer.__new__(EventConsumer).get_consumers(connection.default_channel)
        assert [queue.name for queue in taken.queues] == [EVENTS]
        assert taken.accept is None
        assert taken.on_message is not None


def test_it_is_installed_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker takes events only once the step is added to its application."""
    celery = make_app(Settings())
    monkeypatch.setattr(module, "app", celery)
    assert EventConsumer not in celery.steps["consumer"]
    module.install()
    assert EventConsumer in celery.steps["consumer"]
