"""Celery lives here: the application, its settings, and the waker that sends wake-ups through it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from celery import Celery, Task, signals
from kombu import Producer, Queue
from kombu.exceptions import OperationalError

from producers.topology import HOUSEKEEPING, QUEUES, REPACKS, SENT_AT, URGENT, work_queues
from producers.transports import PUBLISH_TIMEOUT, consumer_options, kind_of
from schemas.broker_address import read_broker_url
from workers.compose import process_services
from workers.maintenance.heartbeat import Presence
from workers.runtime.database_clock import SharedClock
from workers.runtime.logs import configure_logs, log
from workers.runtime.settings import Settings
from workers.services import Services
from workers.store.database import Database

HANDLE_EVENT = "keyrepack.handle_event"
WALK = "keyrepack.walk"
SWEEP = "keyrepack.sweep"
PUBLISH_OUTBOX = "keyrepack.publish_outbox"
POLL_MAIN_KEYS = "keyrepack.poll_main_keys"
CANARY = "keyrepack.canary"

TASK_IDS = {HANDLE_EVENT: 1, WALK: 1, SWEEP: 0, PUBLISH_OUTBOX: 0, POLL_MAIN_KEYS: 0, CANARY: 0}
"""The tasks there are, and how many ids each takes. Anything else in a queue of work is refused."""

WAKE_UP_LIFETIME = 120
"""Seconds after which a wake-up that nobody took is dropped: the sweeper has sent others by then."""


MAY_WAIT = {REPACKS: 64, HOUSEKEEPING: 8}
"""Wake-ups that wait in a queue at most: whoever answers one does what all of them were sent for. So a thousand repacks
fill no queue, and eight of housekeeping's, with its ticks, are too many for none of them to publish the outbox."""

ONCE_MORE: dict[str, Any] = {"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2}
"""A pooled connection outlives the broker it was to, and only its use tells: a new one is made, and tried once."""

TRANSPORTS: dict[str, str] = {"redis": "workers.broker.redis_transport:Transport"}
"""Our own kind of kombu's transport, by broker: where its own lets a stranger's bytes end a worker."""


class WakeUp(Task):
    """A task whose message is too old by the database's clock, not by that of whoever took it."""

    abstract = True
    Request = "workers.celery_app.event_consumer:PunctualRequest"


class Application(Celery):
    """Celery, which tells the time by the database: a machine whose clock is off sends nothing that is born too old."""

    task_cls = WakeUp

    def __init__(self, clock: SharedClock) -> None:
        self.shared_clock = clock
        super().__init__("keyrepack", set_as_current=True)

    def now(self) -> datetime:
        """Asked for by whoever sends a message with a lifetime, beat among them."""
        return datetime.fromtimestamp(self.shared_clock(), UTC)


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
        """Messages in a queue that nobody has taken."""
        queue = self._celery.amqp.queues[name]

        def ask() -> int:
            found = producer.channel.queue_declare(
                name, durable=queue.durable, auto_delete=False, arguments=queue.queue_arguments
            )
            return int(found.message_count)

        waiting: int = producer.connection.ensure(producer, ask, **ONCE_MORE)()
        return waiting


def _canaries(seconds: float) -> dict[str, dict[str, Any]]:
    """Beat sends one into each queue itself: a queue that nobody serves keeps no other one's canary from being sent.

    Straight into the queue, and never declared here: the queue of events has its own exchange and arguments.
    """
    return {
        f"canary to {name}": {
            "task": CANARY,
            "schedule": seconds,
            "options": {"queue": Queue(name), "declare": [], "expires": WAKE_UP_LIFETIME},
        }
        for name in QUEUES
    }


def celery_settings(settings: Settings) -> dict[str, Any]:
    """Celery's settings, each with its reason. Celery ignores unknown names in silence: a test checks every one."""
    sweep, poll, url = settings.sweep_seconds, settings.poll_tick, settings.broker_url.get_secret_value()
    address = read_broker_url(url)
    return {
        "broker_url": address.url,
        "broker_use_ssl": dict(address.tls) or False,  # our transport's name hides `rediss` from kombu
        "broker_transport": TRANSPORTS.get(kind_of(url)),
        "broker_transport_options": consumer_options(url, visibility_timeout=settings.visibility_timeout),
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # a worker waits for its broker for as long as it takes
        "broker_connection_timeout": 5,
        "broker_pool_limit": 10,
        "broker_heartbeat": 10,
        "task_serializer": "json",
        "accept_content": ["json"],  # a pickle would be code from whoever reaches the broker
        "result_backend": None,
        "task_ignore_result": True,  # the database is the record
        "task_queues": work_queues(),
        "task_default_queue": HOUSEKEEPING,
        "task_create_missing_queues": False,
        "task_acks_late": True,  # a killed worker's wake-up comes back; the lease keeps it from doing harm
        "task_reject_on_worker_lost": False,  # it would loop for ever on a task that kills its worker
        "task_acks_on_failure_or_timeout": True,
        "task_soft_time_limit": settings.slice_seconds + 60,
        "task_time_limit": settings.slice_seconds + 120,
        "worker_consumer": "workers.celery_app.wake_up_consumer:WakeUpConsumer",  # refuses what is no wake-up of ours
        "worker_prefetch_multiplier": 1,  # a wake-up that waits behind a slice is one that nobody answers
        "worker_send_task_events": False,
        "worker_enable_remote_control": False,  # whoever reaches the broker could shut workers down
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_max_memory_per_child": 400_000,  # kB; a leak ends with its process, at a slice's end
        "worker_cancel_long_running_tasks_on_connection_loss": False,  # the work is in the database, not in the message
        "beat_scheduler": "celery.beat:Scheduler",  # no file of its own: ticks are rows
        "beat_max_loop_interval": min(5.0, sweep, poll, settings.canary_seconds),
        "beat_schedule": {
            "sweep": {"task": SWEEP, "schedule": sweep, "options": _tick(sweep)},
            "poll": {"task": POLL_MAIN_KEYS, "schedule": poll, "options": _tick(poll)},
            **_canaries(settings.canary_seconds),
        },
    }


def _tick(seconds: float) -> dict[str, Any]:
    """How beat sends a tick: one that waited for two periods is one of three."""
    return {"queue": HOUSEKEEPING, "expires": seconds * 2, "confirm_timeout": PUBLISH_TIMEOUT}


def make_app(settings: Settings) -> Celery:
    """The Celery application of these settings."""
    application = Application(SharedClock(lambda: _ask_database(settings)))
    application.conf.update(celery_settings(settings))
    # Whoever can push to the broker can call any registered task: Celery's own (chord_unlock, map, …) are not needed.
    application.finalize()
    for name in list(application.tasks):
        application.tasks.unregister(name)
    return application


def _ask_database(settings: Settings) -> float:
    """The database's time, over a connection of its own: once a minute, in any process, before or after a fork."""
    url = settings.database_url.get_secret_value()
    if url.startswith("sqlite"):
        return time.time()  # SQLite has this machine's clock; and asking for the time must not make its file
    database = Database(url, pool_size=1)
    try:
        return database.now()
    finally:
        database.close()


settings = Settings()
app = make_app(settings)
waker = CeleryWaker(app)
seat: dict[str, Any] = {"name": "", "queues": ()}
"""Which worker this process and the children it forks belong to, and what that one serves."""


def services() -> Services:
    """This process's services, made at first use: never before the fork."""
    return process_services(settings, waker)


@signals.setup_logging.connect
def _setup_logging(**_: Any) -> None:
    configure_logs(settings)


@signals.before_task_publish.connect
def _stamp(headers: dict[str, Any], properties: dict[str, Any], **_: Any) -> None:
    """How long a message has been in its queue is read off it: no broker tells.

    A worker drops what is too old by the header `expires`; RabbitMQ would put it among the dead letters.
    """
    headers[SENT_AT] = time.time()
    properties.pop("expiration", None)


@signals.celeryd_after_setup.connect
def _take_seat(sender: str, instance: Any, **_: Any) -> None:
    """In the worker's main process, before it forks."""
    seat.update(name=sender, queues=tuple(instance.app.amqp.queues.consume_from))


@signals.worker_process_init.connect
def _after_fork(**_: Any) -> None:
    """One engine, one event loop and one KMS client a child, made here; and its row among the workers."""
    global _presence
    own = services()
    _presence = Presence(own.database, own.counters, owner=own.owner, **seat)
    _presence.start()


_presence: Presence | None = None  # a child's


@signals.task_postrun.connect
def _note_progress(task: Any, **_: Any) -> None:
    if _presence is not None:
        queue = (task.request.delivery_info or {}).get("routing_key", "")
        _presence.note_progress(queue if queue in QUEUES else HOUSEKEEPING, canary=task.name == CANARY)


@signals.worker_process_shutdown.connect
def _before_exit(**_: Any) -> None:
    if _presence is not None:
        _presence.close()
    services().close()
