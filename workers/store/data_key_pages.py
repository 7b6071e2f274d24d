"""The fast path of the walk: read a page of data keys, write their new wraps. One class a database.

Measured lessons kept here: one row back a parent beats a row a key; one bytea parameter beats a list of them; driver
cursors, because building a result row a key costs as much as its cipher work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sqlalchemy import Connection

from schemas.ranges import Cursor, Group
from workers.store.data_key_pages_postgresql import PostgresqlPages
from workers.store.data_key_pages_sqlite import SqlitePages


class Pages(Protocol):
    """What the walk asks of a database."""

    def read(
        self, connection: Connection, environment: int, level: int, *, after: Cursor, upto: Cursor, limit: int
    ) -> list[Group]:
        """Read `limit` data keys of a level with after < (parent, id) <= upto, by parent and parent version."""

    def swap(self, connection: Connection, *, old: int, new: int, ids: Sequence[int], wraps: Sequence[bytes]) -> int:
        """Compare-and-swap: the keys still at parent version `old` get `new` and their wrap, in one statement (R2).

        Returns how many were swapped.
        """


def pages_for(dialect: str) -> Pages:
    """Return the fast path of a database."""
    return SqlitePages() if dialect == "sqlite" else PostgresqlPages()
