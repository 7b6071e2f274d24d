"""Ticks of the clock, each a row: two beats tick twice, a job runs once."""

from __future__ import annotations

from sqlalchemy import Connection, delete
from sqlalchemy.dialects import postgresql, sqlite

from workers.store.models import ticks
from workers.store.types import db_now, read_clock

SWEEP, POLL, VERIFY_AUDIT = "sweep", "poll", "verify_audit"
"""The jobs that tick."""

KEPT = 1000
"""How many slots of a job are kept for readers."""


def take(connection: Connection, job: str, seconds: float) -> bool:
    """Return True if the caller is the one to run `job` in this slot of `seconds`, by the database's clock."""
    slot = int(read_clock(connection) / seconds)
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(ticks).values(job=job, slot=slot, at=db_now()).on_conflict_do_nothing()
    taken = connection.execute(statement.returning(ticks.c.slot)).first() is not None
    if taken:
        connection.execute(delete(ticks).where(ticks.c.job == job, ticks.c.slot < slot - KEPT))
    return taken
