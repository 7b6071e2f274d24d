"""Celery's settings, each with its reason, and the names of our tasks.

Celery ignores an unknown setting in silence: a test checks every name.
"""

from __future__ import annotations

from typing import Any

from kombu import Queue

from producers.topology import HOUSEKEEPING, QUEUES, REPACKS, work_queues
from producers.transports import PUBLISH_TIMEOUT, consumer_options, kind_of
from schemas.broker_address import read_broker_url
from workers.runtime.settings import Settings

HANDLE_EVENT = "keyrepack.handle_event"
WALK = "keyrepack.walk"
SWEEP = "keyrepack.sweep"
PUBLISH_OUTBOX = "keyrepack.publish_outbox"
POLL_MAIN_KEYS = "keyrepack.poll_main_keys"
CANARY = "keyrepack.canary"

TASK_IDS = {HANDLE_EVENT: 1, WALK: 1, SWEEP: 0, PUBLISH_OUTBOX: 0, POLL_MAIN_KEYS: 0, CANARY: 0}
"""The tasks there are, and how many ids each takes. Anything else in a queue of work is refused."""

WAKE_UP_LIFETIME = 120
"""Seconds after which a wake-up that no worker took is dropped: the sweeper has sent others by then."""

MAY_WAIT = {REPACKS: 64, HOUSEKEEPING: 8}
"""Wake-ups that wait in a queue at most: the worker that takes one does what all of them were sent for. So a thousand
repacks fill no queue, and eight of housekeeping's, with its ticks, are too many for none of them to publish the outbox.
"""

TRANSPORTS: dict[str, str] = {"redis": "workers.broker.redis_transport:Transport"}
"""Our own kind of kombu's transport, by broker: where its own lets a stranger's bytes end a worker."""


_WORKER: dict[str, Any] = {
    "worker_consumer": "workers.celery_app.wake_up_consumer:WakeUpConsumer",  # refuses what is no wake-up of ours
    "worker_prefetch_multiplier": 1,  # a wake-up that waits behind a slice is one that no worker answers
    "worker_send_task_events": False,
    "worker_enable_remote_control": False,  # anyone who reaches the broker could shut workers down
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    "worker_max_memory_per_child": 400_000,  # kB; a leak ends with its process, at a slice's end
    "worker_cancel_long_running_tasks_on_connection_loss": False,  # the work is in the database, not in the message
}


def celery_settings(settings: Settings) -> dict[str, Any]:
    """Return Celery's settings for these of ours."""
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
        "accept_content": ["json"],  # a pickle would be code from anyone who reaches the broker
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
        **_WORKER,
        "beat_scheduler": "celery.beat:Scheduler",  # no file of its own: ticks are rows
        "beat_max_loop_interval": min(5.0, sweep, poll, settings.canary_seconds),
        "beat_schedule": {
            "sweep": {"task": SWEEP, "schedule": sweep, "options": _tick(sweep)},
            "poll": {"task": POLL_MAIN_KEYS, "schedule": poll, "options": _tick(poll)},
            **_canaries(settings.canary_seconds),
        },
    }


def _tick(seconds: float) -> dict[str, Any]:
    """Say how beat sends a tick: one that waited for two periods is followed by others."""
    return {"queue": HOUSEKEEPING, "expires": seconds * 2, "confirm_timeout": PUBLISH_TIMEOUT}


def _canaries(seconds: float) -> dict[str, dict[str, Any]]:
    """Have beat send a canary into each queue: a queue that no worker serves keeps no other's canary from being sent.

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
