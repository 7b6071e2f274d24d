"""The fast path of the walk: read a page of data keys, write their new wraps. One class a database.

Measured lessons kept here: one row back a parent beats a row a key; one bytea parameter beats a list of them; driver
cursors, because building a result row a key costs as much as its cipher work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import Connection

Cursor = tuple[int, int]
"""Where a walk stands: (parent row, key row), in index order."""

END = 2**63 - 1
"""Above every row id."""


@dataclass(slots=True)
class Group:
    """Data keys of a page that hang from one version of one parent. Four columns of equal length."""

    parent: int
    parent_version: int
    ids: Sequence[int]
    key_ids: Sequence[bytes] = field(repr=False)
    fingerprints: Sequence[bytes] = field(repr=False)
    wraps: Sequence[bytes] = field(repr=False)  # b"" where there is none


class Pages(Protocol):
    """What the walk asks of a database."""

    def read(
        self, connection: Connection, environment: int, level: int, *, after: Cursor, upto: Cursor, limit: int
    ) -> list[Group]:
        """The next `limit` data keys of a level with after < (parent, id) <= upto, by parent and parent version."""

    def swap(self, connection: Connection, *, old: int, new: int, ids: Sequence[int], wraps: Sequence[bytes]) -> int:
        """Compare-and-swap: the keys still at parent version `old` get `new` and their wrap, in one statement (R2).

        Returns how many were swapped.
        """


def last_cursor(groups: Sequence[Group]) -> Cursor:
    """The cursor after a page."""
    return max((group.parent, group.ids[-1]) for group in groups)


def pages_for(dialect: str) -> Pages:
    """The fast path of a database."""
    if dialect == "sqlite":
        return SqlitePages()
    from workers.store.data_key_pages_postgresql import PostgresqlPages

    return PostgresqlPages()


class SqlitePages:
    """Rows as tuples and `executemany` by row id: SQLite has no round trips to save."""

    _READ = (
        "SELECT parent, parent_version, id, key_id, fingerprint, coalesce(wrapped, x'') FROM data_keys"
        " WHERE environment = ? AND level = ? AND (parent, id) > (?, ?) AND (parent, id) <= (?, ?)"
        " ORDER BY parent, id LIMIT ?"
    )
    _SWAP = "UPDATE data_keys SET parent_version = ?, wrapped = ? WHERE id = ? AND parent_version = ?"

    def read(
        self, connection: Connection, environment: int, level: int, *, after: Cursor, upto: Cursor, limit: int
    ) -> list[Group]:
        """See Pages.read."""
        cursor = driver_of(connection).cursor()
        try:
            rows = cursor.execute(self._READ, (environment, level, *after, *upto, limit)).fetchall()
        finally:
            cursor.close()
        by_parent: dict[tuple[int, int], list[Any]] = {}
        for row in rows:
            by_parent.setdefault(row[:2], []).append(row)
        return [Group(*pair, *list(zip(*of, strict=True))[2:]) for pair, of in by_parent.items()]

    def swap(self, connection: Connection, *, old: int, new: int, ids: Sequence[int], wraps: Sequence[bytes]) -> int:
        """See Pages.swap."""
        cursor = driver_of(connection).cursor()
        try:
            cursor.executemany(self._SWAP, ((new, wrap, key, old) for key, wrap in zip(ids, wraps, strict=True)))
            return int(cursor.rowcount)
        finally:
            cursor.close()


def driver_of(connection: Connection) -> Any:
    """The driver's own connection, in the transaction that SQLAlchemy began."""
    return connection.connection.driver_connection
