"""Celery's tasks: each takes an id at most, checks it against the database, and calls a function."""

from __future__ import annotations

import structlog
from celery import Task

from producers.publisher import BrokerAway, KombuPublisher
from producers.topology import SENT_AT, TOLD
from workers.celery_app.app import (
    CANARY,
    HANDLE_EVENT,
    POLL_MAIN_KEYS,
    PUBLISH_OUTBOX,
    SWEEP,
    WALK,
    app,
    services,
    settings,
    waker,
)
from workers.errors import NotFound, Transient
from workers.events import receiving
from workers.kms.rate_limit.budget import background
from workers.main_keys import polling
from workers.maintenance import queue_canaries, sweeper
from workers.repack import lifecycle
from workers.repack.time_slices import next_turn
from workers.runtime.failpoints import Point, reach
from workers.runtime.logs import log
from workers.store import schedule


@app.task(name=WALK, shared=False)
def walk(_asked_by: int) -> None:
    """Work for the repack whose turn it is, whichever one sent the wake-up, and pass that on until none waits."""
    try:
        repack_id = next_turn(services())
        if repack_id is None:
            return
        structlog.contextvars.bind_contextvars(repack=repack_id)
        with background():
            lifecycle.walk_slice(services(), repack_id)
        reach(Point.SLICE_ENDED)
        waker.repack(repack_id)
    except (NotFound, Transient) as error:
        log.warning("slice.left", code=error.code, why=str(error))
    finally:
        structlog.contextvars.clear_contextvars()


@app.task(name=HANDLE_EVENT, shared=False)
def handle_event(inbox_id: int) -> None:
    """Give a received event its effect."""
    try:
        with background():
            receiving.handle_event(services(), inbox_id)
    except Transient as error:
        log.warning("event.left", code=error.code, why=str(error))


@app.task(name=SWEEP, shared=False)
def sweep() -> None:
    """Wake what lies idle."""
    try:
        if sweeper.take_tick(services(), schedule.SWEEP, settings.sweep_seconds):
            sweeper.sweep(services())
        if sweeper.take_tick(services(), schedule.VERIFY_AUDIT, settings.audit_verify_seconds):
            sweeper.verify_audit(services())
    except Transient as error:
        log.warning("sweep.left", code=error.code, why=str(error))


@app.task(name=PUBLISH_OUTBOX, shared=False)
def publish_outbox() -> None:
    """Publish outgoing events."""
    publisher = KombuPublisher(settings.broker_url.get_secret_value(), exchange=TOLD)
    try:
        sweeper.publish_outbox(services(), publisher)
    except (BrokerAway, Transient) as error:
        log.warning("outbox.left", code=error.code, why=str(error))
    finally:
        publisher.close()


@app.task(name=POLL_MAIN_KEYS, shared=False)
def poll_main_keys() -> None:
    """Look at the main keys that are due."""
    try:
        if sweeper.take_tick(services(), schedule.POLL, settings.poll_tick):
            with background():
                polling.poll_main_keys(services())
    except Transient as error:
        log.warning("poll.left", code=error.code, why=str(error))


@app.task(name=CANARY, bind=True, shared=False)
def canary(self: Task) -> None:
    """Say that a queue is served: this has come through it."""
    own, queue = services(), str((self.request.delivery_info or {}).get("routing_key"))
    try:
        queue_canaries.arrive(own.database, queue, headers={SENT_AT: self.request.get(SENT_AT)}, owner=own.owner)
    except Transient as error:
        log.warning("canary.left", code=error.code, why=str(error))
