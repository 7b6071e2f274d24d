"""Canaries: a small message through each queue; when the last one came out at the other end."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from workers.store.models import canaries
from workers.store.types import read_clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """The last one of a queue. `wait_seconds`: how long it was in the queue, None where it bore no stamp."""

    queue: str
    arrived_at: float
    wait_seconds: float | None
    arrived_by: str


def record_arrival(connection: Connection, queue: str, *, sent_at: float | None, owner: str) -> None:
    """Record that a canary has arrived. `sent_at` by its sender's clock."""
    now = read_clock(connection)
    values = {
        "arrived_at": now,
        "wait_seconds": None if sent_at is None else max(0.0, now - sent_at),
        "arrived_by": owner,
    }
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(canaries).values(queue=queue, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["queue"], set_=values))


def list_canaries(connection: Connection) -> dict[str, Canary]:
    """Return the last canary of each queue, by queue."""
    return {row["queue"]: Canary(**row) for row in connection.execute(select(canaries)).mappings()}
