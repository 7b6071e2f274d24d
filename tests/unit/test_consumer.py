"""The consumer of inbound events: recorded before they are acknowledged, held while they cannot be recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
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

    def ack_log_error(self, logger: Any, errors: tuple[type[Exception], ...]) -> None:
        self.became.append("acknowledged")


@dataclass
class Worker:
    """Celery's consumer, as far as a step needs one: its clock is turned by hand."""

    held: list[tuple[Any, ...]] = field(default_factory=list)
    connection_errors: tuple[type[Exception], ...] = (OSError,)
    channel_errors: tuple[type[Exception], ...] = ()

    @property
    def timer(self) -> Worker:
        return self

    def call_after(self, seconds: float, function: Any, arguments: tuple[Any, ...]) -> None:
        assert seconds == module.PAUSE_SECONDS
        self.held.append((function, *arguments))

    def let_pass(self) -> None:
        """Do what was put off."""
        waiting, self.held = self.held, []
        for function, *arguments in waiting:
            function(*arguments)


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


@pytest.fixture
def step(database: Database, monkeypatch: pytest.MonkeyPatch) -> EventConsumer:
    """A consumer step as a worker makes it, on a database."""
    monkeypatch.setattr(module, "main_process_database", lambda: database)
    step = EventConsumer.__new__(EventConsumer)
    step._sources = Sources(None, allow_unsigned=True)
    step._worker = Worker()
    return step


def an_event() -> Event:
    data = {"environment": str(uuid4())}
    return Event(id=str(uuid4()), source="test", type="main_key.rotated", data=data)


def rows(database: Database, table: str) -> list[str]:
    with database.read() as connection:
        found = models.metadata.tables[table]
        return list(connection.execute(select(found.c.event_id).order_by(found.c.id)).scalars())


def test_an_event_is_recorded_acknowledged_and_woken_for(database: Database, wakes: Wakes, step: EventConsumer) -> None:
    """Take, record, acknowledge, wake: in this order."""
    event = an_event()
    message = Message(event.to_bytes())
    message.ack_log_error = lambda *_: message.became.append(  # type: ignore[method-assign]
        f"acknowledged after {len(rows(database, 'inbox'))}"
    )
    step.on_message(message)
    assert message.became == ["acknowledged after 1"]
    assert rows(database, "inbox") == [event.id]
    assert wakes.events == [1]


def test_a_revocation_is_done_before_the_broker_hears_of_it(
    database: Database, wakes: Wakes, step: EventConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8: a broker that stops once it has handed a revocation out holds nothing up; the repeat that follows is none."""
    settings = Settings(database_url=SecretStr(str(database.engine.url)))
    services = build_services(settings, providers=[MemoryKms()])
    monkeypatch.setattr(module, "services", lambda: services)
    environment = Keyring(services).create_environment("acme", "one", main_key="memory:a", actor="test")
    data = {"environment": str(environment.environment_id)}
    body = Event(id="1", source="test", type="main_key.revoked", data=data).to_bytes()
    stopped, again = Message(body), Message(body)

    def stop(*_: Any) -> None:
        raise ConnectionError

    stopped.ack_log_error = stop  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        step.on_message(stopped)
    with database.read() as connection:
        locked = get_environment(connection, environment.id)
    step.on_message(again)
    with database.read() as connection:
        assert get_environment(connection, environment.id) == locked
    services.close()
    assert (locked.lock_cause, again.became, wakes.events) == ("revoked", ["acknowledged"], [])


def test_a_repeat_is_acknowledged(database: Database, wakes: Wakes, step: EventConsumer) -> None:
    """The same event again: acknowledged, one row; woken for again while it waits: the first may be lost."""
    event = an_event()
    messages = [Message(event.to_bytes()) for _ in range(3)]
    for message in messages:
        step.on_message(message)
    assert [message.became for message in messages] == [["acknowledged"]] * 3
    assert rows(database, "inbox") == [event.id]
    assert set(wakes.events) == {1}


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", "{", "ü", b"x" * 70_000, b"null", b"[" * 9999])
def test_what_is_no_event_is_kept_and_acknowledged(
    database: Database, wakes: Wakes, step: EventConsumer, body: bytes | str
) -> None:
    """It would come back for ever otherwise; nobody is woken for it."""
    message = Message(body)
    step.on_message(message)
    assert message.became == ["acknowledged"]
    assert rows(database, "rejected_events") == [None]
    assert rows(database, "inbox") == []
    assert wakes.events == []


def test_an_event_is_held_while_the_database_is_away(
    database: Database, wakes: Wakes, step: EventConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not put back, where it would come again at once and too often, and taken when the database is back."""
    away = Database(f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/none?connect_timeout=2")
    monkeypatch.setattr(module, "main_process_database", lambda: away)
    event = an_event()
    message = Message(event.to_bytes())
    step.on_message(message)
    step._worker.let_pass()
    away.close()
    assert (message.became, len(step._worker.held), wakes.events) == ([], 1, [])
    monkeypatch.setattr(module, "main_process_database", lambda: database)
    step._worker.let_pass()
    assert (message.became, step._worker.held) == (["acknowledged"], [])
    assert rows(database, "inbox") == [event.id]
    assert wakes.events == [1]


def test_it_takes_the_queue_of_inbound_events_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One queue, declared with its bindings, any content type: a wrong one is refused with its reason, not lost."""
    monkeypatch.setattr(EventConsumer, "_appear", lambda *_: None)  # this process is no worker
    with Connection("memory://") as connection:
        [taken] = EventConsumer.__new__(EventConsumer).get_consumers(connection.default_channel)
        assert [queue.name for queue in taken.queues] == [EVENTS]
        assert taken.accept is None
        assert taken.on_message is not None
        assert taken.on_decode_error is not None


def test_it_is_installed_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker takes events only once the step is added to its application."""
    celery = make_app(Settings())
    monkeypatch.setattr(module, "app", celery)
    assert EventConsumer not in celery.steps["consumer"]
    module.install()
    assert EventConsumer in celery.steps["consumer"]
