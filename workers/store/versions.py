"""Versions of wrapping keys: made active, held, counted, rehung and, at last, shredded."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, func, insert, select, tuple_, update
from sqlalchemy.exc import IntegrityError

from schemas.keys import KeyKind, VersionState
from workers.errors import VersionGone
from workers.store.keys import LINK, Link, Pair, as_link
from workers.store.models import data_keys, root_wraps, wrapping_keys, wrapping_versions

_ADD_WRAPS = (
    update(wrapping_versions)
    .where(wrapping_versions.c.wrapping_key == bindparam("key"), wrapping_versions.c.version == bindparam("at"))
    .values(wraps=wrapping_versions.c.wraps + bindparam("count"))
    .returning(wrapping_versions.c.wraps)
)
"""Made once: each batch asks, and to build a statement costs as much as to execute it."""


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
    """Return the highest version that each of these wrapping keys ever had."""
    versions = wrapping_versions.c
    query = select(versions.wrapping_key, func.max(versions.version)).group_by(versions.wrapping_key)
    return dict(connection.execute(query.where(versions.wrapping_key.in_(ids))).all())


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


def add_wraps(connection: Connection, pair: Pair, count: int) -> int:
    """Count wraps that a version made or is about to make, against WRAP_LIMIT. Returns the total."""
    given = {"key": pair[0], "at": pair[1], "count": count}
    return int(connection.execute(_ADD_WRAPS, given).scalar_one_or_none() or 0)


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
    query = LINK.where(wrapping_versions.c.state == VersionState.DRAINING, columns.id.in_(keys))
    return [
        as_link(row) for row in connection.execute(query.order_by(columns.id, wrapping_versions.c.version)).mappings()
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
    return {(key, version) for key, version in connection.execute(query)}


def versions_with_data_keys(connection: Connection, links: Sequence[Link]) -> set[Pair]:
    """Return those of these versions (of one environment and level) that wrap a data key."""
    if not links:
        return set()
    columns, versions = data_keys.c, wrapping_versions.c
    # Each version by itself: as a condition on every data key below them, the list would be gone through for each.
    hangs = select(1).where(
        columns.environment == links[0].environment,
        columns.level == links[0].level + 1,
        columns.parent == versions.wrapping_key,
        columns.parent_version == versions.version,
    )
    query = select(versions.wrapping_key, versions.version).where(
        tuple_(versions.wrapping_key, versions.version).in_([link.pair for link in links]), hangs.exists()
    )
    return {(key, version) for key, version in connection.execute(query)}


def versions_wrapped_under(connection: Connection, pairs: Sequence[Pair]) -> list[Link]:
    """Return the unshredded versions of wrapping keys that are wrapped under these versions."""
    if not pairs:
        return []
    query = LINK.where(
        wrapping_keys.c.parent.in_({key for key, _ in pairs}),
        tuple_(wrapping_keys.c.parent, wrapping_versions.c.parent_version).in_(pairs),
        wrapping_versions.c.state != VersionState.SHREDDED,
    )
    return [as_link(row) for row in connection.execute(query).mappings()]


def swap_version_wrap(connection: Connection, link: Link, *, parent_version: int, wrapped: bytes) -> bool:
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
    """Delete these versions' wraps for good. Only after `lock_versions` and proof that nothing is wrapped under them
    (R5).
    """
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
