"""Reads the overview, and remembers what rates need: one reader per process, every few seconds, for all who watch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from producers.topology import QUEUES
from schemas.states import RUNNING, RepackState, Stage
from workers.broker.queue_depths import Broker, BrokerCounts, QueueCount
from workers.kms.rate_limit.budget import Left
from workers.monitoring.overview import LockView, Overview, QueueView, RunView, ScheduleView, WorkerView
from workers.monitoring.time_series import Series
from workers.runtime.counters import MESSAGES_TAKEN
from workers.runtime.settings import Settings
from workers.store.audit_checks import last_check
from workers.store.counters import Key, read_counts
from workers.store.database import Connection, Database
from workers.store.heartbeats import WorkerSeen, list_workers
from workers.store.queries import overview
from workers.store.queries.overview import Outcomes
from workers.store.queue_canaries import Canary, list_canaries
from workers.store.schedule import POLL, SWEEP, VERIFY_AUDIT
from workers.store.types import read_clock

LISTED = 100
"""Repacks and locked environments that are named; all of them are counted."""

RATE_SECONDS = 60.0
"""What a rate "now" is over."""

SILENT_SECONDS = 20.0
"""A worker that was not heard of for so long: it says something every five seconds."""

SETTLED_SECONDS = 60.0
"""Older ends of repacks are all committed: their sums are taken once and kept."""


class OverviewReader:
    """Looks, and remembers what rates need. One thread at a time."""

    def __init__(
        self, database: Database, broker: Broker, settings: Settings, *, budgets: Callable[[], Sequence[Left]] = list
    ) -> None:
        self._database, self._broker, self._settings = database, broker, settings
        self._budgets = budgets
        self._settled, self._settled_upto = Outcomes(), 0.0
        self._rewrapped = Series()
        self._taken = {name: Series() for name in QUEUES}
        self._entered = {name: Series() for name in QUEUES}

    def read(self) -> Overview:
        """Read the overview as it is now. Raises DatabaseFailed; a broker that is away is shown to be so."""
        broker, budgets = self._broker.count(), self._budgets()
        with self._database.read() as connection:
            now = read_clock(connection)
            counts = read_counts(connection)
            workers = [_worker(seen, now) for seen in list_workers(connection)]
            outcomes = self._outcomes(connection, now)
            self._rewrapped.add(now, outcomes.rewrapped)
            return Overview(
                now=now,
                environments=overview.count_environments(connection),
                broker=broker,
                queues=self._queues(broker, counts, workers, list_canaries(connection), now),
                workers=workers,
                schedules=self._schedules(connection, now),
                runs=[_run(row) for row in overview.open_progress(connection, limit=LISTED)],
                repacks=overview.repacks_by_state(connection),
                blocked_since=overview.oldest_block_at(connection),
                locks=[_lock(row) for row in overview.list_locked(connection, limit=LISTED)],
                locked=overview.locked_by_cause(connection),
                outcomes=outcomes,
                stages=overview.stage_sums(connection),
                quarantine=overview.quarantine_by_reason(connection),
                outbox=overview.outbox_sum(connection),
                poll=overview.poll_sum(connection),
                audit=last_check(connection),
                rejected_at=overview.newest_rejected_at(connection),
                lock_notice_seconds=_slowest_notice(workers),
                rate=self._rewrapped.rate(RATE_SECONDS),
                rates=self._rewrapped.points(),
                counts=counts,
                budgets=budgets,
            )

    def close(self) -> None:
        """Let go of the broker; the database is the caller's."""
        self._broker.close()

    def _outcomes(self, connection: Connection, now: float) -> Outcomes:
        """Over all repacks ever. What ended a while ago does not change: it is summed up once."""
        upto = now - SETTLED_SECONDS
        if upto > self._settled_upto:
            self._settled += overview.ended_outcomes(connection, after=self._settled_upto, upto=upto)
            self._settled_upto = upto
        late = overview.ended_outcomes(connection, after=self._settled_upto, upto=now + SETTLED_SECONDS)
        return self._settled + late + overview.quarantined_outcomes(connection) + overview.open_outcomes(connection)

    def _queues(
        self,
        broker: BrokerCounts,
        counts: Mapping[Key, float],
        workers: Sequence[WorkerView],
        canaries: Mapping[str, Canary],
        now: float,
    ) -> list[QueueView]:
        views = []
        for name in QUEUES:
            count, canary = broker.queues.get(name, QueueCount()), canaries.get(name)
            taken = counts.get((MESSAGES_TAKEN, (name,)), 0.0)
            self._taken[name].add(now, taken)
            if count.depth is not None:  # what came in: what was taken, and what lies there
                self._entered[name].add(now, taken + count.depth)
            served = sum(name in worker.seen.queues and not worker.is_silent for worker in workers)
            views.append(
                QueueView(
                    name=name,
                    depth=count.depth,
                    unacknowledged=count.unacknowledged,
                    oldest_seconds=count.oldest_seconds,
                    consumers=served if count.consumers is None else count.consumers,
                    taken=taken,
                    rate_in=self._entered[name].rate(RATE_SECONDS),
                    rate_out=self._taken[name].rate(RATE_SECONDS),
                    canary_seconds=None if canary is None else max(0.0, now - canary.arrived_at),
                    canary_wait_seconds=None if canary is None else canary.wait_seconds,
                )
            )
        return views

    def _schedules(self, connection: Connection, now: float) -> list[ScheduleView]:
        settings = self._settings
        every = {SWEEP: settings.sweep_seconds, POLL: settings.poll_tick, VERIFY_AUDIT: settings.audit_verify_seconds}
        ticks = {tick.job: tick for tick in overview.last_ticks(connection)}
        return [_schedule(job, seconds, ticks.get(job), now) for job, seconds in every.items()]


def _schedule(job: str, seconds: float, tick: overview.Tick | None, now: float) -> ScheduleView:
    if tick is None:
        return ScheduleView(
            job=job, every_seconds=seconds, last_at=None, next_at=None, drift_seconds=None, overdue_seconds=None
        )
    return ScheduleView(
        job=job,
        every_seconds=seconds,
        last_at=tick.at,
        next_at=tick.at + seconds,
        drift_seconds=None if tick.before_at is None else tick.at - tick.before_at - seconds,
        overdue_seconds=max(0.0, now - tick.at - seconds),
    )


def _worker(seen: WorkerSeen, now: float) -> WorkerView:
    return WorkerView(seen=seen, is_silent=now - seen.seen_at > SILENT_SECONDS)


def _slowest_notice(workers: Sequence[WorkerView]) -> float | None:
    """Rows of workers that are not heard of any more are kept for an hour, and so are theirs."""
    return max(
        (seconds for worker in workers if (seconds := worker.seen.lock_notice_seconds) is not None), default=None
    )


def _run(row: Mapping[str, Any]) -> RunView:
    seconds = row["now"] - row["started_at"] if row["started_at"] is not None else 0.0
    expected, seen, state = int(row["expected"]), int(row["seen"]), RepackState(row["state"])
    rate = seen / seconds if seconds > 0 and seen and state in RUNNING else None
    return RunView(
        repack_id=row["repack_id"],
        environment_id=row["environment_id"],
        environment=f"{row['workspace']}/{row['name']}",
        mode=row["mode"],
        state=state,
        stage=Stage(row["stage"]),
        level=row["level"],
        levels=row["levels"],
        expected=max(expected, seen),
        seen=seen,
        shards=row["shards"],
        shards_done=row["shards_done"],
        seconds=row["now"] - row["created_at"],
        rate=rate,
        seconds_left=max(expected - seen, 0) / rate if rate else None,
        block_side=row["block_side"],
        block_cause=row["block_cause"],
        blocked_at=row["blocked_at"],
    )


def _lock(row: Mapping[str, Any]) -> LockView:
    return LockView(
        environment_id=row["environment_id"],
        environment=f"{row['workspace']}/{row['name']}",
        cause=row["lock_cause"],
        detail=row["lock_detail"] or "",
        since=row["locked_at"],
    )
