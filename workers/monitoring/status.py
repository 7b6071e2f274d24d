"""One line for an operator who was woken at night: is something wrong, what, and where to read on. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from schemas.states import LockCause, RepackState
from workers.monitoring.formats import amount, duration
from workers.monitoring.overview import Overview

LATE_SECONDS = 120.0
"""A canary, a tick or an outgoing event that is this late is more than a busy machine."""

NOTICE_SECONDS = 2.5
"""R8's promise with the broker gone: from a lock's commit to the last process that refuses. With Redis it is 1 s."""


class Level(StrEnum):
    """How bad it is."""

    GOOD = "good"
    WATCH = "watch"  # an operator should read on, today
    BAD = "bad"  # an operator should read on now


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One thing that is not as it should be. `section`: where more is said of it."""

    level: Level
    text: str
    section: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """All of it in a line, and the reasons, the worst first."""

    level: Level
    text: str
    reasons: tuple[Reason, ...]


def judge(overview: Overview, *, rejected: int) -> Status:
    """Judge an overview; `rejected`: events that are not settled yet."""
    found = [*_processes(overview), *_queues(overview), *_data(overview, rejected), *_promises(overview)]
    reasons = tuple(sorted(found, key=lambda reason: list(Level).index(reason.level), reverse=True))
    bad = sum(reason.level == Level.BAD for reason in reasons)
    if bad:
        return Status(level=Level.BAD, text=f"{_things(bad)} wrong now.".capitalize(), reasons=reasons)
    if reasons:
        return Status(level=Level.WATCH, text=f"Working; {_things(len(reasons))} worth a look.", reasons=reasons)
    return Status(level=Level.GOOD, text="All is well.", reasons=())


def _things(count: int) -> str:
    return "one thing is" if count == 1 else f"{count} things are"


def _processes(overview: Overview) -> Iterator[Reason]:
    if not overview.broker.answers:
        yield _bad("The broker does not answer: no work is handed out until it is back.", "queues")
    living = [worker for worker in overview.workers if not worker.is_silent]
    if not living:
        yield _bad("No worker is heard of: nothing is done.", "workers")
    elif silent := len(overview.workers) - len(living):
        yield _watch(f"{_workers(silent)} not heard of any more.", "workers")
    for schedule in overview.schedules:
        if schedule.last_at is None or (schedule.overdue_seconds or 0.0) > max(LATE_SECONDS, schedule.every_seconds):
            since = f"since {duration(overview.now - schedule.last_at)}" if schedule.last_at is not None else "yet"
            yield _bad(f"The clock has not run “{schedule.job}” {since}: is beat up?", "workers")


def _workers(count: int) -> str:
    return "One worker is" if count == 1 else f"{count} workers are"


def _queues(overview: Overview) -> Iterator[Reason]:
    for queue in overview.queues:
        if queue.canary_seconds is not None and queue.canary_seconds > LATE_SECONDS:
            age = duration(queue.canary_seconds)
            yield _bad(f"Queue {queue.name} is not served: no canary has come out of it for {age}.", "queues")


def _data(overview: Overview, rejected: int) -> Iterator[Reason]:
    if overview.audit is not None and not overview.audit.whole:
        yield _bad(f"The audit chain is broken at record {overview.audit.broken_at}: {overview.audit.why}.", "audit")
    for cause, count in sorted(overview.locked.items()):
        reason = _bad if cause == LockCause.LOST else _watch
        yield reason(f"{_environments(count)} locked: {cause}.", "environments")
    if blocked := overview.repacks.get(RepackState.BLOCKED, 0):
        since = f", the longest for {duration(overview.now - overview.blocked_since)}" if overview.blocked_since else ""
        yield _watch(f"{_repacks(blocked)} held up by a main key{since}.", "repacks")
    if keys := sum(overview.quarantine.values()):
        yield _watch(f"{amount(keys)} {'key is' if keys == 1 else 'keys are'} in quarantine.", "repacks")
    if rejected:
        events = "event was" if rejected == 1 else "events were"
        yield _watch(f"{amount(rejected)} {events} rejected, and nobody has looked yet.", "queues")
    if unreachable := sum(count for cause, count in overview.poll.by_cause.items() if cause == "unreachable"):
        keys_are = "main key gives" if unreachable == 1 else "main keys give"
        yield _watch(f"{unreachable} {keys_are} no answer: not a revocation.", "main-keys")


def _promises(overview: Overview) -> Iterator[Reason]:
    notice, oldest = overview.lock_notice_seconds, overview.outbox.oldest_at
    if notice is not None and notice > NOTICE_SECONDS:
        yield _bad(f"A lock took {duration(notice)} to reach a process; {NOTICE_SECONDS:g} s are promised.", "workers")
    if oldest is not None and overview.now - oldest > LATE_SECONDS:
        waiting = amount(overview.outbox.waiting)
        yield _watch(
            f"{waiting} outgoing events wait to be published, since {duration(overview.now - oldest)}.", "queues"
        )


def _environments(count: int) -> str:
    return "One environment is" if count == 1 else f"{amount(count)} environments are"


def _repacks(count: int) -> str:
    return "One repack is" if count == 1 else f"{amount(count)} repacks are"


def _bad(text: str, section: str) -> Reason:
    return Reason(level=Level.BAD, text=text, section=section)


def _watch(text: str, section: str) -> Reason:
    return Reason(level=Level.WATCH, text=text, section=section)
