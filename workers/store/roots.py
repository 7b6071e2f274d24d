"""Roots as a move sees them: every version of a root, where its wrap is, and whether it has the new one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Select, func, literal, select, update

from schemas.keys import KeyKind, VersionState
from workers.store.keys import StoredRootWrap, load_root_wraps
from workers.store.models import data_keys, quarantine, root_wraps, wrapping_keys, wrapping_versions


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """One version of one root. A data key has the one version 0."""

    kind: KeyKind
    key: int
    key_id: UUID
    version: int
    parent_version: int
    fingerprint: bytes
    wraps: tuple[StoredRootWrap, ...]

    def source_for(self, top_version: int) -> StoredRootWrap | None:
        """Return the newest wrap from before `top_version`."""
        older = [wrap for wrap in self.wraps if wrap.top_version < top_version]
        return max(older, key=lambda wrap: wrap.top_version, default=None)

    def is_under(self, top_version: int) -> bool:
        """Return True if the root has its wrap under `top_version`."""
        return any(wrap.top_version == top_version for wrap in self.wraps)


def root_page(
    connection: Connection, environment: int, kind: KeyKind, *, after: int, upto: int, limit: int
) -> list[Root]:
    """Read the roots with `after` < row <= `upto`, all unshredded versions of each, in order."""
    if kind == KeyKind.WRAPPING:
        ids = _wrapping_roots(environment).where(wrapping_keys.c.id > after, wrapping_keys.c.id <= upto)
        page = ids.order_by(wrapping_keys.c.id).limit(limit)
        query = _WRAPPING.where(wrapping_keys.c.id.in_(page)).order_by(wrapping_keys.c.id, wrapping_versions.c.version)
    else:
        columns = data_keys.c
        query = _DATA.where(columns.environment == environment, columns.level == 1, columns.parent.is_(None))
        query = query.where(columns.id > after, columns.id <= upto).order_by(columns.id).limit(limit)
    rows = connection.execute(query).mappings().all()
    wraps = load_root_wraps(connection, kind, [row["key"] for row in rows])
    return [Root(kind=kind, wraps=tuple(wraps.get((row["key"], row["version"]), ())), **row) for row in rows]


def sample_wrap(connection: Connection, environment: int, top_version: int) -> tuple[UUID, bytes] | None:
    """Return the id of a root and its wrap under a top version; None without any."""
    for kind, table in ((KeyKind.WRAPPING, wrapping_keys), (KeyKind.DATA, data_keys)):
        wraps = root_wraps.c
        query = (
            select(table.c.key_id, wraps.wrapped)
            .join(root_wraps, (wraps.kind == kind) & (wraps.key == table.c.id))
            .where(wraps.environment == environment, wraps.top_version == top_version)
            .limit(1)
        )
        row = connection.execute(query).first()
        if row is not None:
            return row.key_id, row.wrapped
    return None


def count_unmoved(connection: Connection, environment: int, top_version: int) -> tuple[int, int]:
    """Versions of roots without a wrap under `top_version`: (all of them, those of them in quarantine)."""
    missing = quarantined = 0
    for query in (
        _unmoved(
            KeyKind.WRAPPING, _WRAPPING, wrapping_keys.c.id, wrapping_versions.c.version, environment, top_version
        ),
        _unmoved(KeyKind.DATA, _DATA, data_keys.c.id, literal(0), environment, top_version),
    ):
        total, held = connection.execute(query).one()
        missing, quarantined = missing + int(total), quarantined + int(held)
    return missing, quarantined


def _unmoved(kind: KeyKind, base: Select[Any], key: Any, version: Any, environment: int, top: int) -> Select[Any, Any]:
    wraps, held = root_wraps.c, quarantine.c
    table = wrapping_keys if kind == KeyKind.WRAPPING else data_keys
    has_wrap = select(1).where(
        wraps.kind == kind, wraps.key == key, wraps.key_version == version, wraps.top_version == top
    )
    is_held = select(1).where(held.kind == kind, held.key == key, held.key_version == version, held.open)
    inner = (
        base.add_columns(is_held.exists().label("held"))
        .where(table.c.environment == environment, table.c.level == 1, table.c.parent.is_(None), ~has_wrap.exists())
        .subquery()
    )
    return select(func.count(), func.count().filter(inner.c.held))


def swap_parent_versions(connection: Connection, roots: Sequence[Root], top_version: int) -> None:
    """Write that moved roots are wrapped under `top_version` now; one under a newer version is left (R2)."""
    versions = wrapping_versions.c
    own: ColumnElement[bool]
    for root in roots:
        if root.kind == KeyKind.WRAPPING:
            own = (versions.wrapping_key == root.key) & (versions.version == root.version)
            statement = update(wrapping_versions).where(own, versions.parent_version == root.parent_version)
        else:
            own = data_keys.c.id == root.key
            statement = update(data_keys).where(own, data_keys.c.parent_version == root.parent_version)
        connection.execute(statement.values(parent_version=top_version))


def restore_parent_versions(connection: Connection, environment: int, *, top_version: int, former: int) -> None:
    """After an abort: write that roots under `top_version` are under `former` again."""
    roots = _wrapping_roots(environment)
    versions = wrapping_versions.c
    connection.execute(
        update(wrapping_versions)
        .where(versions.wrapping_key.in_(roots), versions.parent_version == top_version)
        .values(parent_version=former)
    )
    columns = data_keys.c
    connection.execute(
        update(data_keys)
        .where(
            columns.environment == environment,
            columns.level == 1,
            columns.parent.is_(None),
            columns.parent_version == top_version,
        )
        .values(parent_version=former)
    )


def count_roots(connection: Connection, environment: int, kind: KeyKind) -> tuple[int, int]:
    """Count the roots of a kind, and return the highest row among them (0 without any)."""
    table = wrapping_keys if kind == KeyKind.WRAPPING else data_keys
    query = select(func.count(), func.max(table.c.id)).where(
        table.c.environment == environment, table.c.level == 1, table.c.parent.is_(None)
    )
    count, last = connection.execute(query).one()
    return int(count), int(last or 0)


def root_boundaries(connection: Connection, environment: int, kind: KeyKind, *, step: int) -> list[int]:
    """List every `step`-th root's row, in order: where a move is cut into shards."""
    table = wrapping_keys if kind == KeyKind.WRAPPING else data_keys
    boundaries: list[int] = []
    after = 0
    while True:
        query = (
            select(table.c.id)
            .where(table.c.environment == environment, table.c.level == 1, table.c.parent.is_(None), table.c.id > after)
            .order_by(table.c.id)
            .offset(step - 1)
            .limit(1)
        )
        found = connection.execute(query).scalar_one_or_none()
        if found is None:
            return boundaries
        boundaries.append(after := int(found))


def _wrapping_roots(environment: int) -> Select[tuple[int]]:
    columns = wrapping_keys.c
    return select(columns.id).where(columns.environment == environment, columns.level == 1, columns.parent.is_(None))


_WRAPPING = (
    select(
        wrapping_keys.c.id.label("key"),
        wrapping_keys.c.key_id,
        wrapping_versions.c.version,
        wrapping_versions.c.parent_version,
        wrapping_versions.c.fingerprint,
    )
    .join_from(wrapping_keys, wrapping_versions)
    .where(wrapping_versions.c.state != VersionState.SHREDDED)
)
_DATA = select(
    data_keys.c.id.label("key"),
    data_keys.c.key_id,
    literal(0).label("version"),
    data_keys.c.parent_version,
    data_keys.c.fingerprint,
)
