"""What machines have to agree on is judged by the database's clock, not by theirs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kombu import Message
from kombu.utils.imports import symbol_by_name

from workers.celery_app.app import Application, make_app
from workers.celery_app.config import WALK
from workers.celery_app.requests import PunctualRequest
from workers.errors import DatabaseAway
from workers.runtime.database_clock import HOLDS_SECONDS, SharedClock
from workers.runtime.settings import Settings

HOUR = 3600.0
NOW = 1_800_000_000.0


class Machine:
    """A machine whose clock is off, and a database that it can ask."""

    def __init__(self, off: float) -> None:
        self.passed, self.off, self.asked, self.is_away = 0.0, off, 0, False
        self.clock = SharedClock(self._ask, own=lambda: NOW + self.off + self.passed, steady=lambda: self.passed)

    def _ask(self) -> float:
        self.asked += 1
        if self.is_away:
            raise DatabaseAway("a test's")
        return NOW + self.passed


@pytest.mark.parametrize("off", [-HOUR, 0.0, HOUR])
def test_the_time_is_the_databases(off: float) -> None:
    """However far this machine's own clock is off; asked once a minute, carried on by the steady clock between."""
    machine = Machine(off)
    assert machine.clock() == NOW
    machine.passed = HOLDS_SECONDS / 2
    assert (machine.clock(), machine.asked) == (NOW + HOLDS_SECONDS / 2, 1)
    machine.passed = HOLDS_SECONDS
    assert (machine.clock(), machine.asked) == (NOW + HOLDS_SECONDS, 2)


def test_a_clock_that_is_set_meanwhile_changes_nothing() -> None:
    """An operator or NTP moves this machine's clock: the steady one goes on."""
    machine = Machine(0.0)
    assert machine.clock() == NOW
    machine.off, machine.passed = HOUR, 1.0
    assert machine.clock() == NOW + 1


def test_the_last_answer_counts_while_the_database_is_away() -> None:
    """And our own clock where there was none; it is not asked again at each message."""
    machine = Machine(HOUR)
    assert machine.clock() == NOW
    machine.is_away, machine.passed = True, HOLDS_SECONDS
    assert [machine.clock() for _ in range(3)] == [NOW + HOLDS_SECONDS] * 3
    assert machine.asked == 2
    silent = Machine(HOUR)
    silent.is_away = True
    assert silent.clock() == NOW + HOUR


@pytest.fixture
def app() -> Application:
    """An application whose database says NOW, on a machine whose own clock is years behind."""
    app = make_app(Settings())
    app.shared_clock = SharedClock(lambda: NOW, own=lambda: 0.0, steady=lambda: 0.0)
    return app


def _received(app: Application, expires: datetime | None) -> Any:
    headers = {"id": "1", "task": WALK, "expires": expires.isoformat() if expires else None, "lang": "py"}
    message = Message("[[1], {}, {}]", content_type="application/json", content_encoding="utf-8", headers=headers)
    task = app.tasks[WALK]
    return PunctualRequest(message, app=app, task=task, hostname="test", headers=headers, body="[[1], {}, {}]")


@pytest.mark.parametrize(("seconds", "is_old"), [(1, False), (-1, True)])
def test_a_wake_up_is_too_old_by_the_databases_clock(app: Application, seconds: float, is_old: bool) -> None:
    """Not by the clock of the machine that took it."""
    request = _received(app, datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=seconds))
    assert request.maybe_expire() is is_old
    assert _received(app, None).maybe_expire() is False


def test_a_wake_up_is_sent_with_the_databases_time(app: Application) -> None:
    """Celery asks the application for the time at which a message is too old."""
    sent = app.amqp.as_task_v2("1", WALK, args=(1,), expires=120)
    assert datetime.fromisoformat(sent.headers["expires"]).timestamp() == NOW + 120


def test_every_task_of_ours_is_judged_so(app: Application) -> None:
    """Celery takes the class of its requests from the task."""
    assert {symbol_by_name(task.Request) for task in app.tasks.values()} == {PunctualRequest}
