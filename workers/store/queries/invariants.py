"""Questions that find what must not be there. Each returns the first few rows that break a rule; none is the rule kept.

Read by `invariants`. The database does the work and streams nothing here that grows with the number of keys, but the
audit and the outbox, a page at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, and_, case, func, or_, select, tuple_

from schemas.keys import TopState, VersionState
from schemas.states import ENDED, Stage
from workers.store.environments import LIVE
from workers.store.models import (
    checkpoints,
    data_keys,
    outbox,
    repacks,
    root_wraps,
    shards,
    top_versions,
    wrapping_keys,
    wrapping_versions,
)
from workers.store.shards import CLOSED, LEASED, PENDING

NAMED = 20
"""How many breaches of one invariant are named."""

_PAGE = 1000

Rows = Sequence[RowMapping]


def _first(connection: Connection, query: Select[Any]) -> Rows:
    return connection.execute(query.limit(NAMED)).mappings().all()


# Effects: once, forward, counted ------------------------------------------------------------------------------------


def minted_twice(connection: Connection, environment: int) -> Rows:
    """Find wrapping keys with two versions of one repack (key_id, repack)."""
    versions, keys = wrapping_versions.c, wrapping_keys.c
    query = select(keys.key_id, versions.repack).join_from(wrapping_versions, wrapping_keys)
    query = query.where(keys.environment == environment, versions.repack.is_not(None))
    return _first(connection, query.group_by(keys.key_id, versions.repack).having(func.count() > 1))


def newest_walks(connection: Connection, environment: int) -> Rows:
    """Shards of data keys of the newest repack that renewed, as stored."""
    columns = shards.c
    walked = (columns.stage == Stage.RENEW) & (repacks.c.environment == environment)
    newest = select(func.max(columns.repack)).join_from(shards, repacks).where(walked).scalar_subquery()
    query = select(
        columns.id, columns.level, columns.state, columns.expected, columns.seen, columns.rewrapped,
        columns.after_parent, columns.after_key, columns.cursor_parent, columns.cursor_key,
    ).where(columns.repack == newest, columns.stage == Stage.RENEW)  # fmt: skip
    return connection.execute(query.order_by(columns.id)).mappings().all()


def count_behind(connection: Connection, environment: int, shard: RowMapping) -> int:
    """Count the data keys between a shard's beginning and its cursor now."""
    columns = data_keys.c
    place = tuple_(columns.parent, columns.id)
    query = select(func.count()).where(
        columns.environment == environment,
        columns.level == shard["level"] + 1,
        place > tuple_(shard["after_parent"], shard["after_key"]),
        place <= tuple_(shard["cursor_parent"], shard["cursor_key"]),
    )
    return int(connection.execute(query).scalar_one())


def moved_too_often(connection: Connection, environment: int) -> Rows:
    """Repacks that moved more roots than there ever were versions of (repack_id, moved, there)."""
    versions, keys = wrapping_versions.c, wrapping_keys.c
    own = select(func.count()).select_from(wrapping_versions).join(wrapping_keys, keys.id == versions.wrapping_key)
    wrapping = own.where(keys.environment == environment, keys.level == 1, keys.parent.is_(None)).scalar_subquery()
    columns = data_keys.c
    data = (
        select(func.count())
        .where(columns.environment == environment, columns.level == 1, columns.parent.is_(None))
        .scalar_subquery()
    )
    moved = func.sum(shards.c.rewrapped)
    query = select(repacks.c.repack_id, moved.label("moved"), (wrapping + data).label("there"))
    query = query.join_from(shards, repacks).where(repacks.c.environment == environment, shards.c.stage == Stage.MOVE)
    return _first(connection, query.group_by(repacks.c.repack_id).having(moved > wrapping + data))


def cursors_back(connection: Connection, environment: int) -> Rows:
    """Checkpoints whose cursor lies before the one before it (shard)."""
    columns = checkpoints.c
    parent, key = (
        func.lag(column).over(partition_by=columns.shard, order_by=columns.id)
        for column in (columns.cursor_parent, columns.cursor_key)
    )
    steps = _history(environment).add_columns(parent.label("former_parent"), key.label("former_key")).subquery().c
    back = tuple_(steps.cursor_parent, steps.cursor_key) < tuple_(steps.former_parent, steps.former_key)
    return _first(connection, select(steps.shard).where(back))


def cursors_astray(connection: Connection, environment: int) -> Rows:
    """Shards whose cursor is not where their last checkpoint left it, or outside their range (shard)."""
    columns, last_one = shards.c, checkpoints.alias("last")
    last = last_one.c
    newest = select(func.max(checkpoints.c.id)).where(checkpoints.c.shard == columns.id).scalar_subquery()
    cursor = tuple_(columns.cursor_parent, columns.cursor_key)
    query = (
        select(columns.id.label("shard"))
        .join_from(shards, repacks)
        .outerjoin(last_one, last.id == newest)
        .where(
            repacks.c.environment == environment,
            or_(
                and_(last.id.is_not(None), cursor != tuple_(last.cursor_parent, last.cursor_key)),
                cursor < tuple_(columns.after_parent, columns.after_key),
                cursor > tuple_(columns.upto_parent, columns.upto_key),
            ),
        )
    )
    return _first(connection, query)


def versions_back(connection: Connection, environment: int) -> Rows:
    """Find wrapping keys whose active version is not their newest (key_id, version)."""
    versions, newer = wrapping_versions.c, wrapping_versions.alias("newer")
    query = (
        select(wrapping_keys.c.key_id, versions.version)
        .join_from(wrapping_versions, wrapping_keys)
        .where(wrapping_keys.c.environment == environment, versions.state == VersionState.ACTIVE)
        .where(
            select(1).where(newer.c.wrapping_key == versions.wrapping_key, newer.c.version > versions.version).exists()
        )
    )
    return _first(connection, query)


def uneven_shards(connection: Connection, environment: int) -> Rows:
    """Shards whose counts are not those of their keys, or of their checkpoints (shard, seen, accounted, written)."""
    columns, parts = shards.c, checkpoints.c
    accounted = columns.rewrapped + columns.already_current + columns.quarantined

    def written(column: ColumnElement[Any]) -> ColumnElement[int]:
        total = select(func.coalesce(func.sum(column), 0)).where(parts.shard == columns.id)
        return total.scalar_subquery()

    has_history = select(1).where(parts.shard == columns.id).exists()
    differs = or_(columns.seen != written(parts.seen), columns.rewrapped != written(parts.rewrapped))
    query = select(
        columns.id.label("shard"), columns.seen, accounted.label("accounted"), written(parts.seen).label("written")
    ).join_from(shards, repacks)
    query = query.where(repacks.c.environment == environment, or_(columns.seen != accounted, has_history & differs))
    return _first(connection, query)


def unfinished_shards(connection: Connection, environment: int) -> Rows:
    """Shards that wait or are leased though their repack has ended (shard, repack_id)."""
    query = select(shards.c.id.label("shard"), repacks.c.repack_id).join_from(shards, repacks)
    ended = repacks.c.environment == environment, repacks.c.state.in_(ENDED)
    return _first(connection, query.where(*ended, shards.c.state.in_([PENDING, LEASED])))


# Fences: locks and leases ---------------------------------------------------------------------------------------------


def committed_between(
    connection: Connection, environment: int, *, epochs: tuple[int, int | None], times: tuple[float, float | None]
) -> Rows:
    """Batches committed in the first of `epochs` or later and before the second, or between two times (shard)."""
    columns = checkpoints.c
    in_epoch, in_time = columns.epoch >= epochs[0], columns.at > times[0]
    if epochs[1] is not None and times[1] is not None:
        in_epoch, in_time = in_epoch & (columns.epoch < epochs[1]), in_time & (columns.at < times[1])
    query = _history(environment).where(~columns.claimed, or_(in_epoch, in_time))
    return _first(connection, query)


def committed_late(connection: Connection, environment: int) -> Rows:
    """Batches committed under a lease that another claim, or the shard's closing, had ended (shard, token)."""
    columns = checkpoints.c
    own_claim = case((columns.claimed, columns.token))
    claim, granted = (
        func.max(column).over(partition_by=columns.shard, order_by=columns.id) for column in (own_claim, columns.token)
    )
    steps = _history(environment).add_columns(
        columns.token, columns.claimed, columns.at, claim.label("claim"), granted.label("granted"),
        shards.c.state, shards.c.finished_at,
    ).subquery().c  # fmt: skip
    overtaken = or_(steps.token < steps.granted, ~steps.claimed & (steps.token != steps.claim))
    closed = (steps.state == CLOSED) & (steps.at > steps.finished_at)
    return _first(connection, select(steps.shard, steps.token).where(or_(overtaken, closed)))


# The end of a repack -------------------------------------------------------------------------------------------------


def newest_repack(connection: Connection, environment: int) -> RowMapping | None:
    """Read the environment's newest repack as stored."""
    query = select(repacks).where(repacks.c.environment == environment).order_by(repacks.c.id.desc()).limit(1)
    return connection.execute(query).mappings().first()


def hanging_below(connection: Connection, environment: int, repack: int) -> Rows:
    """Find data keys under an older version than the one that a repack minted of their parent (key_id)."""
    versions, columns = wrapping_versions.c, data_keys.c
    query = select(columns.key_id).join_from(data_keys, wrapping_versions, versions.wrapping_key == columns.parent)
    stale = columns.environment == environment, versions.repack == repack, columns.parent_version < versions.version
    return _first(connection, query.where(*stale))


def left_versions(connection: Connection, environment: int, repack: int) -> Rows:
    """Versions older than the one a repack minted that are not shredded, and keys it minted none of (key_id)."""
    versions, newer = wrapping_versions.c, wrapping_versions.alias("minted")
    minted = newer.c
    query = select(wrapping_keys.c.key_id, versions.version).join_from(wrapping_versions, wrapping_keys)
    query = query.join(newer, minted.wrapping_key == versions.wrapping_key)
    older = minted.repack == repack, versions.version < minted.version, versions.state != VersionState.SHREDDED
    return _first(connection, query.where(wrapping_keys.c.environment == environment, *older))


def misplaced_root_wraps(connection: Connection, environment: int) -> Rows:
    """Find wraps of roots under a top version that is not live (kind, key, top_version)."""
    wraps, tops = root_wraps.c, top_versions.c
    is_live = select(1).where(tops.environment == wraps.environment, tops.version == wraps.top_version)
    query = select(wraps.kind, wraps.key, wraps.top_version).where(wraps.environment == environment)
    return _first(connection, query.where(~is_live.where(tops.state.in_(LIVE)).exists()))


def unmoved_roots(connection: Connection, environment: int) -> Rows:
    """Roots' versions without a wrap under the active top version (key_id)."""
    wraps, tops, keys, versions = root_wraps.c, top_versions.c, wrapping_keys.c, wrapping_versions.c
    active = select(tops.version).where(tops.environment == environment, tops.state == TopState.ACTIVE)
    under = wraps.top_version == active.scalar_subquery()
    has = select(1).where(wraps.kind == "wrapping", wraps.key == keys.id, wraps.key_version == versions.version, under)
    wrapping = select(keys.key_id).join_from(wrapping_versions, wrapping_keys).where(
        keys.environment == environment, keys.parent.is_(None), versions.state != VersionState.SHREDDED, ~has.exists()
    )  # fmt: skip
    columns = data_keys.c
    own = select(1).where(wraps.kind == "data", wraps.key == columns.id, under)
    data = select(columns.key_id).where(
        columns.environment == environment, columns.level == 1, columns.parent.is_(None), ~own.exists()
    )
    return [*_first(connection, wrapping), *_first(connection, data)][:NAMED]


def list_states(connection: Connection, environment: int) -> Rows:
    """List every repack of an environment with its state, oldest first (id, repack_id, state)."""
    columns = repacks.c
    query = select(columns.id, columns.repack_id, columns.state, columns.mode).where(columns.environment == environment)
    return connection.execute(query.order_by(columns.id)).mappings().all()


# What was recorded---------------------------------------------------------------------------------------------------


def told(connection: Connection) -> Iterator[RowMapping]:
    """Yield the outbox in order, a page at a time (id, type, body)."""
    after = 0
    while True:
        query = select(outbox.c.id, outbox.c.type, outbox.c.body).where(outbox.c.id > after).order_by(outbox.c.id)
        page = connection.execute(query.limit(_PAGE)).mappings().all()
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1]["id"]


def _history(environment: int) -> Select[Any]:
    """Select the claims and checkpoints of an environment's shards."""
    columns = checkpoints.c
    query = select(columns.shard, columns.cursor_parent, columns.cursor_key)
    joined = query.join_from(checkpoints, shards).join(repacks, repacks.c.id == shards.c.repack)
    return joined.where(repacks.c.environment == environment)
