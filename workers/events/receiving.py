"""Receives events: the sender is verified, the event recorded before it is acknowledged, or kept with why it was not.

    take_event: read ─► verify ─► one transaction: record, and apply where it is a revocation or a return ─► acknowledge

A revocation overtakes everything (R8): it is in force when the transaction that records it has committed. Every other
event waits in the inbox for its effect (`handling`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schemas.aws_events import read_message
from schemas.errors import EventRejected
from schemas.events import Event, InboundData, MainKeyChanged, MainKeyRestored, MainKeyRevoked, read_data
from workers.errors import NotFound, Permanent
from workers.events import handling
from workers.events.sources import Sender, Sources
from workers.locks.locking import announce
from workers.runtime.failpoints import Point, reach
from workers.runtime.logs import log
from workers.runtime.transaction_retry import again_after_conflict
from workers.services import Services
from workers.store import inbox, main_keys
from workers.store.audit import append_record
from workers.store.database import Connection
from workers.store.environments import find_environment
from workers.store.inbox import RECEIVED, REJECTED
from workers.store.types import read_clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """An event whose sender is verified, parsed once; nothing of it is stored yet."""

    event: Event
    data: InboundData
    body: bytes
    sender: Sender

    @property
    def is_at_once(self) -> bool:
        """Return True if its effect is a statement or two in the database."""
        return isinstance(self.data, MainKeyRevoked | MainKeyRestored)


def take_event(
    services: Services, body: bytes, *, headers: Mapping[str, object] | None = None, sources: Sources | None = None
) -> int | None:
    """Record an event from outside, once its sender is verified; then it may be acknowledged, whatever comes back.

    Return the inbox's row of an event that waits for its effect; None for one that has had it, for a repeat and for one
    that was rejected. Without `sources` every event is rejected. Raises DatabaseFailed, NotConfigured (no table of
    sources): do not acknowledge.
    """
    event: Event | None = None
    try:
        event = read_message(body)
        incoming = read_incoming(event, body, headers or {}, sources or Sources(None))
        received = receive(services, incoming)
    except EventRejected as error:
        keep_rejected(services, body, error, event, headers)
        return None
    return received.id if received.state == RECEIVED else None


def read_incoming(event: Event, body: bytes, headers: Mapping[str, object], sources: Sources) -> Incoming:
    """Verify who said an event, and read its data. Raises EventRejected, NotConfigured."""
    sender = sources.verify(event, body, headers)
    return Incoming(event=event, data=read_data(event), body=body, sender=sender)


def receive(services: Services, incoming: Incoming) -> inbox.Received:
    """Record an event, or find the record of the same one; give it its effect where that is had at once.

    Raises EventRejected where its sender may not say that, said it too long ago, or said something else under its id.
    """
    try:
        return _receive(services, incoming)
    except handling.HandledMeanwhile:
        return _receive(services, incoming)  # a repeat: the record of the first one comes back
    except Permanent as error:  # of its effect: nothing of the transaction is stored
        return handling.refuse(services, incoming.event, incoming.body, error)


@again_after_conflict
def _receive(services: Services, incoming: Incoming) -> inbox.Received:
    change = None
    with services.database.write() as connection:
        received = _record(connection, incoming, tolerance=services.settings.event_tolerance_seconds)
        if incoming.is_at_once and received.state == RECEIVED:
            change = handling.apply_revocation(connection, services, incoming.event, incoming.data)
            received = handling.settle(connection, received, **change.outcome)
    reach(Point.EVENT_TAKEN)
    if change is not None:
        announce(services, change)
        log.info("event.handled", event_id=incoming.event.id, type=incoming.event.type)
    return received


def _record(connection: Connection, incoming: Incoming, *, tolerance: float) -> inbox.Received:
    event, body, sender = incoming.event, incoming.body, incoming.sender
    if not inbox.is_known(connection, event, body):  # a repeat is a no-op, however late it comes
        sender.require_fresh(event, read_clock(connection), tolerance)
        sender.require_allowed(event, _workspaces(connection, incoming.data))
    return inbox.receive(connection, event, body)


def keep_rejected(
    services: Services,
    body: bytes,
    error: EventRejected,
    event: Event | None = None,
    headers: Mapping[str, object] | None = None,
) -> None:
    """Keep an event that must not take effect, with its reason. Raises DatabaseFailed."""
    with services.database.write() as connection:
        inbox.reject(connection, body, error, event, headers)
    log.warning("event.rejected", code=error.code, event_id=event.id if event else None)


def set_aside(services: Services, body: bytes, error: Exception) -> None:
    """Keep the body of a message that could not be taken, with the kind of fault. Raises DatabaseFailed."""
    why = f"It could not be taken: {type(error).__name__}."  # R10: the text may hold what was in the message
    keep_rejected(services, body, EventRejected("not_taken", why, "Publish it in another form, and report the fault."))


def replay_event(services: Services, row: int, *, sources: Sources, actor: str, reason: str) -> int:
    """Judge a rejected event once more, by what is configured now, and let it have its effect; return its inbox row.

    Its age alone is forgiven: a person answers for it by name. Raises NotFound, EventRejected where refused again.
    """
    with services.database.write() as connection:
        rejected = _unsettled(connection, row)
        body = rejected["body"]
        event = read_message(body)
        incoming = read_incoming(event, body, rejected["headers"] or {}, sources)
        incoming.sender.require_allowed(event, _workspaces(connection, incoming.data))
        received = inbox.receive(connection, event, body)
        if received.state == REJECTED:
            inbox.reopen(connection, received.id)
        _settle_rejected(connection, rejected, "replayed", actor=actor, reason=reason)
    services.wake.event(received.id)
    return received.id


def discard_event(services: Services, row: int, *, actor: str, reason: str) -> None:
    """Record that a rejected event needs no attention any more. Raises NotFound."""
    with services.database.write() as connection:
        _settle_rejected(connection, _unsettled(connection, row), "discarded", actor=actor, reason=reason)


def _unsettled(connection: Connection, row: int) -> dict[str, Any]:
    rejected = inbox.find_rejected(connection, row, lock=True)
    if rejected["outcome"] is not None:
        raise NotFound("rejected event that waits", row, f"It was {rejected['outcome']}.")
    return rejected


def _settle_rejected(
    connection: Connection, rejected: dict[str, Any], outcome: str, *, actor: str, reason: str
) -> None:
    inbox.settle_rejected(connection, rejected["id"], outcome=outcome, actor=actor)
    facts = {
        "reason": reason,
        "rejected": rejected["id"],
        "code": rejected["code"],
        "source": rejected["source"],
        "event": rejected["event_id"],
    }
    append_record(connection, action=f"event.{outcome}", actor=actor, facts=facts)


def _workspaces(connection: Connection, data: InboundData) -> set[str]:
    """Return the workspaces that an event is about; none where what it names is not there."""
    if isinstance(data, MainKeyChanged):
        return main_keys.workspaces_of(connection, data.main_key)
    if isinstance(data, MainKeyRevoked | MainKeyRestored) and data.workspace is not None:
        return {data.workspace}
    assert data.environment is not None
    try:
        return {find_environment(connection, data.environment).workspace}
    except NotFound:
        return set()
