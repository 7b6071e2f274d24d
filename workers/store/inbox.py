"""Incoming events: each (source, id) once. What was rejected is kept with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from schemas.envelope import same_bytes
from schemas.errors import EventRejected
from schemas.events import MAX_EVENT_BYTES, Event, body_digest
from schemas.signatures import HEADERS
from workers.errors import NotFound
from workers.store.models import inbox, rejected_events
from workers.store.types import db_now

RECEIVED, HANDLED, REJECTED = "received", "handled", "rejected"
"""States of an event in the inbox."""

KEPT_BYTES = 4096
"""How much is kept of a rejected body that no event can have: enough to see what it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """An event in the inbox. `state`: received, handled or rejected."""

    id: int
    source: str
    event_id: str
    type: str
    body: bytes
    state: str
    outcome: dict[str, Any] | None
    is_new: bool = False  # just now: no repeat


def is_known(connection: Connection, event: Event, body: bytes) -> bool:
    """Return True if this very event was received before, handled or not."""
    query = select(inbox.c.digest).where(inbox.c.source == event.source, inbox.c.event_id == event.id)
    digest = connection.execute(query).scalar_one_or_none()
    return digest is not None and same_bytes(digest, body_digest(body))


def receive(connection: Connection, event: Event, body: bytes) -> Received:
    """Record an event, or find the record of the same one.

    Raises EventRejected (`replayed_id`) where another body came under the same source and id.
    """
    digest = body_digest(body)
    values = {
        "source": event.source,
        "event_id": event.id,
        "type": event.type,
        "digest": digest,
        "body": body,
        "state": RECEIVED,
        "received_at": db_now(),
    }
    is_new = True
    try:
        with connection.begin_nested():
            connection.execute(insert(inbox).values(values))
    except IntegrityError:
        is_new = False  # an at-least-once broker at work, or a replay
    found = connection.execute(select(inbox).where(inbox.c.source == event.source, inbox.c.event_id == event.id)).one()
    if not same_bytes(found.digest, digest):
        raise EventRejected("replayed_id", f"Event {event.id!r} of {event.source!r} came before with another body.")
    return _received(found, is_new=is_new)


def find_received(connection: Connection, inbox_id: int, *, lock: bool = False) -> Received | None:
    """Find one event by its row."""
    query = select(inbox).where(inbox.c.id == inbox_id)
    row = connection.execute(query.with_for_update() if lock else query).first()
    return _received(row) if row else None


def unhandled(connection: Connection, *, older_than: float = 0.0, limit: int = 100) -> list[int]:
    """List the oldest events that still wait for their effect, `older_than` seconds after they were received."""
    waits = (inbox.c.state == RECEIVED) & (inbox.c.received_at <= db_now() - older_than)
    query = select(inbox.c.id).where(waits).order_by(inbox.c.id).limit(limit)
    return list(connection.execute(query).scalars())


def settle(connection: Connection, inbox_id: int, *, state: str, outcome: dict[str, Any]) -> None:
    """Say what came of an event, in the transaction of its effect (R2)."""
    connection.execute(
        update(inbox).where(inbox.c.id == inbox_id).values(state=state, outcome=outcome, handled_at=db_now())
    )


def reopen(connection: Connection, inbox_id: int) -> None:
    """Have an event that was rejected wait for its effect again."""
    connection.execute(update(inbox).where(inbox.c.id == inbox_id).values(state=RECEIVED, handled_at=None))


def count_unhandled(connection: Connection) -> tuple[int, float | None]:
    """Count the events that wait for their effect, and say since when the oldest."""
    query = select(func.count(), func.min(inbox.c.received_at)).where(inbox.c.state == RECEIVED)
    count, oldest = connection.execute(query).one()
    return int(count), oldest


def reject(
    connection: Connection,
    body: bytes,
    error: EventRejected,
    event: Event | None = None,
    headers: Mapping[str, object] | None = None,
) -> None:
    """Keep an event that must not take effect, with its reason: dead-lettered, never dropped."""
    signed = {
        name.lower(): storable(value)
        for name, value in (headers or {}).items()
        if isinstance(name, str) and name.lower() in HEADERS
    }
    connection.execute(
        insert(rejected_events).values(
            source=event.source if event else None,
            event_id=event.id if event else None,
            type=event.type if event else None,
            code=error.code,
            why=error.why,
            remedy=error.remedy,
            body=body if len(body) <= MAX_EVENT_BYTES else body[:KEPT_BYTES],
            headers=signed or None,
            rejected_at=db_now(),
        )
    )


def storable(value: object) -> str:
    """Return `value` as text that every database takes: no NUL, no half of a surrogate pair, KEPT_BYTES at most."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    text = text[:KEPT_BYTES].replace("\x00", "\ufffd")
    return text.encode(errors="replace").decode()


def list_rejected(
    connection: Connection, *, limit: int = 100, before: int | None = None, waiting: bool = False
) -> list[dict[str, Any]]:
    """List the newest rejected events (of those `before` a row); `waiting`: only those that are not settled."""
    query = select(rejected_events).order_by(rejected_events.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(rejected_events.c.id < before)
    if waiting:
        query = query.where(rejected_events.c.outcome.is_(None))
    return [dict(row) for row in connection.execute(query).mappings()]


def find_rejected(connection: Connection, row: int, *, lock: bool = False) -> dict[str, Any]:
    """Find one rejected event. Raises NotFound."""
    query = select(rejected_events).where(rejected_events.c.id == row)
    found = connection.execute(query.with_for_update() if lock else query).mappings().first()
    if found is None:
        raise NotFound("rejected event", row, "List them with `keyrepack events rejected`.")
    return dict(found)


def count_rejected(connection: Connection) -> int:
    """Count the rejected events that are not settled yet."""
    query = select(func.count()).select_from(rejected_events).where(rejected_events.c.outcome.is_(None))
    return int(connection.execute(query).scalar_one())


def settle_rejected(connection: Connection, row: int, *, outcome: str, actor: str) -> None:
    """Say what became of a rejected event."""
    values = {"outcome": outcome, "settled_at": db_now(), "settled_by": actor}
    connection.execute(update(rejected_events).where(rejected_events.c.id == row).values(values))


def _received(row: Any, *, is_new: bool = False) -> Received:
    return Received(
        id=row.id,
        source=row.source,
        event_id=row.event_id,
        type=row.type,
        body=row.body,
        state=row.state,
        outcome=row.outcome,
        is_new=is_new,
    )
