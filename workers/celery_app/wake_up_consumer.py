"""Celery's consumer of the queues of work, as our workers run it (worker_consumer): it refuses what is no wake-up.

Celery drops such a message, or ends over it. Here it is kept among the rejected events with a code, and then rejected:
RabbitMQ puts it among its dead letters, other brokers forget it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from celery.worker.consumer import Consumer

from producers.topology import dead_letters, has_dead_letters
from schemas.errors import EventRejected
from workers.broker.wake_up_messages import WakeUpRefused, body_of, require_wake_up
from workers.celery_app.config import TASK_IDS
from workers.celery_app.event_consumer import PAUSE_SECONDS, is_lost_connection
from workers.errors import DatabaseFailed
from workers.runtime.logs import log
from workers.store import inbox

RECONNECT: dict[str, float] = {"interval_start": 0.2, "interval_step": 0.4, "interval_max": 3.0}
"""Seconds between two tries to reach a broker that is away. Celery's own grow to 30: so long after the broker is back
its workers would stand idle.
"""


class WakeUpConsumer(Consumer):
    """Takes wake-ups, in a worker's main process, and hands them to its children."""

    class Blueprint(Consumer.Blueprint):
        """Celery's own steps; without the 28 queues it makes for put-off tasks on RabbitMQ: we have none."""

        default_steps = [step for step in Consumer.Blueprint.default_steps if not step.endswith(":DelayedDelivery")]  # noqa: RUF012

    def connect(self) -> Any:
        """See Consumer.connect. Where dead letters go has to be there before anything is rejected."""
        connection = super().connect()
        if has_dead_letters(connection.default_channel):
            dead_letters()(connection.default_channel).declare()
        return connection

    def ensure_connected(self, conn: Any) -> Any:
        """See Consumer.ensure_connected."""
        conn.ensure_connection = partial(conn.ensure_connection, **RECONNECT)
        return super().ensure_connected(conn)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """See Consumer.create_task_handler."""
        hand_on = super().create_task_handler(*args, **kwargs)

        def take(message: Any) -> None:
            try:
                require_wake_up(message, queue=_queue_of(message), tasks=TASK_IDS)
                hand_on(message)
            except WakeUpRefused as error:
                self._refuse(message, error)
            except Exception as error:
                if is_lost_connection(self, error):
                    raise
                self._refuse(message, _malformed(message, error))  # a header of another kind than Celery thinks

        return take

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """See Consumer.on_decode_error: such as a body that is said to be compressed, and is not."""
        self._refuse(message, _malformed(message, exc))

    def _refuse(self, message: Any, error: EventRejected) -> None:
        """Keep it, then let go of it; where the database is away that waits, and the message with it."""
        try:
            with self.app.process.services().database.write() as connection:
                inbox.reject(connection, body_of(message), error)
        except DatabaseFailed:
            self.timer.call_after(PAUSE_SECONDS, self._refuse, (message, error))
            return
        log.warning("message.rejected", code=error.code, queue=_queue_of(message))
        message.reject_log_error(log, (*self.connection_errors, *self.channel_errors))


def _malformed(message: Any, error: Exception) -> WakeUpRefused:
    why = f"it is not a message that can be read ({type(error).__name__})."
    return WakeUpRefused("malformed_message", why, _queue_of(message))


def _queue_of(message: Any) -> str:
    """Return the queue's name, by the routing key: wake-ups are sent to a queue by its name."""
    return str(message.delivery_info.get("routing_key", ""))[:100] or "a queue of work"
