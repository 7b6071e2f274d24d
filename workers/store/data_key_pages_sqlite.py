"""The fast path of the walk on SQLite: rows as tuples and `executemany` by row id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from schemas.ranges import Cursor, Group
from workers.store.database import driver_of


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
