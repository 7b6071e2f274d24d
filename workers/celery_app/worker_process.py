"""One worker: what its main process and the children it forks have, made by Celery's signals and nothing at import."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

from celery import signals

from producers.topology import HOUSEKEEPING, QUEUES
from workers.celery_app.app import make_app
from workers.celery_app.config import CANARY
from workers.celery_app.event_consumer import EventConsumer
from workers.celery_app.waker import CeleryWaker
from workers.compose import broker_notifier, build_services
from workers.events.sources import Sources
from workers.maintenance.heartbeat import Heartbeat
from workers.runtime.logs import configure_logs
from workers.runtime.settings import Settings
from workers.services import Services

FAILED = 1
"""The exit status of a worker that does not say why it ended."""


class WorkerProcess:
    """A worker's application, its waker, its sources of events, and the services of each of its processes."""

    def __init__(self, settings: Settings, *, takes_events: bool = True) -> None:
        self.settings = settings
        self.app = make_app(settings)
        self.app.process = self
        self.waker = CeleryWaker(self.app)
        self.sources = Sources.of(settings)
        self.name = ""  # of the worker; Celery says it before it forks
        self._queues: tuple[str, ...] = ()
        self._services: dict[int, Services] = {}
        self._building = threading.Lock()
        self._heartbeat: Heartbeat | None = None
        if takes_events:
            self.app.steps["consumer"].add(EventConsumer)

    def services(self) -> Services:
        """Return the services of this very process, built at first use: a child never touches what its parent built.

        A parent's services stay in the dictionary: letting go of them here would close its connections.
        """
        with self._building:
            pid = os.getpid()
            if pid not in self._services:
                notifier = broker_notifier(self.settings)
                self._services[pid] = build_services(self.settings, wake=self.waker, notifier=notifier)
            return self._services[pid]

    def run(self, *, name: str, queues: str, concurrency: int) -> int:
        """Run the worker until it is told to stop; return its exit status, 0 only where it was told to.

        Celery ends without a status where a signal ended it in mid-work: a supervisor must not take that for done.
        """
        self._connect_signals()
        worker = self.app.Worker(
            hostname=f"{name}@{socket.gethostname()}",
            pool_cls="prefork",
            concurrency=concurrency,
            queues=queues,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            loglevel=self.settings.log_level,
        )
        worker.start()
        return FAILED if worker.exitcode is None else int(worker.exitcode)

    def _connect_signals(self) -> None:
        signals.setup_logging.connect(self._set_up_logging, weak=False)
        signals.celeryd_after_setup.connect(self._learn_name, weak=False)
        signals.worker_process_init.connect(self._begin_child, weak=False)
        signals.worker_process_shutdown.connect(self._end_child, weak=False)
        signals.task_postrun.connect(self._note_progress, weak=False)

    def _set_up_logging(self, **_: Any) -> None:
        configure_logs(self.settings)

    def _learn_name(self, sender: str, instance: Any, **_: Any) -> None:
        """Take name and queues in the main process, before it forks."""
        self.name, self._queues = sender, tuple(instance.app.amqp.queues.consume_from)

    def _begin_child(self, **_: Any) -> None:
        """Make one engine, one event loop and one KMS client per child; and its row among the workers."""
        own = self.services()
        self._heartbeat = Heartbeat(own.database, own.counters, owner=own.owner, name=self.name, queues=self._queues)
        self._heartbeat.start()

    def _end_child(self, **_: Any) -> None:
        if self._heartbeat is not None:
            self._heartbeat.close()
        self.services().close()

    def _note_progress(self, task: Any, **_: Any) -> None:
        if self._heartbeat is not None:
            queue = (task.request.delivery_info or {}).get("routing_key", "")
            self._heartbeat.note_progress(queue if queue in QUEUES else HOUSEKEEPING, canary=task.name == CANARY)
