"""Rows of the hierarchy: keys, their versions, their roots' wraps. The fast pages of the walk are in `pages`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, delete, func, insert, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from schemas.keys import KeyKind, TopState, VersionState
from workers.errors import NotFound, VersionGone
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
        """Its own name."""
        return (self.id, self.version)

    @property
    def parent_pair(self) -> Pair | None:
        """The version it hangs from; None for a root."""
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
    minted_by: int | None


_LINK = select(
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
    """These versions and their ancestors up to the roots; what is `known` need not be climbed from.

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
        query = _LINK.where(wrapping_keys.c.id.in_(ids[start : start + MANY]))
        for row in connection.execute(query).mappings():
            link = _link(row)
            if link.pair in pairs:
                found[link.pair] = link
    return found


def _link(row: Any) -> Link:
    return Link(**dict(row) | {"state": VersionState(row["state"])})


def load_root_wraps(connection: Connection, kind: KeyKind, ids: Iterable[int]) -> dict[Pair, list[StoredRootWrap]]:
    """The wraps of these roots under live top versions, by (row, key version); the active top's first."""
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
    """A data key by its outer id."""
    query = select(data_keys).where(data_keys.c.key_id == key_id)
    row = connection.execute(query).mappings().first()
    return DataKeyRow(**row) if row else None


def find_wrapping_key(connection: Connection, key: UUID | int) -> WrappingKeyRow:
    """A wrapping key by its outer id or its row, with its active version. Raises NotFound."""
    condition = wrapping_keys.c.id == key if isinstance(key, int) else wrapping_keys.c.key_id == key
    rows = _wrapping_rows(connection, condition, limit=1)
    if not rows:
        raise NotFound("wrapping key", key)
    return rows[0]


def wrapping_page(
    connection: Connection, environment: int, level: int, *, after: int, upto: int, limit: int
) -> list[WrappingKeyRow]:
    """The wrapping keys of a level with `after` < row <= `upto`, in order."""
    columns = wrapping_keys.c
    condition = (
        (columns.environment == environment) & (columns.level == level) & (columns.id > after) & (columns.id <= upto)
    )
    return _wrapping_rows(connection, condition, limit=limit)


def wrapping_rows(connection: Connection, ids: Iterable[int]) -> dict[int, WrappingKeyRow]:
    """These wrapping keys by row, each with its active version."""
    found: dict[int, WrappingKeyRow] = {}
    keys = sorted(ids)
    for start in range(0, len(keys), MANY):
        some = keys[start : start + MANY]
        found |= {row.id: row for row in _wrapping_rows(connection, wrapping_keys.c.id.in_(some), limit=MANY)}
    return found


def _wrapping_rows(connection: Connection, condition: Any, *, limit: int) -> list[WrappingKeyRow]:
    columns, versions = wrapping_keys.c, wrapping_versions.c
    query = (
        select(
            columns.id,
            columns.key_id,
            columns.environment,
            columns.level,
            columns.parent,
            versions.version.label("active_version"),
            versions.repack.label("minted_by"),
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
    """A wrapping key without a version yet; give it one in the same transaction. Returns its row."""
    values = {"key_id": key_id, "environment": environment, "parent": parent, "level": level}
    return int(connection.execute(insert(wrapping_keys).values(values).returning(wrapping_keys.c.id)).scalar_one())


def insert_version(
    connection: Connection,
    *,
    wrapping_key: int,
    version: int,
    parent_version: int,
    fingerprint: bytes,
    wrapped: bytes | None,
    repack: int | None = None,
) -> bool:
    """Make `version` the active one, and what was active draining. False if that version is already there (R2)."""
    values = {
        "wrapping_key": wrapping_key,
        "version": version,
        "parent_version": parent_version,
        "fingerprint": fingerprint,
        "wrapped": wrapped,
        "state": VersionState.ACTIVE,
        "repack": repack,
    }
    older = (wrapping_versions.c.wrapping_key == wrapping_key) & (wrapping_versions.c.state == VersionState.ACTIVE)
    try:
        with connection.begin_nested():
            connection.execute(update(wrapping_versions).where(older).values(state=VersionState.DRAINING))
            connection.execute(insert(wrapping_versions).values(values))
    except IntegrityError:
        return False
    return True


def last_versions(connection: Connection, ids: Sequence[int]) -> dict[int, int]:
    """The highest version each of these wrapping keys ever had."""
    versions = wrapping_versions.c
    query = select(versions.wrapping_key, func.max(versions.version)).group_by(versions.wrapping_key)
    return {key: last for key, last in connection.execute(query.where(versions.wrapping_key.in_(ids))).tuples()}


def insert_root_wraps(connection: Connection, rows: list[dict[str, Any]]) -> int:
    """Store wraps of roots. One that is there stays as it is (R2: exactly one effect). Returns how many were new."""
    if not rows:
        return 0
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(root_wraps).on_conflict_do_nothing()
    return sum(connection.execute(statement.values(row)).rowcount for row in rows)


def hold_version(connection: Connection, pair: Pair) -> None:
    """Keep a version from being shredded until the transaction ends, or learn that it is gone (R5).

    Raises VersionGone. FOR KEY SHARE: it stops the shredder's FOR UPDATE, not other creators and not the walker.
    """
    query = (
        select(wrapping_versions.c.state)
        .where(wrapping_versions.c.wrapping_key == pair[0], wrapping_versions.c.version == pair[1])
        .with_for_update(read=True, key_share=True)
    )
    state = connection.execute(query).scalar_one_or_none()
    if state is None or state == VersionState.SHREDDED:
        key = connection.execute(select(wrapping_keys.c.key_id).where(wrapping_keys.c.id == pair[0])).scalar_one()
        raise VersionGone(key=key, version=pair[1])


def insert_data_keys(connection: Connection, rows: list[dict[str, Any]]) -> None:
    """New data keys. Hold their parents' versions, or the live tops, first."""
    connection.execute(insert(data_keys), rows)


def data_key_rows(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, int]:
    """The rows of data keys by their outer ids."""
    found: dict[UUID, int] = {}
    for start in range(0, len(ids), MANY):
        query = select(data_keys.c.key_id, data_keys.c.id).where(data_keys.c.key_id.in_(ids[start : start + MANY]))
        found |= {key_id: row for key_id, row in connection.execute(query).tuples()}
    return found


def add_wraps(connection: Connection, pair: Pair, count: int) -> int:
    """Count wraps that a version made or is about to make, against WRAP_LIMIT. Returns the total."""
    versions = wrapping_versions.c
    statement = (
        update(wrapping_versions)
        .where(versions.wrapping_key == pair[0], versions.version == pair[1])
        .values(wraps=versions.wraps + count)
        .returning(versions.wraps)
    )
    return int(connection.execute(statement).scalar_one_or_none() or 0)


def draining_page(
    connection: Connection, environment: int, level: int, *, after: int, upto: int, limit: int
) -> list[Link]:
    """Draining versions of a level's wrapping keys with `after` < row <= `upto`; all versions of a key together."""
    columns = wrapping_keys.c
    keys = (
        select(columns.id)
        .where(
            columns.environment == environment,
            columns.level == level,
            columns.id > after,
            columns.id <= upto,
            select(1)
            .where(wrapping_versions.c.wrapping_key == columns.id, wrapping_versions.c.state == VersionState.DRAINING)
            .exists(),
        )
        .order_by(columns.id)
        .limit(limit)
    )
    query = _LINK.where(wrapping_versions.c.state == VersionState.DRAINING, columns.id.in_(keys))
    return [
        _link(row) for row in connection.execute(query.order_by(columns.id, wrapping_versions.c.version)).mappings()
    ]


def lock_versions(connection: Connection, pairs: Sequence[Pair]) -> set[Pair]:
    """Shut out creators of keys under these versions until the transaction ends. Returns those still draining."""
    versions = wrapping_versions.c
    query = (
        select(versions.wrapping_key, versions.version)
        .where(tuple_(versions.wrapping_key, versions.version).in_(pairs), versions.state == VersionState.DRAINING)
        .order_by(versions.wrapping_key, versions.version)
        .with_for_update()
    )
    return {(key, version) for key, version in connection.execute(query).tuples()}


def hanging_data(connection: Connection, links: Sequence[Link]) -> set[Pair]:
    """Those of these versions (of one environment and level) from which a data key hangs."""
    if not links:
        return set()
    environment, level = links[0].environment, links[0].level + 1
    columns = data_keys.c
    query = (
        select(columns.parent, columns.parent_version)
        .where(
            columns.environment == environment, columns.level == level, columns.parent.in_({link.id for link in links})
        )
        .where(tuple_(columns.parent, columns.parent_version).in_([link.pair for link in links]))
        .distinct()
    )
    return {(parent, version) for parent, version in connection.execute(query).tuples()}


def hanging_versions(connection: Connection, pairs: Sequence[Pair]) -> list[Link]:
    """The unshredded versions of wrapping keys that hang from these versions."""
    if not pairs:
        return []
    query = _LINK.where(
        wrapping_keys.c.parent.in_({key for key, _ in pairs}),
        tuple_(wrapping_keys.c.parent, wrapping_versions.c.parent_version).in_(pairs),
        wrapping_versions.c.state != VersionState.SHREDDED,
    )
    return [_link(row) for row in connection.execute(query).mappings()]


def rehang_version(connection: Connection, link: Link, *, parent_version: int, wrapped: bytes) -> bool:
    """Compare-and-swap one version of a wrapping key onto another version of its parent (R2)."""
    versions = wrapping_versions.c
    statement = (
        update(wrapping_versions)
        .where(
            versions.wrapping_key == link.id,
            versions.version == link.version,
            versions.parent_version == link.parent_version,
            versions.state != VersionState.SHREDDED,
        )
        .values(parent_version=parent_version, wrapped=wrapped)
    )
    return connection.execute(statement).rowcount == 1


def shred(connection: Connection, pairs: Sequence[Pair]) -> int:
    """Delete these versions' wraps for good. Only after `lock_versions` and proof that nothing hangs from them (R5)."""
    if not pairs:
        return 0
    versions, wraps = wrapping_versions.c, root_wraps.c
    connection.execute(
        delete(root_wraps).where(wraps.kind == KeyKind.WRAPPING, tuple_(wraps.key, wraps.key_version).in_(pairs))
    )
    statement = (
        update(wrapping_versions)
        .where(tuple_(versions.wrapping_key, versions.version).in_(pairs), versions.state == VersionState.DRAINING)
        .values(state=VersionState.SHREDDED, wrapped=None)
    )
    return connection.execute(statement).rowcount
