"""Celery's tasks: each takes an id at most, checks it against the database, and calls a function."""

from __future__ import annotations

import structlog

from producers.publisher import BrokerAway, KombuPublisher
from producers.topology import TOLD
from workers import intake, repack, sweeper, watching
from workers.app import HANDLE_EVENT, POLL_MAIN_KEYS, PUBLISH_OUTBOX, SWEEP, WALK, app, services, settings, waker
from workers.errors import NotFound, Transient
from workers.failpoints import Point, reach
from workers.logs import log


@app.task(name=WALK, shared=False)
def walk(repack_id: int) -> None:
    """Work on a repack for a slice, and pass the wake-up on if there is more."""
    structlog.contextvars.bind_contextvars(repack=repack_id)
    try:
        if repack.walk_slice(services(), repack_id):
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
        intake.handle_event(services(), inbox_id)
    except Transient as error:
        log.warning("event.left", code=error.code, why=str(error))


@app.task(name=SWEEP, shared=False)
def sweep() -> None:
    """Wake what lies idle."""
    try:
        if sweeper.take_tick(services(), "sweep", settings.sweep_seconds):
            sweeper.sweep(services())
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
        if sweeper.take_tick(services(), "poll", settings.poll_tick):
            watching.poll_main_keys(services())
    except Transient as error:
        log.warning("poll.left", code=error.code, why=str(error))
