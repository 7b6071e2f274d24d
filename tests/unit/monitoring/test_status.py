"""The one line for whoever is on call: what counts as wrong, what is worth a look, and in which order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from schemas.states import RepackState
from workers.broker.queue_depths import BrokerCounts
from workers.monitoring.overview import Overview, QueueView, ScheduleView, WorkerView
from workers.monitoring.status import LATE_SECONDS, Level, judge
from workers.store.audit_checks import AuditCheck
from workers.store.heartbeats import WorkerSeen
from workers.store.queries.overview import OutboxSum, Outcomes, PollSum

NOW = 10_000.0


def worker(*, silent: bool = False) -> WorkerView:
    """One that is heard of, or not any more."""
    seen = WorkerSeen(
        owner="o", name="w", host="h", pid=1, version="1", queues=("keyrepack.repacks",), started_at=1.0, seen_at=NOW,
        progressed_at=NOW, canary_at=NOW, lock_noticed_at=None, lock_notice_seconds=None,
    )  # fmt: skip
    return WorkerView(seen=seen, is_silent=silent)


def queue(**values: Any) -> QueueView:
    """An empty one whose canary has just come."""
    base: dict[str, Any] = dict.fromkeys(QueueView.__slots__) | {"name": "q", "taken": 0.0, "canary_seconds": 1.0}
    return QueueView(**base | values)


def schedule(**values: Any) -> ScheduleView:
    """A job that ran a second ago."""
    base = {"job": "sweep", "every_seconds": 15.0, "last_at": NOW - 1, "next_at": NOW + 14, "drift_seconds": 0.0}
    return ScheduleView(**base | {"overdue_seconds": 0.0} | values)


WELL = Overview(
    now=NOW, environments=1, broker=BrokerCounts(answers=True), queues=[queue()], workers=[worker()],
    schedules=[schedule()], runs=[], repacks={}, blocked_since=None, locks=[], locked={}, outcomes=Outcomes(),
    stages=[], quarantine={}, outbox=OutboxSum(waiting=0, oldest_at=None),
    poll=PollSum(keys=1, by_cause={}, most_overdue_at=None, last_looked_at=NOW),
    audit=AuditCheck(checked_at=NOW, records=1, whole=True, broken_at=None, why=""), rejected_at=None,
    lock_notice_seconds=0.2, rate=None, rates=[], counts={},
)  # fmt: skip


def test_where_nothing_is_wrong_all_is_well() -> None:
    """One line, no reasons."""
    verdict = judge(WELL, rejected=0)
    assert (verdict.level, verdict.text, verdict.reasons) == (Level.GOOD, "All is well.", ())


@pytest.mark.parametrize(
    ("values", "level", "words"),
    [
        ({"broker": BrokerCounts(answers=False, why="away")}, Level.BAD, "The broker does not answer"),
        ({"workers": []}, Level.BAD, "No worker is heard of"),
        ({"workers": [worker(silent=True)]}, Level.BAD, "No worker is heard of"),
        ({"workers": [worker(), worker(silent=True)]}, Level.WATCH, "One worker is not heard of any more"),
        ({"queues": [queue(canary_seconds=LATE_SECONDS + 1)]}, Level.BAD, "Queue q is not served"),
        ({"schedules": [schedule(last_at=None, overdue_seconds=None)]}, Level.BAD, "is beat up?"),
        ({"schedules": [schedule(overdue_seconds=LATE_SECONDS + 1)]}, Level.BAD, "has not run “sweep”"),
        ({"locked": {"lost": 1}}, Level.BAD, "One environment is locked: lost."),
        ({"locked": {"revoked": 2}}, Level.WATCH, "2 environments are locked: revoked."),
        ({"repacks": {RepackState.BLOCKED: 1}, "blocked_since": NOW - 90}, Level.WATCH, "held up by a main key"),
        ({"quarantine": {"malformed": 3}}, Level.WATCH, "3 keys are in quarantine"),
        ({"poll": replace(WELL.poll, by_cause={"unreachable": 1})}, Level.WATCH, "not a revocation"),
        ({"audit": replace(WELL.audit, whole=False, broken_at=7, why="x")}, Level.BAD, "broken at record 7"),  # type: ignore[type-var]
        ({"lock_notice_seconds": 9.0}, Level.BAD, "A lock took 9.0 s"),
        ({"outbox": OutboxSum(waiting=3, oldest_at=NOW - 300)}, Level.WATCH, "3 outgoing events wait"),
    ],
)
def test_each_thing_that_is_wrong_is_named(values: dict[str, Any], level: Level, words: str) -> None:
    """With how bad it is, and where more is said of it."""
    verdict = judge(replace(WELL, **values), rejected=0)
    (reason,) = verdict.reasons
    assert (verdict.level, reason.level) == (level, level)
    assert words in reason.text


def test_what_nobody_looked_at_yet_is_worth_a_look() -> None:
    """Rejected events."""
    assert "3 events were rejected" in judge(WELL, rejected=3).reasons[0].text


def test_the_worst_comes_first_and_gives_the_line() -> None:
    """What is wrong now, before what can wait."""
    verdict = judge(replace(WELL, locked={"revoked": 1}, workers=[]), rejected=1)
    assert [reason.level for reason in verdict.reasons] == [Level.BAD, Level.WATCH, Level.WATCH]
    assert verdict.text == "one thing is wrong now.".capitalize()
