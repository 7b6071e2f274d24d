"""Rows of the hierarchy: keys, their versions, their roots' wraps. The fast pages of the walk are in `pages`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from schemas.keys import KeyKind, TopState, VersionState
from workers.errors import NotFound
from workers.store.models import data_keys, root_wraps, top_versions, wrapping_keys, wrapping_versions

Pair = tuple[int, int]
"""A version of a wrapping key: (row id, version)."""

MANY = 500
"""How many ids one statement names: below SQLite's smallest limit of parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One version of a wrapping key, with what it takes to open it from its parent's."""

    id: int
    key_id: UUID
    environment: int
    level: int
    parent: int | None
    version: int
    parent_version: int
    state: VersionState
    fingerprint: bytes = field(repr=False)
    wrapped: bytes | None = field(repr=False)

    @property
    def pair(self) -> Pair:
        """Return the version's own name."""
        return (self.id, self.version)

    @property
    def parent_pair(self) -> Pair | None:
        """Return the version that this one is wrapped under; None for a root."""
        return None if self.parent is None else (self.parent, self.parent_version)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRootWrap:
    """A root's wrap under one live top version."""

    top_version: int
    main_key: str
    active: bool
    wrapped: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataKeyRow:
    """A data key as stored."""

    id: int
    key_id: UUID
    environment: int
    level: int
    parent: int | None
    parent_version: int
    fingerprint: bytes = field(repr=False)
    wrapped: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappingKeyRow:
    """A wrapping key and its active version, if it has one."""

    id: int
    key_id: UUID
    environment: int
    level: int
    parent: int | None
    active_version: int | None
    minted_by: int | None  # the newest repack that minted a version of it, active or not


LINK = select(
    wrapping_keys.c.id,
    wrapping_keys.c.key_id,
    wrapping_keys.c.environment,
    wrapping_keys.c.level,
    wrapping_keys.c.parent,
    wrapping_versions.c.version,
    wrapping_versions.c.parent_version,
    wrapping_versions.c.fingerprint,
    wrapping_versions.c.wrapped,
    wrapping_versions.c.state,
).join_from(wrapping_keys, wrapping_versions)


def load_links(connection: Connection, pairs: Iterable[Pair], known: Iterable[Pair] = ()) -> dict[Pair, Link]:
    """Load these versions and their ancestors up to the roots; there is no climb from what is `known`.

    A version that is not there is not in the answer.
    """
    found: dict[Pair, Link] = {}
    skip = set(known)
    wanted = set(pairs) - skip
    while wanted:
        links = _links(connection, wanted)
        found.update(links)
        above = {link.parent_pair for link in links.values() if link.parent_pair is not None}
        wanted = above - found.keys() - skip
    return found


def _links(connection: Connection, pairs: set[Pair]) -> dict[Pair, Link]:
    found = {}
    ids = sorted({key for key, _ in pairs})
    for start in range(0, len(ids), MANY):
        query = LINK.where(wrapping_keys.c.id.in_(ids[start : start + MANY]))
        for row in connection.execute(query).mappings():
            link = as_link(row)
            if link.pair in pairs:
                found[link.pair] = link
    return found


def as_link(row: Any) -> Link:
    """Read a row of LINK as a value."""
    return Link(**dict(row) | {"state": VersionState(row["state"])})


def load_root_wraps(connection: Connection, kind: KeyKind, ids: Iterable[int]) -> dict[Pair, list[StoredRootWrap]]:
    """Load the wraps of these roots under live top versions, by (row, key version); the active top's first."""
    found: dict[Pair, list[StoredRootWrap]] = {}
    keys = sorted(set(ids))
    for start in range(0, len(keys), MANY):
        query = (
            select(root_wraps, top_versions.c.main_key, top_versions.c.state)
            .join(
                top_versions,
                (top_versions.c.environment == root_wraps.c.environment)
                & (top_versions.c.version == root_wraps.c.top_version),
            )
            .where(root_wraps.c.kind == kind, root_wraps.c.key.in_(keys[start : start + MANY]))
            .order_by(root_wraps.c.top_version.desc())
        )
        for row in connection.execute(query):
            wrap = StoredRootWrap(
                top_version=row.top_version,
                main_key=row.main_key,
                active=row.state == TopState.ACTIVE,
                wrapped=row.wrapped,
            )
            found.setdefault((row.key, row.key_version), []).append(wrap)
    return {pair: sorted(wraps, key=lambda wrap: not wrap.active) for pair, wraps in found.items()}


def find_data_key(connection: Connection, key_id: UUID) -> DataKeyRow | None:
    """Find a data key by its outer id."""
    query = select(data_keys).where(data_keys.c.key_id == key_id)
    row = connection.execute(query).mappings().first()
    return DataKeyRow(**row) if row else None


def find_wrapping_key(connection: Connection, key: UUID | int) -> WrappingKeyRow:
    """Find a wrapping key by its outer id or its row, with its active version. Raises NotFound."""
    condition = wrapping_keys.c.id == key if isinstance(key, int) else wrapping_keys.c.key_id == key
    rows = _wrapping_rows(connection, condition, limit=1)
    if not rows:
        raise NotFound("wrapping key", key)
    return rows[0]


def wrapping_page(
    connection: Connection, environment: int, level: int, *, after: int, upto: int, limit: int
) -> list[WrappingKeyRow]:
    """Read the wrapping keys of a level with `after` < row <= `upto`, in order."""
    columns = wrapping_keys.c
    condition = (
        (columns.environment == environment) & (columns.level == level) & (columns.id > after) & (columns.id <= upto)
    )
    return _wrapping_rows(connection, condition, limit=limit)


def wrapping_rows(connection: Connection, ids: Iterable[int]) -> dict[int, WrappingKeyRow]:
    """Read these wrapping keys by row, each with its active version."""
    found: dict[int, WrappingKeyRow] = {}
    keys = sorted(ids)
    for start in range(0, len(keys), MANY):
        some = keys[start : start + MANY]
        found |= {row.id: row for row in _wrapping_rows(connection, wrapping_keys.c.id.in_(some), limit=MANY)}
    return found


def _wrapping_rows(connection: Connection, condition: Any, *, limit: int) -> list[WrappingKeyRow]:
    columns, versions, minted = wrapping_keys.c, wrapping_versions.c, wrapping_versions.alias("minted").c
    # Not the active version's repack: a key that was rekeyed after it was minted has had its one version of a repack.
    minted_by = select(func.max(minted.repack)).where(minted.wrapping_key == columns.id).scalar_subquery()
    query = (
        select(
            columns.id,
            columns.key_id,
            columns.environment,
            columns.level,
            columns.parent,
            versions.version.label("active_version"),
            minted_by.label("minted_by"),
        )
        .outerjoin(wrapping_versions, (versions.wrapping_key == columns.id) & (versions.state == VersionState.ACTIVE))
        .where(condition)
        .order_by(columns.id)
        .limit(limit)
    )
    return [WrappingKeyRow(**row) for row in connection.execute(query).mappings()]


def insert_wrapping_key(
    connection: Connection, *, key_id: UUID, environment: int, parent: int | None, level: int
) -> int:
    """Insert a wrapping key without a version yet; give it one in the same transaction. Return its row."""
    values = {"key_id": key_id, "environment": environment, "parent": parent, "level": level}
    return int(connection.execute(insert(wrapping_keys).values(values).returning(wrapping_keys.c.id)).scalar_one())


def insert_root_wraps(connection: Connection, rows: list[dict[str, Any]]) -> int:
    """Store wraps of roots. One that is there stays as it is (R2: exactly one effect). Returns how many were new."""
    if not rows:
        return 0
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    new = 0
    for start in range(0, len(rows), MANY):
        statement = dialect.insert(root_wraps).values(rows[start : start + MANY]).on_conflict_do_nothing()
        new += len(connection.execute(statement.returning(root_wraps.c.key)).all())
    return new


def insert_data_keys(connection: Connection, rows: list[dict[str, Any]]) -> None:
    """Insert data keys. Hold their parents' versions, or the live tops, first."""
    connection.execute(insert(data_keys), rows)


def data_key_rows(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, int]:
    """Return the rows of data keys by their outer ids."""
    found: dict[UUID, int] = {}
    for start in range(0, len(ids), MANY):
        query = select(data_keys.c.key_id, data_keys.c.id).where(data_keys.c.key_id.in_(ids[start : start + MANY]))
        found |= dict(connection.execute(query).all())
    return found
