"""Sums for the pages and the metrics. From shards, repacks and small tables alone: none of these reads a key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import ColumnElement, Connection, TextClause, case, func, select, text

from schemas.keys import TopState
from schemas.states import RepackState, Stage
from workers.store.models import (
    environments,
    main_keys,
    outbox,
    quarantine,
    rejected_events,
    repacks,
    shards,
    ticks,
    top_versions,
)
from workers.store.shards import CLOSED, DONE, LEASED, PENDING
from workers.store.types import db_now


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Keys by what became of them (R9), and what it took."""

    rewrapped: int = 0
    already_current: int = 0
    quarantined: int = 0
    minted: int = 0
    shredded: int = 0
    batches: int = 0
    takeovers: int = 0

    def __add__(self, other: Outcomes) -> Outcomes:
        return Outcomes(**{name: getattr(self, name) + getattr(other, name) for name in _OUTCOMES})


_OUTCOMES = tuple(field.name for field in fields(Outcomes))


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSum:
    """All open repacks' shards of one stage and level."""

    stage: Stage
    level: int
    remaining: int  # keys that are planned and not seen yet
    shards: Mapping[str, int]  # by state


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxSum:
    """What waits to be published. `oldest_at` None: nothing does."""

    waiting: int
    oldest_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PollSum:
    """The polls of main keys. `most_overdue_at`: when the poll was due that has waited longest."""

    keys: int
    by_cause: Mapping[str, int]  # of keys that cannot be used, or gave no answer
    most_overdue_at: float | None
    last_looked_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """The last two times at which a job ran."""

    job: str
    at: float
    before_at: float | None


def open_outcomes(connection: Connection) -> Outcomes:
    """Sum up the repacks that have not ended."""
    return _outcomes(connection, repacks.c.ended_at.is_(None))


def ended_outcomes(connection: Connection, *, after: float, upto: float) -> Outcomes:
    """Sum up the repacks that ended in (after, upto] and stay ended: those with quarantined keys may be tried again."""
    return _outcomes(
        connection,
        repacks.c.ended_at > after,
        repacks.c.ended_at <= upto,
        repacks.c.state != RepackState.FINISHED_WITH_QUARANTINE,
    )


def quarantined_outcomes(connection: Connection) -> Outcomes:
    """Sum up the repacks that ended with keys set aside: few."""
    return _outcomes(connection, text("repacks.state = 'finished_with_quarantine'"))  # the very words of its index


def _outcomes(connection: Connection, *conditions: ColumnElement[bool] | TextClause) -> Outcomes:
    sums = [func.coalesce(func.sum(shards.c[name]), 0).label(name) for name in _OUTCOMES]
    query = select(*sums).select_from(repacks).join(shards, shards.c.repack == repacks.c.id).where(*conditions)
    row = connection.execute(query).mappings().one()
    return Outcomes(**{name: int(value) for name, value in row.items()})


def stage_sums(connection: Connection) -> list[StageSum]:
    """Sum up all open repacks together, by stage and level."""
    columns = shards.c
    left = func.sum(case((columns.expected > columns.seen, columns.expected - columns.seen), else_=0))
    is_unwalked = columns.state.in_([PENDING, LEASED]) & (columns.stage != Stage.SHRED)
    query = (
        select(
            columns.stage,
            columns.level,
            func.coalesce(left.filter(is_unwalked), 0).label("remaining"),
            *(func.count().filter(columns.state == state).label(state) for state in SHARD_STATES),
        )
        .select_from(repacks)
        .join(shards, shards.c.repack == repacks.c.id)
        .where(repacks.c.ended_at.is_(None))
        .group_by(columns.stage, columns.level)
        .order_by(columns.stage, columns.level)
    )
    return [
        StageSum(
            stage=Stage(row["stage"]),
            level=row["level"],
            remaining=int(row["remaining"]),
            shards={state: row[state] for state in SHARD_STATES},
        )
        for row in connection.execute(query).mappings()
    ]


SHARD_STATES = (PENDING, LEASED, DONE, CLOSED)


def repacks_by_state(connection: Connection) -> dict[str, int]:
    """Open repacks."""
    return _counted(connection, repacks.c.state, repacks.c.ended_at.is_(None))


def quarantine_by_reason(connection: Connection) -> dict[str, int]:
    """Keys that are set aside now."""
    return _counted(connection, quarantine.c.reason, quarantine.c.open)


def locked_by_cause(connection: Connection) -> dict[str, int]:
    """Environments that are locked."""
    return _counted(connection, environments.c.lock_cause, environments.c.lock_cause.is_not(None))


def count_environments(connection: Connection) -> int:
    """Count all environments."""
    return int(connection.execute(select(func.count()).select_from(environments)).scalar_one())


def outbox_sum(connection: Connection) -> OutboxSum:
    """Sum up what waits to be published."""
    query = select(func.count(), func.min(outbox.c.created_at)).where(outbox.c.published_at.is_(None))
    waiting, oldest = connection.execute(query).one()
    return OutboxSum(waiting=int(waiting), oldest_at=oldest)


def poll_sum(connection: Connection) -> PollSum:
    """Sum up the polls of main keys. A key that no environment uses any more is left out of what is overdue."""
    live = [TopState.ACTIVE, TopState.DRAINING]
    used = select(top_versions.c.main_key).where(top_versions.c.state.in_(live)).distinct()
    in_use = main_keys.c.uri.in_(used)
    query = select(func.count(), func.min(main_keys.c.next_look_at), func.max(main_keys.c.last_looked_at))
    keys, due, looked = connection.execute(query.where(in_use)).one()
    by_cause = _counted(connection, main_keys.c.cause, main_keys.c.cause.is_not(None), in_use)
    return PollSum(keys=int(keys), by_cause=by_cause, most_overdue_at=due, last_looked_at=looked)


def newest_rejected_at(connection: Connection) -> float | None:
    """Return when the last event was refused."""
    query = select(rejected_events.c.rejected_at).order_by(rejected_events.c.id.desc()).limit(1)
    return connection.execute(query).scalar_one_or_none()


def last_ticks(connection: Connection) -> list[Tick]:
    """Return the last ticks, by job."""
    found = []
    for job in connection.execute(select(ticks.c.job).distinct().order_by(ticks.c.job)).scalars():
        query = select(ticks.c.at).where(ticks.c.job == job).order_by(ticks.c.slot.desc()).limit(2)
        at, *before = connection.execute(query).scalars()
        found.append(Tick(job=job, at=at, before_at=before[0] if before else None))
    return found


def oldest_block_at(connection: Connection) -> float | None:
    """Since when the repack is blocked that has been so longest."""
    query = select(func.min(repacks.c.blocked_at)).where(repacks.c.state == RepackState.BLOCKED)
    return connection.execute(query.where(repacks.c.ended_at.is_(None))).scalar_one_or_none()


def open_progress(connection: Connection, *, limit: int) -> list[Mapping[str, Any]]:
    """List the newest open repacks, each with the sums of its shards in the stage and level it is at."""
    at_work = (shards.c.repack == repacks.c.id) & (shards.c.stage == repacks.c.stage)
    at_work &= shards.c.level == repacks.c.level
    sums = [
        func.coalesce(func.sum(shards.c[name]), 0).label(name)
        for name in ("expected", "seen", "rewrapped", "kms_calls")
    ]
    newest = select(repacks.c.id).where(repacks.c.ended_at.is_(None)).order_by(repacks.c.id.desc()).limit(limit)
    query = (
        select(
            *(repacks.c[name] for name in _RUN),
            environments.c.environment_id,
            environments.c.workspace,
            environments.c.name,
            *sums,
            func.count(shards.c.id).label("shards"),
            func.count(shards.c.id).filter(shards.c.state.in_([DONE, CLOSED])).label("shards_done"),
            func.min(shards.c.started_at).label("started_at"),
            db_now().label("now"),
        )
        .select_from(repacks)
        .join(environments, environments.c.id == repacks.c.environment)
        .outerjoin(shards, at_work)
        .where(repacks.c.id.in_(newest))
        .group_by(
            *(repacks.c[name] for name in _RUN),
            environments.c.environment_id,
            environments.c.workspace,
            environments.c.name,
        )
        .order_by(repacks.c.id.desc())
    )
    return [dict(row) for row in connection.execute(query).mappings()]


_RUN = (
    "id",
    "repack_id",
    "mode",
    "state",
    "stage",
    "level",
    "levels",
    "block_side",
    "block_cause",
    "blocked_at",
    "created_at",
)


def list_locked(connection: Connection, *, limit: int) -> list[Mapping[str, Any]]:
    """Locked environments, the newest lock first."""
    names = ("environment_id", "workspace", "name", "lock_cause", "lock_detail", "locked_at")
    query = select(*(environments.c[name] for name in names)).where(environments.c.lock_cause.is_not(None))
    query = query.order_by(environments.c.locked_at.desc()).limit(limit)
    return [dict(row) for row in connection.execute(query).mappings()]


def _counted(connection: Connection, column: ColumnElement[Any], *conditions: ColumnElement[bool]) -> dict[str, int]:
    query = select(column, func.count()).where(*conditions).group_by(column).order_by(column)
    return {str(value): int(count) for value, count in connection.execute(query)}
