"""Events in: take one from the broker (durable before it is acknowledged), then give it its effect, once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from schemas.aws_events import read_message
from schemas.errors import EventRejected, KeyrepackError
from schemas.events import (
    INBOUND,
    Event,
    InboundData,
    MainKeyChanged,
    MainKeyReplaced,
    MainKeyRestored,
    MainKeyRevoked,
    MainKeyRotated,
    read_data,
)
from schemas.keys import MainKeyUri
from schemas.states import Mode
from workers.errors import AlreadyInForce, LostRace, NotFound, Permanent
from workers.events.sources import Sender, Sources
from workers.locks import locking
from workers.main_keys import polling
from workers.repack.lifecycle import Request, start_repack
from workers.runtime.failpoints import Point, reach
from workers.runtime.logs import log
from workers.runtime.transaction_retry import again_after_conflict
from workers.services import Services
from workers.store import inbox, main_keys
from workers.store.audit import append_record
from workers.store.database import Connection, Database
from workers.store.environments import find_environment
from workers.store.outbox import tell
from workers.store.repacks import Repack
from workers.store.types import read_clock

HANDLED, REJECTED = "handled", "rejected"

AT_ONCE = frozenset({"main_key.revoked", "main_key.restored"})

TOLERANCE_SECONDS = 300.0
"""How far from now a signature may be where no setting says otherwise: Standard Webhooks' own advice."""


class _HandledMeanwhile(LostRace):
    """Another worker gave the event its effect."""


@again_after_conflict
def take_event(
    database: Database,
    body: bytes,
    *,
    headers: Mapping[str, object] | None = None,
    sources: Sources | None = None,
    tolerance: float = TOLERANCE_SECONDS,
) -> int | None:
    """Record an event from outside, once its sender is verified; whatever comes back may be acknowledged.

    Returns the inbox's row of an event that waits for its effect; None for a repeat and for what was rejected. Without
    `sources` every event is rejected. Raises DatabaseFailed, NotConfigured (no table of sources): do not acknowledge.
    """
    event: Event | None = None
    try:
        event = read_message(body)
        sender = (sources or Sources(None)).verify(event, body, headers or {})
        received = receive_event(database, event, body, sender, tolerance=tolerance)
    except EventRejected as error:
        with database.write() as connection:
            inbox.reject(connection, body, error, event, headers)
        log.warning("event.rejected", code=error.code, event_id=event.id if event else None)
        return None
    return received.id if received.state == "received" else None


def set_aside(database: Database, body: bytes, error: Exception) -> None:
    """Keep the body of a message that could not be taken, with the kind of fault. Raises DatabaseFailed."""
    why = f"It could not be taken: {type(error).__name__}."  # R10: the text may hold what was in the message
    rejected = EventRejected("not_taken", why, "Publish it again in another form, and report the fault.")
    with database.write() as connection:
        inbox.reject(connection, body, rejected)


def receive_event(database: Database, event: Event, body: bytes, sender: Sender, *, tolerance: float) -> inbox.Received:
    """Record an event whose sender is verified, or find the record of the same one.

    Raises EventRejected where its sender may not say that, said it too long ago, or said something else under its id.
    """
    data = read_data(event)
    with database.write() as connection:
        if not inbox.is_known(connection, event, body):  # a repeat is a no-op, however late it comes
            sender.require_fresh(event, read_clock(connection), tolerance)
            sender.require_allowed(event, _workspaces(connection, data))
        return inbox.receive(connection, event, body)


def replay_event(services: Services, row: int, *, sources: Sources, actor: str, reason: str) -> int:
    """Judge a rejected event once more, by what is configured now, and let it have its effect; its row in the inbox.

    Its age alone is forgiven: somebody answers for it by name. Raises NotFound, EventRejected where refused again.
    """
    with services.database.write() as connection:
        rejected = _waiting(connection, row)
        body = rejected["body"]
        event = read_message(body)
        sender = sources.verify(event, body, rejected["headers"] or {})
        sender.require_allowed(event, _workspaces(connection, read_data(event)))
        received = inbox.receive(connection, event, body)
        if received.state == REJECTED:
            inbox.reopen(connection, received.id)
        _settle_rejected(connection, rejected, "replayed", actor=actor, reason=reason)
    services.wake.event(received.id)
    return received.id


def discard_event(services: Services, row: int, *, actor: str, reason: str) -> None:
    """Say that a rejected event needs nobody's attention any more. Raises NotFound."""
    with services.database.write() as connection:
        _settle_rejected(connection, _waiting(connection, row), "discarded", actor=actor, reason=reason)


def _waiting(connection: Connection, row: int) -> dict[str, Any]:
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


def handle_event(services: Services, inbox_id: int) -> None:
    """Give a received event its effect, in one transaction with the record of it: a repeat is a no-op (R2).

    Transient failures (a KMS or the database away) leave it waiting; the sweeper comes back to it.
    """
    with services.database.read() as connection:
        received = inbox.find_received(connection, inbox_id)
    if received is None or received.state != "received":
        return
    event = read_message(received.body)
    if event.type not in INBOUND:  # a newer program took it in: that one gives it its effect
        log.info("event.left", event_id=event.id, type=event.type)
        return
    try:
        with services.tracer.span("event.handle", type=event.type, inbox=inbox_id):
            _act(services, event, inbox_id)
        log.info("event.handled", event_id=event.id, type=event.type)
    except _HandledMeanwhile:
        log.info("event.repeated", event_id=event.id)
    except AlreadyInForce as error:
        with services.database.write() as connection, contextlib.suppress(_HandledMeanwhile):
            _settle(inbox_id, code=error.code, why=error.why)(connection)
    except Permanent as error:
        _refuse(services, inbox_id, event, received.body, error)


def is_at_once(database: Database, inbox_id: int) -> bool:
    """Whether an event's effect is a statement or two in the database.

    A revocation overtakes everything (R8): it is done by whoever takes it from the broker, behind no slice of a walk.
    """
    with database.read() as connection:
        received = inbox.find_received(connection, inbox_id)
    return received is not None and received.type in AT_ONCE


def _act(services: Services, event: Event, inbox_id: int) -> None:
    data, actor = read_data(event), f"event:{event.source}"
    match data:
        case MainKeyRevoked() | MainKeyRestored():
            _turn(services, data, actor, inbox_id)
        case MainKeyChanged():
            polling.look_now(services, data.main_key, settle=_settle(inbox_id, looked_into=data.main_key))
        case MainKeyReplaced() | MainKeyRotated():
            start_repack(services, _request(services, data, actor), settle=_settle_repack(inbox_id))


def _request(services: Services, data: MainKeyReplaced | MainKeyRotated, actor: str) -> Request:
    with services.database.read() as connection:
        environment = find_environment(connection, data.environment)
    if isinstance(data, MainKeyReplaced):
        return Request(environment=environment, target=MainKeyUri.parse(data.main_key), mode=data.mode, actor=actor)
    return Request(environment=environment, target=None, mode=Mode.SHALLOW, actor=actor)


def _turn(services: Services, data: MainKeyRevoked | MainKeyRestored, actor: str, inbox_id: int) -> None:
    """Withdraw or give back an environment, or a workspace. Raises NotFound."""
    is_revoked, reason = isinstance(data, MainKeyRevoked), data.reason or ""
    if data.workspace is not None:
        turn_all = locking.revoke_workspace if is_revoked else locking.restore_workspace
        settle = _settle(inbox_id, workspace=data.workspace)
        turn_all(services, data.workspace, actor=actor, reason=reason, settle=settle)
        return
    assert data.environment is not None
    with services.database.read() as connection:
        environment = find_environment(connection, data.environment)
    turn = locking.revoke if is_revoked else locking.restore
    settle = _settle(inbox_id, environments=[str(environment.environment_id)])
    turn(services, [environment], actor=actor, reason=reason, settle=settle)


def _workspaces(connection: Connection, data: InboundData) -> set[str]:
    """The workspaces that an event is about; none where what it names is not there."""
    if isinstance(data, MainKeyChanged):
        return main_keys.workspaces_of(connection, data.main_key)
    if isinstance(data, MainKeyRevoked | MainKeyRestored) and data.workspace is not None:
        return {data.workspace}
    assert data.environment is not None
    try:
        return {find_environment(connection, data.environment).workspace}
    except NotFound:
        return set()


def _settle(inbox_id: int, **outcome: Any) -> Callable[[Connection], None]:
    def settle(connection: Connection) -> None:
        # R2: one who took the event up earlier may have done all of it, and others more, while this one was probing.
        received = inbox.find_received(connection, inbox_id, lock=True)
        if received is None or received.state != "received":
            raise _HandledMeanwhile("The event has had its effect.")
        inbox.settle(connection, inbox_id, state=HANDLED, outcome=outcome)
        reach(Point.EVENT_SETTLED)

    return settle


def _settle_repack(inbox_id: int) -> Callable[[Connection, Repack], None]:
    return lambda connection, repack: _settle(inbox_id, repack=str(repack.repack_id))(connection)


@again_after_conflict
def _refuse(services: Services, inbox_id: int, event: Event, body: bytes, error: KeyrepackError) -> None:
    """Keep it among the rejected events, and tell the one who asked: nothing else was changed (R7, R11)."""
    rejected, data = EventRejected(error.code, f"{error.what} {error.why}".strip(), error.remedy), read_data(event)
    with services.database.write() as connection:
        received = inbox.find_received(connection, inbox_id, lock=True)
        if received is None or received.state != "received":
            return
        inbox.settle(connection, inbox_id, state=REJECTED, outcome={"code": error.code, "why": rejected.why})
        inbox.reject(connection, body, rejected, event)
        if isinstance(data, MainKeyReplaced | MainKeyRotated) and not isinstance(error, NotFound):
            tell(
                connection,
                "main_key.rejected",
                actor=f"event:{event.source}",
                environment_id=find_environment(connection, data.environment).environment_id,
                facts={"code": error.code, "why": rejected.why, "remedy": error.remedy, "event": event.id},
            )
    services.wake.outbox()
    log.warning("event.rejected", code=error.code, event_id=event.id)
