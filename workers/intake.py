"""Events in: take one from the broker (durable before it is acknowledged), then give it its effect, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from schemas.errors import EventRejected, KeyrepackError
from schemas.events import Event, MainKeyReplaced, read_data, read_event
from schemas.keys import MainKeyUri
from schemas.states import Mode
from workers.errors import AlreadyInForce, LostRace, NotFound, Permanent
from workers.logs import log
from workers.repack import Request, start_repack
from workers.services import Services
from workers.store import inbox
from workers.store.database import Connection, Database
from workers.store.environments import find_environment
from workers.store.outbox import tell
from workers.store.repacks import Repack

HANDLED, REJECTED = "handled", "rejected"


class _HandledMeanwhile(LostRace):
    """Another worker gave the event its effect."""


def take_event(database: Database, body: bytes) -> int | None:
    """Record an event from outside; whatever comes back may be acknowledged. Raises DatabaseAway: do not acknowledge.

    Returns the inbox's row of an event that waits for its effect; None for a repeat and for what was rejected.
    """
    event: Event | None = None
    try:
        event = read_event(body)
        read_data(event)
        with database.write() as connection:
            received = inbox.receive(connection, event, body)
    except EventRejected as error:
        with database.write() as connection:
            inbox.reject(connection, body, error, event)
        log.warning("event.rejected", code=error.code, event_id=event.id if event else None)
        return None
    return received.id if received.state == "received" else None


def handle_event(services: Services, inbox_id: int) -> None:
    """Give a received event its effect, in one transaction with the record of it: a repeat is a no-op (R2).

    Transient failures (a KMS or the database away) leave it waiting; the sweeper comes back to it.
    """
    with services.database.read() as connection:
        received = inbox.find_received(connection, inbox_id)
    if received is None or received.state != "received":
        return
    event = read_event(received.body)
    try:
        repack = start_repack(services, _request(services, event), settle=_settle(inbox_id))
        log.info("event.handled", event_id=event.id, repack=str(repack.repack_id))
    except _HandledMeanwhile:
        log.info("event.repeated", event_id=event.id)
    except AlreadyInForce as error:
        _close(services, inbox_id, HANDLED, {"code": error.code, "why": error.why})
    except Permanent as error:
        _refuse(services, inbox_id, event, received.body, error)


def _request(services: Services, event: Event) -> Request:
    data = read_data(event)
    with services.database.read() as connection:
        environment = find_environment(connection, data.environment)
    actor = f"event:{event.source}"
    if isinstance(data, MainKeyReplaced):
        return Request(environment=environment, target=MainKeyUri.parse(data.main_key), mode=data.mode, actor=actor)
    return Request(environment=environment, target=None, mode=Mode.SHALLOW, actor=actor)


def _settle(inbox_id: int) -> Callable[[Connection, Repack], None]:
    def settle(connection: Connection, repack: Repack) -> None:
        # R2: one who took the event up earlier may have done all of it, and others more, while this one was probing.
        received = inbox.find_received(connection, inbox_id, lock=True)
        if received is None or received.state != "received":
            raise _HandledMeanwhile("The event has had its effect.")
        inbox.settle(connection, inbox_id, state=HANDLED, outcome={"repack": str(repack.repack_id)})

    return settle


def _close(services: Services, inbox_id: int, state: str, outcome: dict[str, Any]) -> None:
    with services.database.write() as connection:
        received = inbox.find_received(connection, inbox_id, lock=True)
        if received is not None and received.state == "received":
            inbox.settle(connection, inbox_id, state=state, outcome=outcome)


def _refuse(services: Services, inbox_id: int, event: Event, body: bytes, error: KeyrepackError) -> None:
    """Keep it among the rejected events, and tell the one who asked: nothing else was changed (R7, R11)."""
    rejected = EventRejected(error.code, f"{error.what} {error.why}".strip(), error.remedy)
    with services.database.write() as connection:
        received = inbox.find_received(connection, inbox_id, lock=True)
        if received is None or received.state != "received":
            return
        inbox.settle(connection, inbox_id, state=REJECTED, outcome={"code": error.code, "why": rejected.why})
        inbox.reject(connection, body, rejected, event)
        if not isinstance(error, NotFound):
            environment = find_environment(connection, read_data(event).environment)
            tell(
                connection,
                "main_key.rejected",
                actor=f"event:{event.source}",
                environment_id=environment.environment_id,
                facts={"code": error.code, "why": rejected.why, "remedy": error.remedy, "event": event.id},
            )
    services.wake.outbox()
    log.warning("event.rejected", code=error.code, event_id=event.id)
