"""The workers' own rows: who they are, when each was last heard of, and what it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from workers.store.models import repacks, shards, workers_seen
from workers.store.shards import LEASED
from workers.store.types import db_now

KEPT_SECONDS = 3600.0
"""How long a worker that is not heard of any more stays visible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSeen:
    """One process. Times by the database's clock. `lease`: the shard it holds, and until when."""

    owner: str
    name: str
    host: str
    pid: int
    version: str
    queues: tuple[str, ...]
    started_at: float
    seen_at: float
    progressed_at: float | None
    canary_at: float | None
    lock_noticed_at: float | None
    lock_notice_seconds: float | None
    lease: int | None = None
    lease_until: float | None = None


def enter_worker(connection: Connection, owner: str, values: Mapping[str, Any]) -> None:
    """Write a worker's row for the first time, and drop those of workers long gone."""
    now = {"started_at": db_now(), "seen_at": db_now()}
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(dialect.insert(workers_seen).values(owner=owner, **values, **now).on_conflict_do_nothing())
    connection.execute(delete(workers_seen).where(workers_seen.c.seen_at < db_now() - KEPT_SECONDS))


def note_worker(
    connection: Connection, *, owner: str, progressed: bool, canary: bool, lock_notice_seconds: float | None
) -> bool:
    """Update a worker's row, with what it did since the last update. Return False if its row is gone."""
    values: dict[str, Any] = {"seen_at": db_now()}
    values |= {"progressed_at": db_now()} if progressed else {}
    values |= {"canary_at": db_now()} if canary else {}
    if lock_notice_seconds is not None:
        values |= {"lock_noticed_at": db_now(), "lock_notice_seconds": lock_notice_seconds}
    return connection.execute(update(workers_seen).where(workers_seen.c.owner == owner).values(values)).rowcount > 0


def leave_worker(connection: Connection, owner: str) -> None:
    """Delete the row of a worker that has ended in good order."""
    connection.execute(delete(workers_seen).where(workers_seen.c.owner == owner))


def list_workers(connection: Connection) -> list[WorkerSeen]:
    """List all workers, by name and process, with the shard that each has under its lease now."""
    leases = (
        select(shards.c.owner, shards.c.id.label("lease"), shards.c.lease_until)
        .join(repacks, repacks.c.id == shards.c.repack)
        .where(repacks.c.ended_at.is_(None), shards.c.state == LEASED, shards.c.lease_until >= db_now())
    )
    held = {row.owner: (row.lease, row.lease_until) for row in connection.execute(leases)}
    query = select(workers_seen).order_by(workers_seen.c.name, workers_seen.c.pid)
    found = []
    for row in connection.execute(query).mappings():
        lease, until = held.get(row["owner"], (None, None))
        values = dict(row) | {"queues": tuple(row["queues"]), "lease": lease, "lease_until": until}
        found.append(WorkerSeen(**values))
    return found
