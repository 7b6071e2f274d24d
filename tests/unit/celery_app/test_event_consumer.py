"""The consumer of inbound events: recorded before they are acknowledged, held while they cannot be recorded."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from kombu import Connection
from pydantic import SecretStr
from sqlalchemy import select

from producers.topology import EVENTS, SENT_AT
from schemas.events import Event
from schemas.signatures import HEADERS
from tests.engine import Door, World
from workers.celery_app import event_consumer as module
from workers.celery_app.config import CANARY
from workers.celery_app.event_consumer import PAUSE_SECONDS, EventConsumer
from workers.celery_app.worker_process import WorkerProcess
from workers.compose import build_services
from workers.embedded.ports import free_port
from workers.events.sources import Sources
from workers.kms.local.memory import MemoryKms
from workers.runtime.settings import Settings
from workers.services import Services
from workers.store import models
from workers.store.database import Database
from workers.store.environments import Environment, get_environment
from workers.store.inbox import list_rejected
from workers.store.queue_canaries import list_canaries


@dataclass
class Message:
    """What kombu hands over, and what became of it, in order."""

    body: bytes | str
    became: list[str] = field(default_factory=list)
    headers: Any = field(default_factory=dict)

    def ack_log_error(self, logger: Any, errors: tuple[type[Exception], ...]) -> None:
        self.became.append("acknowledged")

    def reject_log_error(self, logger: Any, errors: tuple[type[Exception], ...]) -> None:
        self.became.append("rejected")


@dataclass
class Timer:
    """Celery's timer, turned by hand."""

    held: list[tuple[Any, ...]] = field(default_factory=list)

    def call_after(self, seconds: float, function: Any, arguments: tuple[Any, ...]) -> None:
        assert seconds == PAUSE_SECONDS
        self.held.append((function, *arguments))

    def let_pass(self) -> None:
        """Do what was put off."""
        waiting, self.held = self.held, []
        for function, *arguments in waiting:
            function(*arguments)


@dataclass
class Process:
    """A worker's process: its services, which a test may exchange, and its sources."""

    own: Services
    sources: Sources = field(default_factory=lambda: Sources(None, allow_unsigned=True))
    name: str = "worker@test"

    def services(self) -> Services:
        return self.own


@dataclass
class Wakes:
    """The events that a worker was woken for."""

    events: list[int] = field(default_factory=list)

    def event(self, inbox_id: int) -> None:
        self.events.append(inbox_id)

    def outbox(self) -> None:
        """Nothing."""


@pytest.fixture
def wakes() -> Wakes:
    return Wakes()


@pytest.fixture
def services(world: World, wakes: Wakes) -> Services:
    """A process of its own, on a database of its own."""
    return world.process(wake=wakes)  # type: ignore[arg-type]


@pytest.fixture
def database(services: Services) -> Database:
    return services.database


@pytest.fixture
def step(services: Services) -> EventConsumer:
    """A consumer step as a worker makes it."""
    step = EventConsumer.__new__(EventConsumer)
    step._consumer = SimpleNamespace(
        app=SimpleNamespace(process=Process(services)), timer=Timer(), connection_errors=(OSError,), channel_errors=()
    )
    return step


ODD_VALUES = [
    10**400, -(10**400), 1e308, -1.0, float("inf"), float("nan"), True, None, "noon", "\x00", "\ud800", b"\xff",
    [], {}, ["x"], {"x": 1}, Decimal("1e9999"), Decimal("NaN"), datetime(2026, 1, 1, tzinfo=UTC),
]  # fmt: skip
"""What a header can hold: any type of JSON, and AMQP's own."""


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


def test_a_revocation_is_done_before_the_broker_hears_of_it(world: World, wakes: Wakes, step: EventConsumer) -> None:
    """R8: a broker that stops once it has handed a revocation out holds nothing up; the repeat that follows is none."""
    environment = world.environment("acme/one")
    data = {"environment": str(environment.environment_id)}
    body = Event(id="1", source="test", type="main_key.revoked", data=data).to_bytes()
    stopped, again = Message(body), Message(body)

    def stop(*_: Any) -> None:
        raise ConnectionError

    stopped.ack_log_error = stop  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        step.on_message(stopped)
    locked = get(world, environment)
    step.on_message(again)
    assert get(world, environment) == locked
    assert (locked.lock_cause, again.became, wakes.events) == ("revoked", ["acknowledged"], [])


def get(world: World, environment: Environment) -> Environment:
    """An environment as it is now."""
    with world.main.database.read() as connection:
        return get_environment(connection, environment.id)


def test_a_revocation_takes_one_transaction_until_others_are_told(world: World, step: EventConsumer) -> None:
    """R8: received, applied and recorded in one: nothing waits between the event and the word to other processes."""
    environment = world.environment("acme/one")
    steps: list[str] = []
    services = world.process(door=Recorder(steps))
    services.epochs.announce = lambda _: steps.append("told")  # type: ignore[method-assign]
    step._consumer.app.process.own = services
    data = {"environment": str(environment.environment_id)}
    step.on_message(Message(Event(id="1", source="test", type="main_key.revoked", data=data).to_bytes()))
    assert steps == ["write", "told"]
    assert get(world, environment).lock_cause == "revoked"


class Recorder(Door):
    """Writes down every transaction that a process begins."""

    def __init__(self, steps: list[str]) -> None:
        self._steps = steps

    def enter(self, kind: str) -> None:
        """See Door.enter."""
        self._steps.append(kind)


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


@pytest.mark.parametrize("value", ODD_VALUES, ids=repr)
def test_a_canary_with_any_stamp_ends_no_consumer(
    database: Database, wakes: Wakes, step: EventConsumer, value: object
) -> None:
    """A canary is a hint: one with an odd stamp says that its queue is served, and not for how long it waited."""
    message = Message(b"", headers={"task": CANARY, SENT_AT: value})
    step.on_message(message)
    assert message.became == ["acknowledged"]
    with database.read() as connection:
        found = list_canaries(connection)[EVENTS]
    assert found.wait_seconds is None


def test_a_message_with_any_header_is_recorded_or_kept(database: Database, wakes: Wakes, step: EventConsumer) -> None:
    """Whatever its headers hold, it ends in the inbox or among the rejected events, and the consumer goes on."""
    sent = 0
    for name, value in itertools.product([*HEADERS, "task", SENT_AT, "compression", ""], ODD_VALUES):
        for headers in ({name: value}, dict.fromkeys(HEADERS, "1") | {name: value}):
            message = Message(an_event().to_bytes(), headers=headers)
            step.on_message(message)
            sent += 1
            assert message.became == ["acknowledged"], headers
    assert len(rows(database, "inbox")) + len(rows(database, "rejected_events")) == sent


def test_a_rejected_message_with_odd_headers_is_kept(database: Database, wakes: Wakes, step: EventConsumer) -> None:
    """Its headers are kept as text that every database takes: a NUL is none."""
    step.on_message(Message(b"{", headers={HEADERS[0]: "a\x00b\ud800", HEADERS[1]: b"\xff", HEADERS[2]: "x" * 10_000}))
    with database.read() as connection:
        [kept] = list_rejected(connection)
    assert kept["headers"] == {HEADERS[0]: "a\ufffdb?", HEADERS[1]: "\ufffd", HEADERS[2]: "x" * 4096}


@pytest.mark.parametrize("headers", [None, [], "x", 7, {7: "x"}, {b"task": 1}], ids=repr)
def test_headers_that_are_no_table_end_no_consumer(
    database: Database, wakes: Wakes, step: EventConsumer, headers: object
) -> None:
    """What is there instead of a table of headers counts as none."""
    message = Message(an_event().to_bytes(), headers=headers)
    step.on_message(message)
    assert message.became == ["acknowledged"]


@pytest.mark.parametrize("error", [ValueError("secret"), KeyError("x"), RecursionError(), TypeError(), MemoryError()])
def test_a_message_that_cannot_be_taken_is_set_aside_and_the_next_one_is_taken(
    database: Database, wakes: Wakes, step: EventConsumer, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Any fault in taking a message is that message's own; its text, which may quote the message, is not kept."""
    with monkeypatch.context() as patch:
        patch.setattr(module, "take_event", lambda *_, **__: raising(error))
        message = Message(an_event().to_bytes())
        step.on_message(message)
    assert message.became == ["rejected"]
    with database.read() as connection:
        [kept] = list_rejected(connection)
    assert (kept["code"], kept["body"]) == ("not_taken", message.body)
    assert "secret" not in kept["why"]
    following = an_event()
    step.on_message(Message(following.to_bytes()))
    assert rows(database, "inbox") == [following.id]


def raising(error: Exception) -> None:
    """Raise an error, as an expression."""
    raise error


def test_a_lost_connection_to_the_broker_passes(step: EventConsumer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery makes a new one."""
    monkeypatch.setattr(module, "take_event", lambda *_, **__: raising(ConnectionResetError()))
    with pytest.raises(ConnectionResetError):
        step.on_message(Message(b"{}"))


def test_an_event_is_held_while_the_database_is_away(
    database: Database, wakes: Wakes, step: EventConsumer, services: Services
) -> None:
    """It is not put back, where it would come again at once and too often, and taken when the database is back."""
    url = f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/none?connect_timeout=2"
    away = build_services(Settings(database_url=SecretStr(url)), providers=[MemoryKms()])
    process, timer = step._consumer.app.process, step._consumer.timer
    process.own = away
    event = an_event()
    message = Message(event.to_bytes())
    step.on_message(message)
    timer.let_pass()
    away.close()
    assert (message.became, len(timer.held), wakes.events) == ([], 1, [])
    process.own = services
    timer.let_pass()
    assert (message.became, timer.held) == (["acknowledged"], [])
    assert rows(database, "inbox") == [event.id]
    assert wakes.events == [1]


def test_it_takes_the_queue_of_inbound_events_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One queue, declared with its bindings, any content type: a wrong one is refused with its reason, not lost."""
    monkeypatch.setattr(EventConsumer, "_appear", lambda _: None)  # this process is no worker
    with Connection("memory://") as connection:
        [taken] = EventConsumer.__new__(EventConsumer).get_consumers(connection.default_channel)
        assert [queue.name for queue in taken.queues] == [EVENTS]
        assert taken.accept is None
        assert taken.on_message is not None
        assert taken.on_decode_error is not None


@pytest.mark.parametrize("takes_events", [True, False])
def test_it_is_there_where_it_is_asked_for(takes_events: bool) -> None:
    """A worker takes events only where it is told to."""
    process = WorkerProcess(Settings(), takes_events=takes_events)
    assert (EventConsumer in process.app.steps["consumer"]) is takes_events
