"""Orphans: keys whose parent version is missing. Empty unless the database was restored or damaged."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, func, or_, select

from schemas.keys import TopState, VersionState
from workers.store.environments import LIVE
from workers.store.keys import LINK, Link, Pair, as_link
from workers.store.models import data_keys, repacks, root_wraps, top_versions, wrapping_keys, wrapping_versions
from workers.store.shards import totals

_STREAMED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedBy:
    """A top version that roots have wraps under, or the active one; and how many versions of roots those are."""

    version: int
    main_key: str
    generation: str | None
    state: TopState
    roots: int

    @property
    def is_live(self) -> bool:
        """Return True if it is in force, or a move takes roots away from it."""
        return self.state in LIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Hanging:
    """Data keys of one level that are wrapped under one version of a wrapping key. `is_there`: that version has its
    wrap.
    """

    pair: Pair
    level: int
    keys: int
    is_there: bool


def wrapped_by(connection: Connection, environment: int) -> list[WrappedBy]:
    """List the main keys that wrap an environment's roots, the active top version first, then the newest."""
    tops, wraps = top_versions.c, root_wraps.c
    count = func.count(wraps.top_version)
    query = (
        select(tops.version, tops.main_key, tops.generation, tops.state, count.label("roots"))
        .outerjoin(root_wraps, (wraps.environment == tops.environment) & (wraps.top_version == tops.version))
        .where(tops.environment == environment)
        .group_by(tops.version, tops.main_key, tops.generation, tops.state)
        .having(or_(count > 0, tops.state == TopState.ACTIVE))
    )
    found = [WrappedBy(**dict(row) | {"state": TopState(row["state"])}) for row in connection.execute(query).mappings()]
    return sorted(found, key=lambda top: (top.state != TopState.ACTIVE, -top.version))


def wrapping_versions_of(connection: Connection, environment: int, level: int, *, after: int, limit: int) -> list[Link]:
    """Read the unshredded versions of the next wrapping keys of a level, `limit` keys at a time."""
    columns = wrapping_keys.c
    keys = select(columns.id).where(columns.environment == environment, columns.level == level, columns.id > after)
    query = LINK.where(
        columns.id.in_(keys.order_by(columns.id).limit(limit)), wrapping_versions.c.state != VersionState.SHREDDED
    )
    return [as_link(row) for row in connection.execute(query.order_by(columns.id)).mappings()]


def hanging(connection: Connection, environment: int) -> Iterator[Hanging]:
    """Stream the versions that wrap data keys, roots aside."""
    columns, versions = data_keys.c, wrapping_versions.c
    groups = (
        select(columns.parent, columns.parent_version, columns.level, func.count().label("keys"))
        .where(columns.environment == environment, columns.parent.is_not(None))
        .group_by(columns.parent, columns.parent_version, columns.level)
        .subquery()
    )
    query = (
        select(groups, versions.state)
        .outerjoin(
            wrapping_versions,
            (versions.wrapping_key == groups.c.parent) & (versions.version == groups.c.parent_version),
        )
        .execution_options(yield_per=_STREAMED)
    )
    for row in connection.execute(query):
        is_there = row.state is not None and row.state != VersionState.SHREDDED
        yield Hanging(pair=(row.parent, row.parent_version), level=row.level, keys=row.keys, is_there=is_there)


def below(connection: Connection, environment: int, level: int, pairs: Collection[Pair]) -> Iterator[UUID]:
    """Stream the data keys of a level that are wrapped under these versions."""
    columns = data_keys.c
    query = select(columns.key_id, columns.parent, columns.parent_version).where(
        columns.environment == environment, columns.level == level, columns.parent.in_({key for key, _ in pairs})
    )
    for key_id, parent, version in connection.execute(query.execution_options(yield_per=_STREAMED)):
        if (parent, version) in pairs:
            yield key_id


def minted_and_told(connection: Connection, repack: int) -> tuple[int, int]:
    """Count the versions of wrapping keys that a repack minted: (by the keys' tables, by its shards' counts)."""
    versions = wrapping_versions.c
    stored = connection.execute(select(func.count()).where(versions.repack == repack)).scalar_one()
    return int(stored), totals(connection, repack).minted


def closed_repacks(connection: Connection, environment: int) -> set[UUID]:
    """List the repacks of an environment whose moves this database knows to have closed."""
    columns = repacks.c
    query = select(columns.repack_id).where(columns.environment == environment, columns.move_closed_at.is_not(None))
    return set(connection.execute(query).scalars())
