"""What a worker's main process does: takes other services' events from the broker, and judges how old a wake-up is.

An event is in the database before it is acknowledged; what is malformed is kept with its reason and acknowledged too.
While the database is away the worker holds what it took: put back, it would come again at once, and RabbitMQ takes a
message that came too often for a poisonous one.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from celery import bootsteps
from celery.worker.request import Request
from celery.worker.state import revoked as dropped
from kombu import Consumer

from producers.topology import EVENTS, declare, events_queue
from schemas.errors import KeyrepackError
from workers.broker.wake_up_messages import body_of
from workers.celery_app.app import CANARY, app, seat, services, settings, waker
from workers.compose import arm_failpoints, process_name
from workers.errors import DatabaseFailed, NotConfigured
from workers.events.receiving import handle_event, is_at_once, set_aside, take_event
from workers.events.sources import Sources
from workers.maintenance import queue_canaries
from workers.maintenance.heartbeat import Presence
from workers.runtime.counters import Counters
from workers.runtime.failpoints import Point, reach
from workers.runtime.logs import log
from workers.store.database import Database

PAUSE_SECONDS = 1.0
"""How long a worker holds an event that the database could not take, or nobody could judge, before it tries again."""

HELD_AT_MOST = 10
"""Messages a worker holds at once: then the broker hands it no more."""


@cache
def main_process_database() -> Database:
    """The connection of a worker's main process: its children, forked earlier or later, have their own."""
    arm_failpoints(settings)
    return Database(settings.database_url.get_secret_value(), pool_size=2)


class EventConsumer(bootsteps.ConsumerStep):
    """Consumes the queue of inbound events beside Celery's own, in the worker's main process."""

    _sources = Sources.of(settings)
    _presence: Presence | None = None  # the main process's own row: what takes events is not what walks
    _owner = process_name()
    _worker: Any  # Celery's consumer, to which this step belongs

    def start(self, c: Any) -> None:
        """See ConsumerStep.start."""
        self._worker = c
        super().start(c)

    def get_consumers(self, channel: Any) -> list[Consumer]:
        """One consumer, one message at a time; any content type, for a wrong one must be refused with its reason."""
        self._appear(main_process_database())
        declare(channel)
        return [
            Consumer(
                channel,
                queues=[events_queue()],
                on_message=self.on_message,
                on_decode_error=lambda message, _: self.on_message(message),  # what it cannot unpack is no event
                prefetch_count=HELD_AT_MOST,
            )
        ]

    def on_message(self, message: Any) -> None:
        """Take one message. While the database is away, or nobody can say who may say what, it is held.

        Whatever else taking it raises, it is set aside and the next one is taken: no message ends a worker. Only a
        lost connection to the broker passes, for Celery to make a new one.
        """
        try:
            self._take(message)
        except (DatabaseFailed, NotConfigured) as error:
            log.warning("event.held", code=error.code, why=str(error))
            self._worker.timer.call_after(PAUSE_SECONDS, self.on_message, (message,))
        except Exception as error:
            if is_lost_connection(self._worker, error):
                raise
            self._set_aside(message, error)

    def _take(self, message: Any) -> None:
        database = main_process_database()
        is_canary = isinstance(message.headers, dict) and message.headers.get("task") == CANARY
        if self._presence is not None:
            self._presence.note_progress(EVENTS, canary=is_canary)
        if is_canary:
            self._take_canary(database, message)
            return
        waiting = take_event(
            database,
            body_of(message),
            headers=message.headers if isinstance(message.headers, dict) else {},
            sources=self._sources,
            tolerance=settings.event_tolerance_seconds,
        )
        reach(Point.EVENT_TAKEN)
        is_done = waiting is not None and self._did_at_once(waiting, database)
        # R8: after what is done at once: a broker that has just stopped must not hold a revocation up. The connection
        # may be another one by now: then the broker hands the message out again, and a repeat is a no-op (R2).
        message.ack_log_error(log, (*self._worker.connection_errors, *self._worker.channel_errors))
        if waiting is not None and not is_done:
            waker.event(waiting)

    def _set_aside(self, message: Any, error: Exception) -> None:
        """Keep a message that cannot be taken among the rejected events, then let go of it."""
        log.error("event.set_aside", error=type(error).__name__)
        try:
            set_aside(main_process_database(), body_of(message), error)
        except DatabaseFailed:
            self._worker.timer.call_after(PAUSE_SECONDS, self._set_aside, (message, error))
            return
        except Exception as other:  # noqa: BLE001 - on RabbitMQ it is a dead letter then; elsewhere the log has it
            log.critical("event.lost", error=type(other).__name__)
        message.reject_log_error(log, (*self._worker.connection_errors, *self._worker.channel_errors))

    def shutdown(self, parent: Any) -> None:
        """See ConsumerStep.shutdown; and this process's row goes."""
        super().shutdown(parent)
        if self._presence is not None:
            self._presence.close()
            self._presence = None

    def _appear(self, database: Database) -> None:
        """Among the workers, once: a consumer is made anew with every connection to the broker."""
        if self._presence is None:
            name = str(seat["name"])
            self._presence = Presence(database, Counters(), owner=self._owner, name=name, queues=[EVENTS])
            self._presence.start()

    def _take_canary(self, database: Database, message: Any) -> None:
        try:
            queue_canaries.arrive(database, EVENTS, headers=message.headers, owner=self._owner)
        except DatabaseFailed as error:
            log.warning("canary.left", code=error.code, why=str(error))
        message.ack_log_error(log, (*self._worker.connection_errors, *self._worker.channel_errors))  # another one comes

    def _did_at_once(self, inbox_id: int, database: Database) -> bool:
        try:
            if not is_at_once(database, inbox_id):
                return False
            handle_event(services(), inbox_id)
        except Exception as error:  # noqa: BLE001 - it is in the inbox: a task tries again, and the sweeper after it
            told = str(error) if isinstance(error, KeyrepackError) else type(error).__name__
            log.warning("event.left", why=told)
            return False
        return True


class PunctualRequest(Request):
    """A wake-up as it was received. Celery would judge its age by this machine's clock."""

    def maybe_expire(self) -> bool:
        """Whether it is too old to be answered: the sweeper has sent others by then."""
        if self.expires is None or app.now() <= self.expires:
            return False
        dropped.add(self.id)
        return True


def is_lost_connection(worker: Any, error: Exception) -> bool:
    """Return True if `error` says that the connection to the broker is lost; `worker` is Celery's consumer.

    kombu counts KeyError among Redis' connection errors; here it is a fault in what was read.
    """
    lost = (*worker.connection_errors, *worker.channel_errors)
    return isinstance(error, lost) and not isinstance(error, KeyError)


def install() -> None:
    """Make workers of this application take events."""
    app.steps["consumer"].add(EventConsumer)
