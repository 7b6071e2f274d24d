"""Celery's tasks: each takes an id at most, checks it against the database, and calls a function.

A task finds its process by its application: nothing is made when this file is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
from celery import Task

from producers.publisher import BrokerAway, KombuPublisher
from producers.topology import SENT_AT, TOLD
from workers.celery_app.config import CANARY, HANDLE_EVENT, POLL_MAIN_KEYS, PUBLISH_OUTBOX, SWEEP, WALK
from workers.errors import NotFound, Transient
from workers.events import handling
from workers.kms.rate_limit.budget import background
from workers.main_keys import polling
from workers.maintenance import audit_check, outbox_relay, queue_canaries, sweeper
from workers.repack import lifecycle
from workers.repack.time_slices import next_repack
from workers.runtime.failpoints import Point, reach
from workers.runtime.logs import log
from workers.store import schedule


def walk(self: Task, _asked_by: int) -> None:
    """Walk the repack that has waited longest, whichever one sent the wake-up, and pass that on until none waits."""
    services = self.app.process.services()
    try:
        repack_id = next_repack(services)
        if repack_id is None:
            return
        structlog.contextvars.bind_contextvars(repack=repack_id)
        with background():
            lifecycle.walk_slice(services, repack_id)
        reach(Point.SLICE_ENDED)
        services.wake.repack(repack_id)
    except (NotFound, Transient) as error:
        log.warning("slice.left", code=error.code, why=str(error))
    finally:
        structlog.contextvars.clear_contextvars()


def handle_event(self: Task, inbox_id: int) -> None:
    """Give a received event its effect."""
    try:
        with background():
            handling.handle_event(self.app.process.services(), inbox_id)
    except Transient as error:
        log.warning("event.left", code=error.code, why=str(error))


def sweep(self: Task) -> None:
    """Wake what lies idle."""
    services = self.app.process.services()
    try:
        if sweeper.take_tick(services, schedule.SWEEP, services.settings.sweep_seconds):
            sweeper.sweep(services)
        if sweeper.take_tick(services, schedule.VERIFY_AUDIT, services.settings.audit_verify_seconds):
            audit_check.verify_audit(services)
    except Transient as error:
        log.warning("sweep.left", code=error.code, why=str(error))


def publish_outbox(self: Task) -> None:
    """Publish outgoing events."""
    services = self.app.process.services()
    publisher = KombuPublisher(services.settings.broker_url.get_secret_value(), exchange=TOLD)
    try:
        outbox_relay.publish_outbox(services, publisher)
    except (BrokerAway, Transient) as error:
        log.warning("outbox.left", code=error.code, why=str(error))
    finally:
        publisher.close()


def poll_main_keys(self: Task) -> None:
    """Poll the main keys that are due."""
    services = self.app.process.services()
    try:
        if sweeper.take_tick(services, schedule.POLL, services.settings.poll_tick):
            with background():
                polling.poll_main_keys(services)
    except Transient as error:
        log.warning("poll.left", code=error.code, why=str(error))


def canary(self: Task) -> None:
    """Record that a queue is served: this message has come through it."""
    services, queue = self.app.process.services(), str((self.request.delivery_info or {}).get("routing_key"))
    try:
        headers = {SENT_AT: self.request.get(SENT_AT)}
        queue_canaries.arrive(services.database, queue, headers=headers, owner=services.owner)
    except Transient as error:
        log.warning("canary.left", code=error.code, why=str(error))


TASKS: dict[str, Callable[..., Any]] = {
    WALK: walk,
    HANDLE_EVENT: handle_event,
    SWEEP: sweep,
    PUBLISH_OUTBOX: publish_outbox,
    POLL_MAIN_KEYS: poll_main_keys,
    CANARY: canary,
}
"""By the name that is in messages: it stays as it is, so that two releases can run beside each other."""
