"""Shards: ranges of a stage's keys, the leases on them, and the checkpoints that commit with the work (R4)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from sqlalchemy import Connection, Float, Row, bindparam, func, insert, or_, select, update

from schemas.keys import KeyKind
from schemas.ranges import Cursor, Range
from schemas.states import Stage
from workers.errors import LeaseLost
from workers.store.models import checkpoints, environments, repacks, shards
from workers.store.types import db_now

PENDING, LEASED, DONE, CLOSED = "pending", "leased", "done", "closed"
"""A shard waits, is walked, has been walked, or was closed because its repack aborted or stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A shard under this process's lease."""

    id: int
    repack: int
    stage: Stage
    level: int
    kind: KeyKind
    cursor: Cursor
    upto: Cursor
    token: int


@dataclass(slots=True, kw_only=True)
class Tally:
    """What a batch did (R9: seen = rewrapped + already_current + quarantined)."""

    seen: int = 0
    rewrapped: int = 0
    already_current: int = 0
    quarantined: int = 0
    minted: int = 0
    shredded: int = 0
    kms_calls: int = 0

    def add(self, other: Tally) -> None:
        """Sum up."""
        for field in fields(Tally):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The sums of a stage's shards at a level."""

    stage: Stage
    level: int
    shards: int
    done: int
    leased: int
    expected: int
    seen: int
    rewrapped: int
    already_current: int
    quarantined: int
    minted: int
    shredded: int
    kms_calls: int
    batches: int
    takeovers: int
    started_at: float | None
    checkpointed_at: float | None
    finished_at: float | None


COUNTS = tuple(field.name for field in fields(Tally))

# Made once: each batch executes these, and to build a statement costs as much as to execute it.

_CHECKPOINT = (
    update(shards)
    .where(shards.c.id == bindparam("shard"), shards.c.token == bindparam("held"), shards.c.state == LEASED)
    .values(
        {
            "cursor_parent": bindparam("parent"),
            "cursor_key": bindparam("key"),
            "batches": shards.c.batches + 1,
            "lease_until": db_now() + bindparam("lease", type_=Float),
            "checkpointed_at": db_now(),
            **{name: shards.c[name] + bindparam(f"more_{name}") for name in COUNTS},
        }
    )
    .returning(shards.c.id)
)
_CHECKPOINT_LAST = _CHECKPOINT.values({"state": DONE, "lease_until": None, "finished_at": db_now()})

_WRITE_DOWN = insert(checkpoints).values(
    epoch=select(environments.c.epoch)
    .join(repacks, repacks.c.environment == environments.c.id)
    .where(repacks.c.id == bindparam("of_repack"))
    .scalar_subquery(),
    at=db_now(),
)


def plan_shards(connection: Connection, repack: int, stage: Stage, level: int, ranges: list[Range]) -> None:
    """Write the plan of a stage at a level."""
    rows = [
        {
            "repack": repack,
            "stage": stage,
            "level": level,
            "kind": part.kind,
            "expected": part.expected,
            "after_parent": part.after[0],
            "after_key": part.after[1],
            "upto_parent": part.upto[0],
            "upto_key": part.upto[1],
            "cursor_parent": part.after[0],
            "cursor_key": part.after[1],
            "state": PENDING,
        }
        for part in ranges
    ]
    if rows:
        connection.execute(insert(shards), rows)


def claim_shard(connection: Connection, repack: int, *, owner: str, lease_seconds: float) -> Shard | None:
    """Lease a shard that waits, or whose lease has run out; by the database's clock. None if there is none.

    Two workers never get the same one: rows that another one is claiming are skipped.
    """
    columns = shards.c
    free = or_(columns.state == PENDING, (columns.state == LEASED) & (columns.lease_until < db_now()))
    pick = select(columns.id, columns.state).where(columns.repack == repack, free).order_by(columns.id).limit(1)
    found = connection.execute(pick.with_for_update(skip_locked=True)).first()
    if found is None:
        return None
    claim = (
        update(shards)
        .where(columns.id == found.id)
        .values(
            state=LEASED,
            owner=owner,
            token=columns.token + 1,
            lease_until=db_now() + lease_seconds,
            takeovers=columns.takeovers + (1 if found.state == LEASED else 0),
            started_at=func.coalesce(columns.started_at, db_now()),
        )
        .returning(shards)
    )
    shard = _shard(connection.execute(claim).one())
    _write_down(connection, shard, claimed=True)
    return shard


def checkpoint(
    connection: Connection, shard: Shard, *, cursor: Cursor, tally: Tally, done: bool, lease_seconds: float
) -> Shard:
    """Commit cursor and counts with the batch (R4), and renew the lease, or end the shard where it is `done`.

    Raises LeaseLost where the token has moved on.
    """
    given = {f"more_{name}": getattr(tally, name) for name in COUNTS}
    given |= {"shard": shard.id, "held": shard.token, "lease": lease_seconds, "parent": cursor[0], "key": cursor[1]}
    if connection.execute(_CHECKPOINT_LAST if done else _CHECKPOINT, given).first() is None:
        raise LeaseLost(shard=shard.id, why="Its lease ran out, or it was closed.")
    shard = replace(shard, cursor=cursor)
    _write_down(connection, shard, claimed=False, seen=tally.seen, rewrapped=tally.rewrapped)
    return shard


def _write_down(connection: Connection, shard: Shard, *, claimed: bool, seen: int = 0, rewrapped: int = 0) -> None:
    """Write one row of a shard's history. The shard's row is locked, so the order of rows is the order of commits."""
    given = {"shard": shard.id, "token": shard.token, "claimed": claimed, "seen": seen, "rewrapped": rewrapped}
    given |= {"cursor_parent": shard.cursor[0], "cursor_key": shard.cursor[1], "of_repack": shard.repack}
    connection.execute(_WRITE_DOWN, given)


def release_shard(connection: Connection, shard: Shard) -> None:
    """Give an unfinished shard back for another worker to go on. A lost lease is left alone."""
    columns = shards.c
    connection.execute(
        update(shards)
        .where(columns.id == shard.id, columns.token == shard.token, columns.state == LEASED)
        .values(state=PENDING, lease_until=None)
    )


def close_shards(connection: Connection, repack: int) -> None:
    """Take every unfinished shard out of work: the next checkpoint of a worker that walks one fails."""
    columns = shards.c
    statement = update(shards).where(columns.repack == repack, columns.state.in_([PENDING, LEASED]))
    connection.execute(statement.values(state=CLOSED, token=columns.token + 1, lease_until=None, finished_at=db_now()))


def count_unfinished(connection: Connection, repack: int) -> tuple[int, int]:
    """(shards not walked to their end, those of them that can be claimed now)."""
    columns = shards.c
    free = or_(columns.state == PENDING, columns.lease_until < db_now())
    query = select(func.count(), func.count().filter(free))
    unfinished, claimable = connection.execute(
        query.where(columns.repack == repack, columns.state.in_([PENDING, LEASED]))
    ).one()
    return int(unfinished), int(claimable)


def progress(connection: Connection, repack: int) -> list[Progress]:
    """Sum up shards by stage and level, in the order in which they were planned."""
    columns = shards.c
    sums = [
        func.sum(columns[name]).label(name)
        for name in (
            "expected",
            "seen",
            "rewrapped",
            "already_current",
            "quarantined",
            "minted",
            "shredded",
            "kms_calls",
            "batches",
            "takeovers",
        )
    ]
    query = (
        select(
            columns.stage,
            columns.level,
            func.count().label("shards"),
            func.count().filter(columns.state.in_([DONE, CLOSED])).label("done"),
            func.count().filter(columns.state == LEASED).label("leased"),
            *sums,
            func.min(columns.started_at).label("started_at"),
            func.max(columns.checkpointed_at).label("checkpointed_at"),
            func.max(columns.finished_at).label("finished_at"),
        )
        .where(columns.repack == repack)
        .group_by(columns.stage, columns.level)
        .order_by(func.min(columns.id))
    )
    return [_progress(row) for row in connection.execute(query)]


def totals(connection: Connection, repack: int) -> Tally:
    """Sum up all shards of a repack (R9)."""
    sums = [func.coalesce(func.sum(shards.c[field.name]), 0).label(field.name) for field in fields(Tally)]
    row = connection.execute(select(*sums).where(shards.c.repack == repack)).mappings().one()
    return Tally(**{name: int(value) for name, value in row.items()})


def list_shards(connection: Connection, repack: int) -> list[dict[str, Any]]:
    """List every shard of a repack as stored."""
    return [
        dict(row)
        for row in connection.execute(select(shards).where(shards.c.repack == repack).order_by(shards.c.id)).mappings()
    ]


def _shard(row: Row[Any]) -> Shard:
    return Shard(
        id=row.id,
        repack=row.repack,
        stage=Stage(row.stage),
        level=row.level,
        kind=KeyKind(row.kind),
        cursor=(row.cursor_parent, row.cursor_key),
        upto=(row.upto_parent, row.upto_key),
        token=row.token,
    )


def _progress(row: Row[Any]) -> Progress:
    values = dict(row._mapping)
    times = ("stage", "started_at", "checkpointed_at", "finished_at")
    counts = {name: int(value or 0) for name, value in values.items() if name not in times}
    return Progress(**counts, stage=Stage(values["stage"]), **{name: values[name] for name in times[1:]})
