"""Celery lives here: the application, its settings, and the waker that sends wake-ups through it."""

from __future__ import annotations

from math import inf
from typing import Any

from celery import Celery, signals
from kombu import Queue
from kombu.exceptions import OperationalError

from producers.publisher import TRANSPORT_OPTIONS
from producers.topology import HOUSEKEEPING, REPACKS, URGENT, WORK_QUEUES
from workers.compose import process_services
from workers.logs import configure_logs, log
from workers.services import Services
from workers.settings import Settings

HANDLE_EVENT = "keyrepack.handle_event"
WALK = "keyrepack.walk"
SWEEP = "keyrepack.sweep"
PUBLISH_OUTBOX = "keyrepack.publish_outbox"
POLL_MAIN_KEYS = "keyrepack.poll_main_keys"

WAKE_UP_LIFETIME = 120
"""Seconds after which a wake-up that nobody took is dropped: the sweeper has sent others by then."""


MAY_WAIT = {REPACKS: 64, HOUSEKEEPING: 8}
"""Wake-ups that wait in a queue at most: whoever answers one does what all of them were sent for. So a thousand repacks
fill no queue, and eight of housekeeping's, with its ticks, are too many for none of them to publish the outbox."""


class CeleryWaker:
    """Sends wake-ups as tasks. A broker that is away costs nothing but time: the sweeper comes around (R3)."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery

    def repack(self, repack: int, *, times: int = 1) -> None:
        """See Waker.repack."""
        for _ in range(min(times, 8)):
            if not self._send(WALK, REPACKS, repack):
                return  # each of the others would wait for the broker as long again

    def event(self, inbox_id: int) -> None:
        """See Waker.event."""
        self._send(HANDLE_EVENT, URGENT, inbox_id)

    def outbox(self) -> None:
        """See Waker.outbox."""
        self._send(PUBLISH_OUTBOX, HOUSEKEEPING)

    def _send(self, task: str, queue: str, *ids: int) -> bool:
        """Whether the broker took it, and its queue may take more."""
        try:
            if self._waiting(queue) >= MAY_WAIT.get(queue, inf):
                return False
            self._celery.send_task(task, args=ids, queue=queue, expires=WAKE_UP_LIFETIME, retry=False)
        except (OperationalError, OSError) as error:
            log.warning("wake_up.not_sent", task=task, error=type(error).__name__)
            return False
        return True

    def _waiting(self, queue: str) -> int:
        """Messages in a queue that nobody has taken. Nothing is asked of one that may hold any number."""
        if queue not in MAY_WAIT:
            return 0
        known = self._celery.amqp.queues[queue]
        with self._celery.producer_pool.acquire(block=True, timeout=5) as producer:
            try:
                found = producer.channel.queue_declare(
                    queue, durable=known.durable, auto_delete=False, arguments=known.queue_arguments
                )
            except producer.connection.recoverable_connection_errors as error:
                raise OperationalError(str(error)) from error
        return int(found.message_count)


def celery_settings(settings: Settings) -> dict[str, Any]:
    """Celery's settings, each with its reason. Celery ignores unknown names in silence: a test checks every one."""
    sweep, poll = settings.sweep_seconds, settings.poll_tick
    return {
        "broker_url": settings.broker_url.get_secret_value(),
        "broker_transport_options": {
            **TRANSPORT_OPTIONS,
            "visibility_timeout": settings.visibility_timeout,  # slices are far shorter, so nothing runs twice at once
            "unacked_restore_interval": 1,  # look for the unacknowledged of dead workers every second …
            "unacked_restore_throttle": 1,  # … by default it took up to 100 s more than the timeout
            "queue_order_strategy": "priority",  # Redis serves the urgent queue first
        },
        "broker_connection_retry_on_startup": True,
        "broker_connection_timeout": 5,
        "broker_pool_limit": 10,
        "broker_heartbeat": 10,
        "task_serializer": "json",
        "accept_content": ["json"],  # a pickle would be code from whoever reaches the broker
        "result_backend": None,
        "task_ignore_result": True,  # the database is the record
        "task_queues": [Queue(name, durable=True) for name in WORK_QUEUES],
        "task_default_queue": HOUSEKEEPING,
        "task_create_missing_queues": False,
        "task_acks_late": True,  # a killed worker's wake-up comes back; the lease keeps it from doing harm
        "task_reject_on_worker_lost": False,  # it would loop for ever on a task that kills its worker
        "task_acks_on_failure_or_timeout": True,
        "task_soft_time_limit": settings.slice_seconds + 60,
        "task_time_limit": settings.slice_seconds + 120,
        "worker_prefetch_multiplier": 1,  # a wake-up that waits behind a slice is one that nobody answers
        "worker_send_task_events": False,
        "worker_enable_remote_control": False,  # whoever reaches the broker could shut workers down
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_max_memory_per_child": 400_000,  # kB; a leak ends with its process, at a slice's end
        "worker_cancel_long_running_tasks_on_connection_loss": False,  # the work is in the database, not in the message
        "beat_scheduler": "celery.beat:Scheduler",  # no file of its own: ticks are rows
        "beat_max_loop_interval": min(5.0, sweep, poll),
        "beat_schedule": {
            "sweep": {"task": SWEEP, "schedule": sweep, "options": {"queue": HOUSEKEEPING, "expires": sweep * 2}},
            "poll": {"task": POLL_MAIN_KEYS, "schedule": poll, "options": {"queue": HOUSEKEEPING, "expires": poll * 2}},
        },
    }


def make_app(settings: Settings) -> Celery:
    """The Celery application of these settings."""
    application = Celery("keyrepack", set_as_current=True)
    application.conf.update(celery_settings(settings))
    # Whoever can push to the broker can call any registered task: Celery's own (chord_unlock, map, …) are not needed.
    application.finalize()
    for name in list(application.tasks):
        application.tasks.unregister(name)
    return application


settings = Settings()
app = make_app(settings)
waker = CeleryWaker(app)


def services() -> Services:
    """This process's services, made at first use: never before the fork."""
    return process_services(settings, waker)


@signals.setup_logging.connect
def _setup_logging(**_: Any) -> None:
    configure_logs(settings)


@signals.worker_process_init.connect
def _after_fork(**_: Any) -> None:
    """One engine, one event loop and one KMS client a child, made here."""
    services()


@signals.worker_process_shutdown.connect
def _before_exit(**_: Any) -> None:
    services().close()
