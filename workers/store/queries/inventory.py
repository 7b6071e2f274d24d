"""Questions about main keys in use, each answered for all of them by one statement; and every key of an environment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Select, and_, func, literal, select, union_all

from schemas.keys import KeyKind, TopState, VersionState
from workers.store.environments import LIVE
from workers.store.keys import MANY
from workers.store.models import (
    data_keys,
    environments,
    main_keys,
    root_wraps,
    top_versions,
    upload_params,
    uploaded_keys,
    wrapping_keys,
    wrapping_versions,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A main key as a live top of one environment."""

    main_key: str
    environment: int
    environment_id: UUID
    workspace: str
    name: str
    lock_cause: str | None
    version: int
    generation: str | None
    active: bool
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RootGroup:
    """Roots of one kind whose wraps under one live top version are of one generation. `first`: the lowest row of them.

    `stale` counts those that have no wrap under the environment's active top version, `first_stale` is their lowest.
    """

    environment: int
    kind: KeyKind
    version: int
    generation: str | None
    count: int
    first: int
    stale: int
    first_stale: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LostKey:
    """A key as a census names it. A data key has the one version 0."""

    kind: KeyKind
    level: int
    key_id: UUID
    version: int
    fingerprint: bytes = field(repr=False)


def main_keys_in_use(connection: Connection, uris: list[str] | None) -> list[Use]:
    """List every live top, by main key and environment; of these main keys alone, if given."""
    tops, columns = top_versions.c, environments.c
    query = (
        select(
            tops.main_key,
            tops.environment,
            columns.environment_id,
            columns.workspace,
            columns.name,
            columns.lock_cause,
            tops.version,
            tops.generation,
            (tops.state == TopState.ACTIVE).label("active"),
            tops.created_at,
        )
        .join_from(top_versions, environments)
        .where(tops.state.in_(LIVE))
        .order_by(tops.main_key, columns.workspace, columns.name, tops.version)
    )
    if uris is not None:
        query = query.where(tops.main_key.in_(uris))
    return [Use(**row) for row in connection.execute(query).mappings()]


def root_groups(connection: Connection, uris: list[str] | None) -> Iterator[RootGroup]:
    """Yield the roots under every live top, counted; by environment, kind, top version and generation."""
    wraps, tops = root_wraps.c, top_versions.c
    active, moved = top_versions.alias("active"), root_wraps.alias("moved")
    is_stale = and_(tops.state != TopState.ACTIVE, moved.c.key.is_(None))
    query = (
        select(
            wraps.environment,
            wraps.kind,
            tops.version,
            wraps.generation,
            func.count().label("count"),
            func.min(wraps.key).label("first"),
            func.count().filter(is_stale).label("stale"),
            func.min(wraps.key).filter(is_stale).label("first_stale"),
        )
        .join_from(
            root_wraps,
            top_versions,
            and_(tops.environment == wraps.environment, tops.version == wraps.top_version, tops.state.in_(LIVE)),
        )
        .join(active, and_(active.c.environment == wraps.environment, active.c.state == TopState.ACTIVE))
        .outerjoin(
            moved,
            and_(
                moved.c.kind == wraps.kind,
                moved.c.key == wraps.key,
                moved.c.key_version == wraps.key_version,
                moved.c.top_version == active.c.version,
                tops.state != TopState.ACTIVE,
            ),
        )
        .group_by(wraps.environment, wraps.kind, tops.version, wraps.generation)
        .order_by(wraps.environment, tops.version, wraps.kind)
    )
    if uris is not None:
        query = query.where(tops.main_key.in_(uris))
    for row in connection.execute(query).mappings():
        yield RootGroup(**dict(row) | {"kind": KeyKind(row["kind"])})


def environment_roots(connection: Connection, environment: int) -> dict[str | None, int]:
    """Count an environment's roots that have their wrap under its top in force, by generation."""
    wraps, tops = root_wraps.c, top_versions.c
    query = (
        select(wraps.generation, func.count())
        .join_from(
            root_wraps, top_versions, and_(tops.environment == wraps.environment, tops.version == wraps.top_version)
        )
        .where(wraps.environment == environment, tops.state == TopState.ACTIVE)
        .group_by(wraps.generation)
    )
    return {generation: int(count) for generation, count in connection.execute(query)}


def records_of(connection: Connection, uris: list[str]) -> dict[str, dict[str, Any]]:
    """Read what is known of these main keys, by URI."""
    found = {}
    for start in range(0, len(uris), MANY):
        query = select(main_keys).where(main_keys.c.uri.in_(uris[start : start + MANY]))
        found.update({row["uri"]: dict(row) for row in connection.execute(query).mappings()})
    return found


def key_ids(connection: Connection, kind: KeyKind, rows: list[int]) -> dict[int, UUID]:
    """Return the outer ids of keys, by row."""
    table = wrapping_keys if kind == KeyKind.WRAPPING else data_keys
    found: dict[int, UUID] = {}
    for start in range(0, len(rows), MANY):
        query = select(table.c.id, table.c.key_id).where(table.c.id.in_(rows[start : start + MANY]))
        found.update({row.id: row.key_id for row in connection.execute(query)})
    return found


def sealed_under_by_generation(connection: Connection, main_key: str) -> dict[str, Counter[str | None]]:
    """Count what the platform's own main key wraps, by generation: roots, uploaded keys, open upload parameters.

    None: from before generations were written down.
    """
    is_its = and_(
        top_versions.c.environment == root_wraps.c.environment,
        top_versions.c.version == root_wraps.c.top_version,
        top_versions.c.main_key == main_key,
    )
    queries = {
        "roots": select(root_wraps.c.generation, func.count()).join_from(root_wraps, top_versions, is_its),
        "uploaded_keys": select(uploaded_keys.c.generation, func.count()).where(uploaded_keys.c.sealed.is_not(None)),
        "upload_params": select(upload_params.c.generation, func.count()).where(
            upload_params.c.wrapped_key.is_not(None)
        ),
    }
    return {
        name: Counter({row[0]: row[1] for row in connection.execute(query.group_by(query.selected_columns[0]))})
        for name, query in queries.items()
    }


def every_key(connection: Connection, environment: int) -> Iterator[LostKey]:
    """Stream each unshredded version of every key, by kind, level and row."""
    for level in range(1, _deepest(connection, environment) + 1):
        for query in (_wrapping(environment, level), _data(environment, level)):
            for row in connection.execute(query.execution_options(yield_per=1000)).mappings():
                yield LostKey(**dict(row) | {"kind": KeyKind(row["kind"])})


def _deepest(connection: Connection, environment: int) -> int:
    levels = [
        select(func.max(table.c.level).label("level")).where(table.c.environment == environment)
        for table in (wrapping_keys, data_keys)
    ]
    return int(connection.execute(select(func.max(union_all(*levels).subquery().c.level))).scalar_one() or 0)


def _wrapping(environment: int, level: int) -> Select[Any]:
    keys, versions = wrapping_keys.c, wrapping_versions.c
    return (
        select(
            literal(KeyKind.WRAPPING.value).label("kind"),
            keys.level,
            keys.key_id,
            versions.version,
            versions.fingerprint,
        )
        .join_from(wrapping_keys, wrapping_versions)
        .where(keys.environment == environment, keys.level == level, versions.state != VersionState.SHREDDED)
        .order_by(keys.id, versions.version)
    )


def _data(environment: int, level: int) -> Select[Any]:
    keys = data_keys.c
    return (
        select(
            literal(KeyKind.DATA.value).label("kind"),
            keys.level,
            keys.key_id,
            literal(0).label("version"),
            keys.fingerprint,
        )
        .where(keys.environment == environment, keys.level == level)
        .order_by(keys.parent, keys.id)
    )
