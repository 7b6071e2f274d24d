"""Turns: which repack a free worker takes up. The one that has waited longest is next, however large the others are."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, Select, exists, func, or_, select, update

from schemas.states import RUNNING, Mode, RepackState, Stage
from workers.store.models import environments, repacks, shards
from workers.store.shards import LEASED, PENDING
from workers.store.types import db_now


def take_turn(connection: Connection) -> int | None:
    """Claim the repack that has waited longest. None if none waits.

    Two workers never get the same one at once: rows that another one is taking are skipped.
    """
    pick = _waiting().limit(1).with_for_update(of=repacks, key_share=True, skip_locked=True)
    found = connection.execute(pick).scalar_one_or_none()
    if found is not None:
        connection.execute(update(repacks).where(repacks.c.id == found).values(turn_at=db_now()))
    return found


def do_others_wait(connection: Connection, repack: int) -> bool:
    """Return True if another repack has work that no worker does."""
    return connection.execute(_waiting().where(repacks.c.id != repack).limit(1)).first() is not None


def list_waiting(connection: Connection, *, limit: int) -> list[tuple[int, int]]:
    """List (repack, workers that it has work for), the one that has waited longest first."""
    columns = shards.c
    is_free = columns.state.in_([PENDING, LEASED]) & _is_free()
    free = select(func.count()).where(columns.repack == repacks.c.id, is_free).scalar_subquery()
    rows = connection.execute(_waiting().add_columns(free, _has_shards(_is_leased())).limit(limit))
    # Where a worker walks, one more makes up for a worker that died.
    return [(row, 1 if is_walked else max(1, shards_free)) for row, shards_free, is_walked in rows]


def _waiting() -> Select[int]:
    """Select repacks that a worker can do something for, in the order in which they have waited."""
    columns = repacks.c
    # With every shard walked, what is to be done is the next stage.
    has_work = or_(_has_shards(_is_free()), ~_has_shards(shards.c.state.in_([PENDING, LEASED])))
    is_due = or_(columns.probe_at.is_(None), columns.probe_at <= db_now())
    return (
        select(columns.id)
        .join(environments, environments.c.id == columns.environment)
        .where(
            environments.c.lock_cause.is_(None),
            # In a word of a newer release: left to a worker that knows it.
            columns.mode.in_(list(Mode)),
            columns.stage.in_(list(Stage)),
            or_(columns.state.in_(RUNNING) & has_work, (columns.state == RepackState.BLOCKED) & is_due),
        )
        .order_by(func.coalesce(columns.turn_at, columns.created_at), columns.id)
    )


def _has_shards(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(shards.c.repack == repacks.c.id, condition)


def _is_free() -> ColumnElement[bool]:
    return or_(shards.c.state == PENDING, (shards.c.state == LEASED) & (shards.c.lease_until < db_now()))


def _is_leased() -> ColumnElement[bool]:
    return (shards.c.state == LEASED) & (shards.c.lease_until >= db_now())
