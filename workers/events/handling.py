"""Gives received events their effect, once: one function per type of event."""

from __future__ import annotations

import contextlib
from dataclasses import replace
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
from workers.locks import locking
from workers.locks.locking import LockChange
from workers.main_keys import polling
from workers.repack.lifecycle import start_repack
from workers.repack.starting import Request
from workers.runtime.failpoints import Point, reach
from workers.runtime.logs import log
from workers.runtime.transaction_retry import again_after_conflict
from workers.services import Services
from workers.store import inbox
from workers.store.database import Connection
from workers.store.environments import find_environment
from workers.store.inbox import HANDLED, RECEIVED, REJECTED, Received
from workers.store.outbox import record_event
from workers.store.repacks import Repack


class HandledMeanwhile(LostRace):
    """Another worker gave the event its effect."""


def handle_event(services: Services, inbox_id: int) -> None:
    """Give a received event its effect, in one transaction with the record of it: a repeat is a no-op (R2).

    Transient failures (a KMS or the database away) leave it waiting; the sweeper comes back to it.
    """
    with services.database.read() as connection:
        received = inbox.find_received(connection, inbox_id)
    if received is None or received.state != RECEIVED:
        return
    event = read_message(received.body)
    if event.type not in INBOUND:  # a newer program took it in: that one gives it its effect
        log.info("event.left", event_id=event.id, type=event.type)
        return
    try:
        with services.tracer.span("event.handle", type=event.type, inbox=inbox_id):
            _handle(services, received, event, read_data(event))
        log.info("event.handled", event_id=event.id, type=event.type)
    except HandledMeanwhile:
        log.info("event.repeated", event_id=event.id)
    except AlreadyInForce as error:
        with services.database.write() as connection, contextlib.suppress(HandledMeanwhile):
            settle(connection, received, code=error.code, why=error.why)
    except Permanent as error:
        refuse(services, event, received.body, error)


def _handle(services: Services, received: Received, event: Event, data: InboundData) -> None:
    match data:
        case MainKeyRevoked() | MainKeyRestored():
            _revoke_or_restore(services, received, event, data)
        case MainKeyChanged():
            _poll(services, received, data)
        case MainKeyReplaced() | MainKeyRotated():
            _start(services, received, event, data)


@again_after_conflict
def _revoke_or_restore(services: Services, received: Received, event: Event, data: InboundData) -> None:
    with services.database.write() as connection:
        change = apply_revocation(connection, services, event, data)
        settle(connection, received, **change.outcome)
    locking.announce(services, change)


def apply_revocation(connection: Connection, services: Services, event: Event, data: InboundData) -> LockChange:
    """Revoke or restore an environment or a whole workspace, in a transaction of the caller's; announce it afterwards.

    Raises NotFound.
    """
    assert isinstance(data, MainKeyRevoked | MainKeyRestored)
    actor, reason = f"event:{event.source}", data.reason or ""
    if data.workspace is not None:
        of_workspace = locking.revoke_workspace_in if isinstance(data, MainKeyRevoked) else locking.restore_workspace_in
        return of_workspace(connection, services, data.workspace, actor=actor, reason=reason)
    assert data.environment is not None
    environment = find_environment(connection, data.environment)
    of_environments = locking.revoke_in if isinstance(data, MainKeyRevoked) else locking.restore_in
    return of_environments(connection, services, [environment], actor=actor, reason=reason)


def _poll(services: Services, received: Received, data: MainKeyChanged) -> None:
    """Poll the main key that is said to have changed: a hint is never believed."""

    def settle_with(connection: Connection) -> None:
        settle(connection, received, looked_into=data.main_key)

    polling.poll_now(services, data.main_key, in_transaction=settle_with)


def _start(services: Services, received: Received, event: Event, data: MainKeyReplaced | MainKeyRotated) -> None:
    """Start the repack that a replacement or a rotation asks for."""
    with services.database.read() as connection:
        environment = find_environment(connection, data.environment)
    target, mode = None, Mode.SHALLOW
    if isinstance(data, MainKeyReplaced):
        target, mode = MainKeyUri.parse(data.main_key), data.mode
    request = Request(environment=environment, target=target, mode=mode, actor=f"event:{event.source}")

    def settle_with(connection: Connection, repack: Repack) -> None:
        settle(connection, received, repack=str(repack.repack_id))

    start_repack(services, request, in_transaction=settle_with)


def settle(connection: Connection, received: Received, **outcome: Any) -> Received:
    """Record what came of an event, in the transaction of its effect. Raises LostRace where it has had it already.

    R2: a worker that took the event up earlier may have done all of it while this one was probing.
    """
    current = inbox.find_received(connection, received.id, lock=True)
    if current is None or current.state != RECEIVED:
        raise HandledMeanwhile("The event has had its effect.")
    inbox.settle(connection, received.id, state=HANDLED, outcome=outcome)
    reach(Point.EVENT_SETTLED)
    return replace(received, state=HANDLED, outcome=outcome)


@again_after_conflict
def refuse(services: Services, event: Event, body: bytes, error: KeyrepackError) -> Received:
    """Keep an event whose effect was refused among the rejected ones, and tell its sender (R7, R11)."""
    rejected, data = EventRejected(error.code, f"{error.what} {error.why}".strip(), error.remedy), read_data(event)
    with services.database.write() as connection:
        found = inbox.receive(connection, event, body)
        current = inbox.find_received(connection, found.id, lock=True) or found
        received = replace(current, is_new=found.is_new)
        if received.state != RECEIVED:
            return received
        inbox.settle(connection, received.id, state=REJECTED, outcome={"code": error.code, "why": rejected.why})
        inbox.reject(connection, body, rejected, event)
        if isinstance(data, MainKeyReplaced | MainKeyRotated) and not isinstance(error, NotFound):
            record_event(
                connection,
                "main_key.rejected",
                actor=f"event:{event.source}",
                environment_id=find_environment(connection, data.environment).environment_id,
                facts={"code": error.code, "why": rejected.why, "remedy": error.remedy, "event": event.id},
            )
    services.wake.outbox()
    log.warning("event.rejected", code=error.code, event_id=event.id)
    return replace(received, state=REJECTED)
