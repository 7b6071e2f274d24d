"""Sends wake-ups as Celery tasks."""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu import Producer
from kombu.exceptions import OperationalError

from producers.topology import HOUSEKEEPING, REPACKS, URGENT
from producers.transports import PUBLISH_TIMEOUT
from workers.celery_app.config import HANDLE_EVENT, MAY_WAIT, PUBLISH_OUTBOX, WAKE_UP_LIFETIME, WALK
from workers.runtime.logs import log

ONCE_MORE: dict[str, Any] = {"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2}
"""A pooled connection outlives the broker it was to, and only its use shows it: a new one is made, and tried once."""

AT_ONCE = 8
"""Wake-ups that are sent for one repack at most: the workers that answer pass it on."""


class CeleryWaker:
    """Sends wake-ups as tasks. A broker that is away costs nothing but time: the sweeper comes around (R3)."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery

    def repack(self, repack: int, *, times: int = 1) -> None:
        """See Waker.repack."""
        for _ in range(min(times, AT_ONCE)):
            if not self._send(WALK, REPACKS, repack):
                return  # each of the others would wait for the broker as long again

    def event(self, inbox_id: int) -> None:
        """See Waker.event."""
        self._send(HANDLE_EVENT, URGENT, inbox_id)

    def outbox(self) -> None:
        """See Waker.outbox."""
        self._send(PUBLISH_OUTBOX, HOUSEKEEPING)

    def _send(self, task: str, queue: str, *ids: int) -> bool:
        """Send one; return True if the broker took it, and its queue may take more."""
        try:
            with self._celery.producer_pool.acquire(block=True, timeout=5) as producer:
                if queue in MAY_WAIT and self._waiting(producer, queue) >= MAY_WAIT[queue]:
                    return False
                self._celery.send_task(
                    task,
                    args=ids,
                    queue=queue,
                    expires=WAKE_UP_LIFETIME,
                    retry=True,
                    retry_policy=ONCE_MORE,
                    confirm_timeout=PUBLISH_TIMEOUT,
                    producer=producer,
                )
        except (OperationalError, OSError) as error:
            log.warning("wake_up.not_sent", task=task, error=type(error).__name__)
            return False
        return True

    def _waiting(self, producer: Producer, name: str) -> int:
        """Count the messages in a queue that no worker has taken."""
        queue = self._celery.amqp.queues[name]

        def ask() -> int:
            found = producer.channel.queue_declare(
                name, durable=queue.durable, auto_delete=False, arguments=queue.queue_arguments
            )
            return int(found.message_count)

        waiting: int = producer.connection.ensure(producer, ask, **ONCE_MORE)()
        return waiting
