"""The result of the last walk along the audit chain: one row."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from workers.store.audit import ChainVerdict
from workers.store.models import audit_checks
from workers.store.types import db_now


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditCheck:
    """When the chain was last followed to its head, and whether it was whole."""

    checked_at: float
    records: int
    whole: bool
    broken_at: int | None
    why: str


def record_check(connection: Connection, verdict: ChainVerdict) -> None:
    """Record that the audit chain was followed."""
    values = {
        "checked_at": db_now(),
        "records": verdict.records,
        "whole": verdict.whole,
        "broken_at": verdict.broken_at,
        "why": verdict.why,
    }
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(audit_checks).values(id=1, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=values))


def last_check(connection: Connection) -> AuditCheck | None:
    """None: it was never followed."""
    columns = (audit_checks.c[name] for name in AuditCheck.__slots__)
    row = connection.execute(select(*columns)).mappings().first()
    return AuditCheck(**row) if row else None
