"""Counts of all processes, added up."""

from __future__ import annotations

import json
from collections.abc import Mapping

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from workers.store.models import counters

Key = tuple[str, tuple[str, ...]]


def add_counts(connection: Connection, counts: Mapping[Key, float]) -> None:
    """Add to what is there. In one order, so that two processes never wait for each other crosswise."""
    rows = [
        {"name": name, "labels": json.dumps(labels), "value": value} for (name, labels), value in sorted(counts.items())
    ]
    if not rows:
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(counters)
    total = counters.c.value + statement.excluded.value
    connection.execute(statement.on_conflict_do_update(index_elements=["name", "labels"], set_={"value": total}), rows)


def read_counts(connection: Connection) -> dict[Key, float]:
    """Read everything that was ever counted."""
    rows = connection.execute(select(counters.c.name, counters.c.labels, counters.c.value))
    return {(row.name, tuple(json.loads(row.labels))): row.value for row in rows}
