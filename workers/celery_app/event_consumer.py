"""Takes other services' events from the broker, in a worker's main process.

An event is in the database before it is acknowledged; what is malformed is kept with its reason and acknowledged too.
While the database is away the worker holds what it took: put back, it would come again at once, and RabbitMQ takes a
message that came too often for a poisonous one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import bootsteps
from kombu import Consumer

from producers.topology import EVENTS, declare, events_queue
from workers.broker.wake_up_messages import body_of
from workers.celery_app.config import CANARY
from workers.errors import DatabaseFailed, NotConfigured
from workers.events.receiving import set_aside, take_event
from workers.maintenance import queue_canaries
from workers.maintenance.heartbeat import Heartbeat
from workers.runtime.counters import Counters
from workers.runtime.logs import log

if TYPE_CHECKING:
    from workers.celery_app.worker_process import WorkerProcess

PAUSE_SECONDS = 1.0
"""How long a worker holds an event that the database could not take, or whose sender could not be judged, before it
tries again.
"""

HELD_AT_MOST = 10
"""Messages a worker holds at once: then the broker hands it no more."""


class EventConsumer(bootsteps.ConsumerStep):
    """Consumes the queue of inbound events beside Celery's own, in the worker's main process."""

    _heartbeat: Heartbeat | None = None  # the main process's own row: what takes events is not what walks
    _consumer: Any  # Celery's consumer, to which this step belongs

    def start(self, c: Any) -> None:
        """See ConsumerStep.start."""
        self._consumer = c
        super().start(c)

    @property
    def _process(self) -> WorkerProcess:
        process: WorkerProcess = self._consumer.app.process
        return process

    def get_consumers(self, channel: Any) -> list[Consumer]:
        """Make one consumer, of any content type: a wrong one must be refused with its reason."""
        self._appear()
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
        """Take one message. While the database is away, or the table of sources cannot be read, it is held.

        Whatever else taking it raises, it is set aside and the next one is taken: no message ends a worker. Only a
        lost connection to the broker passes, for Celery to make a new one.
        """
        try:
            self._take(message)
        except (DatabaseFailed, NotConfigured) as error:
            log.warning("event.held", code=error.code, why=str(error))
            self._consumer.timer.call_after(PAUSE_SECONDS, self.on_message, (message,))
        except Exception as error:
            if is_lost_connection(self._consumer, error):
                raise
            self._set_aside(message, error)

    def _take(self, message: Any) -> None:
        headers = message.headers if isinstance(message.headers, dict) else {}
        is_canary = headers.get("task") == CANARY
        if self._heartbeat is not None:
            self._heartbeat.note_progress(EVENTS, canary=is_canary)
        if is_canary:
            self._take_canary(message, headers)
            return
        services = self._process.services()
        waiting = take_event(services, body_of(message), headers=headers, sources=self._process.sources)
        # R8: after the effect of a revocation: a broker that has just stopped must not hold it up. The connection may
        # be another one by now: then the broker hands the message out again, and a repeat is a no-op (R2).
        self._acknowledge(message)
        if waiting is not None:
            services.wake.event(waiting)

    def _take_canary(self, message: Any, headers: dict[Any, Any]) -> None:
        services = self._process.services()
        try:
            queue_canaries.arrive(services.database, EVENTS, headers=headers, owner=services.owner)
        except DatabaseFailed as error:
            log.warning("canary.left", code=error.code, why=str(error))
        self._acknowledge(message)  # another one comes

    def _set_aside(self, message: Any, error: Exception) -> None:
        """Keep a message that cannot be taken among the rejected events, then let go of it."""
        log.error("event.set_aside", error=type(error).__name__)
        try:
            set_aside(self._process.services(), body_of(message), error)
        except DatabaseFailed:
            self._consumer.timer.call_after(PAUSE_SECONDS, self._set_aside, (message, error))
            return
        except Exception as other:  # noqa: BLE001 - on RabbitMQ it is a dead letter then; elsewhere the log has it
            log.critical("event.lost", error=type(other).__name__)
        message.reject_log_error(log, (*self._consumer.connection_errors, *self._consumer.channel_errors))

    def _acknowledge(self, message: Any) -> None:
        message.ack_log_error(log, (*self._consumer.connection_errors, *self._consumer.channel_errors))

    def shutdown(self, parent: Any) -> None:
        """See ConsumerStep.shutdown; and this process's row goes."""
        super().shutdown(parent)
        if self._heartbeat is not None:
            self._heartbeat.close()
            self._heartbeat = None

    def _appear(self) -> None:
        """Enter this process among the workers, once: a consumer is made anew with every connection to the broker."""
        if self._heartbeat is None:
            services = self._process.services()
            self._heartbeat = Heartbeat(
                services.database, Counters(), owner=services.owner, name=self._process.name, queues=[EVENTS]
            )
            self._heartbeat.start()


def is_lost_connection(consumer: Any, error: Exception) -> bool:
    """Return True if `error` says that the connection to the broker is lost; `consumer` is Celery's.

    kombu counts KeyError among Redis' connection errors; here it is a fault in what was read.
    """
    lost = (*consumer.connection_errors, *consumer.channel_errors)
    return isinstance(error, lost) and not isinstance(error, KeyError)
