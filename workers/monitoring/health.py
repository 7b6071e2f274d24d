"""Judges whether a worker is alive, and whether the system is ready. Pure: from an overview, each answer with its
reasons.

Alive is progress and not a ping: a worker is dead where a message waits in a queue it serves, no canary comes out of
that queue, and the worker itself has done nothing for any message meanwhile. What a restart does not mend never says
"dead": a database, a broker or a beat that is away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

from workers.monitoring.overview import Overview, QueueView, WorkerView

CANARIES_MISSED = 4
"""So many in a row: a slice of work takes longer than one."""

STARTING_SECONDS = 60.0
"""A worker that began so recently need not have been heard of yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """An answer. `reasons`: why not; none where it is well."""

    reasons: tuple[str, ...] = ()

    @property
    def is_well(self) -> bool:
        """Return True if nothing speaks against it."""
        return not self.reasons


def judge_worker(overview: Overview, name: str, *, canary_seconds: float) -> Health:
    """Judge whether a worker is alive. `name` as it was started, with or without its host."""
    mine = [worker for worker in overview.workers if name in (worker.seen.name, worker.seen.name.partition("@")[0])]
    if not mine:
        return Health(reasons=(f"No process of worker {name} is heard of.",))
    return Health(reasons=tuple(_stuck(overview, mine, canary_seconds * CANARIES_MISSED)))


def _stuck(overview: Overview, mine: Sequence[WorkerView], patience: float) -> Iterator[str]:
    progressed = max((worker.seen.progressed_at or worker.seen.started_at for worker in mine), default=0.0)
    for queue in overview.queues:
        serving = [worker for worker in mine if queue.name in worker.seen.queues]
        if serving and all(worker.is_silent for worker in serving):
            yield f"No process that serves {queue.name} is heard of: killed, frozen, or without the database."
        elif serving and is_unserved(queue, patience) and overview.now - progressed > patience:
            yield f"Messages wait in {queue.name}, and this worker has done nothing for {patience:g} s."


def is_unserved(queue: QueueView, patience: float) -> bool:
    """Return True if something waits in the queue, and no canary has come out of it for so long."""
    return bool(queue.depth) and (inf if queue.canary_seconds is None else queue.canary_seconds) > patience


def judge_service(overview: Overview, *, canary_seconds: float) -> Health:
    """Judge whether the whole of it makes progress: the broker, the clock, every queue."""
    return Health(reasons=tuple(_missing(overview, canary_seconds * CANARIES_MISSED)))


def _missing(overview: Overview, patience: float) -> Iterator[str]:
    if not overview.broker.answers:
        yield overview.broker.why
    for queue in overview.queues:
        if (inf if queue.canary_seconds is None else queue.canary_seconds) > patience:
            yield f"No canary has come out of {queue.name} for {patience:g} s."
    for schedule in overview.schedules:
        if schedule.last_at is None or (schedule.overdue_seconds or 0.0) > max(patience, schedule.every_seconds):
            yield f"The clock has not run {schedule.job} when it should: is beat up?"
