"""A worker that starts in a moment: Celery's messages and the product's tasks, without Celery's own start-up.

Forked from a process that has imported everything. It takes events and wake-ups from a real Redis, and is its own beat.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from workers.celery_app.config import POLL_MAIN_KEYS, SWEEP
from workers.runtime.settings import Settings

PRELOADED = (
    "celery", "celery.app.amqp", "celery.app.events", "celery.app.task", "celery.backends.base", "celery.bootsteps",
    "celery.events", "celery.fixups.django", "celery.loaders.app", "celery.worker.consumer", "encodings.idna", "kombu",
    "kombu.transport.redis", "psycopg", "sqlalchemy.dialects.postgresql.psycopg", "sqlalchemy.dialects.sqlite.pysqlite",
    "workers.compose", "workers.events.receiving", "workers.maintenance.sweeper", "workers.repack.control",
    "workers.runtime.logs", __name__,
)  # fmt: skip
"""What a worker takes long to import."""

LOOK_SECONDS = 0.03

forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(list(PRELOADED))


def work(variables: Mapping[str, str], log: Path) -> None:
    """Take messages until killed."""
    _begin(variables, log)
    from kombu import Connection, Consumer, Queue

    from producers.topology import WORK_QUEUES
    from workers.celery_app.event_consumer import EventConsumer
    from workers.celery_app.worker_process import WorkerProcess

    process = WorkerProcess(Settings())
    tasks, settings = process.app.tasks, process.settings

    def take_task(message: Any) -> None:
        name, (arguments, _, _) = message.headers["task"], json.loads(message.body)
        _attempt(lambda: tasks[name](*arguments))
        message.ack()  # late, and after a failure too: see `workers.celery_app.config`

    process.services()
    with Connection(settings.broker_url.get_secret_value()) as connection:
        channel = connection.channel()
        queues = [Queue(name, durable=True) for name in WORK_QUEUES]
        tasks_in = Consumer(channel, queues=queues, on_message=take_task, prefetch_count=1)
        step = EventConsumer(None)
        step._consumer = SimpleNamespace(  # what it asks of Celery's consumer
            app=process.app,
            connection_errors=connection.connection_errors,
            channel_errors=connection.channel_errors,
            timer=SimpleNamespace(call_after=lambda _seconds, take, arguments: take(*arguments)),
        )
        with tasks_in, contextlib.ExitStack() as stack:
            for consumer in step.get_consumers(connection.channel()):
                stack.enter_context(consumer)
            ticked = 0.0
            while os.getppid() == _parent:
                if time.monotonic() - ticked > settings.sweep_seconds:
                    ticked = time.monotonic()
                    _attempt(tasks[SWEEP])
                    _attempt(tasks[POLL_MAIN_KEYS])
                with contextlib.suppress(socket.timeout):
                    connection.drain_events(timeout=LOOK_SECONDS)


def operate(variables: Mapping[str, str], log: Path, act: str, repack_id: int) -> None:
    """One act of an operator on a repack, such as `abort`; exits with 0 once it is done."""
    _begin(variables, log)
    from workers.celery_app.worker_process import WorkerProcess
    from workers.repack import control
    from workers.store.repacks import get_repack

    services = WorkerProcess(Settings()).services()
    with services.database.read() as connection:
        repack = get_repack(connection, repack_id)
    getattr(control, act)(services, repack, actor="operator")


def _begin(variables: Mapping[str, str], log: Path) -> None:
    global _parent
    _parent = os.getppid()
    os.environ.update(variables)
    file = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())
    from workers.runtime.logs import configure_logs

    configure_logs(Settings())
    faulthandler.register(signal.SIGUSR1)


_parent = 0


def _attempt(task: Callable[[], object]) -> None:
    """What Celery's pool does with what a task raises: it is logged, and the next one has its turn."""
    try:
        task()
    except Exception:
        traceback.print_exc()
