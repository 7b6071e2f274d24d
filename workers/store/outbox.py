"""Outgoing events, written in the transaction that made them, published after (R11)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, insert, select, update

from schemas.events import OUTBOUND, SOURCE, VERSION, Event
from workers.store.audit import AuditRecord, append_record
from workers.store.models import outbox
from workers.store.types import db_now, read_clock

CLAIM_SECONDS = 30
"""How long a publisher may take over a page of events: the broker's own time limits are far shorter."""


def record_event(
    connection: Connection,
    action: str,
    *,
    actor: str,
    environment_id: UUID,
    repack_id: UUID | None = None,
    facts: Mapping[str, Any] | None = None,
) -> AuditRecord:
    """R11: one state change, one audit record and one outgoing event, in the transaction that makes the change."""
    facts = facts or {}
    record = append_record(
        connection, action=action, actor=actor, environment_id=environment_id, repack_id=repack_id, facts=facts
    )
    if action in OUTBOUND:
        data = {"version": VERSION, "environment": str(environment_id), **facts}
        if repack_id is not None:
            data["repack"] = str(repack_id)
        event = Event(
            id=str(uuid4()),
            source=SOURCE,
            type=action,
            time=datetime.fromtimestamp(record.at, UTC),
            subject=str(environment_id),
            data=data,
        )
        values = {"type": action, "body": event.to_bytes(), "created_at": record.at}
        connection.execute(insert(outbox).values(values))
    return record


def claim_unpublished(connection: Connection, *, limit: int) -> list[tuple[int, str, bytes]]:
    """Claim the oldest events (id, type, body) that wait, for one publisher at a time: events leave in their order.

    Nothing while another publisher is at work. A publisher that dies is forgotten after CLAIM_SECONDS.
    """
    waiting = outbox.c.published_at.is_(None)
    first = select(outbox.c.claimed_until).where(waiting).order_by(outbox.c.id).limit(1).with_for_update()
    claimed_until = connection.execute(first).scalar_one_or_none()
    if claimed_until is not None and claimed_until > read_clock(connection):
        return []
    query = select(outbox.c.id, outbox.c.type, outbox.c.body).where(waiting).order_by(outbox.c.id).limit(limit)
    rows = [(row.id, row.type, row.body) for row in connection.execute(query)]
    claim = update(outbox).where(outbox.c.id.in_([row[0] for row in rows]))
    connection.execute(claim.values(claimed_until=db_now() + CLAIM_SECONDS))
    return rows


def mark_published(connection: Connection, ids: list[int]) -> None:
    """Mark events that the broker has confirmed."""
    connection.execute(update(outbox).where(outbox.c.id.in_(ids)).values(published_at=db_now()))
