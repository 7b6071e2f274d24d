"""The Celery application: made from the settings, never at import."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from celery import Celery, signals

from producers.topology import SENT_AT
from workers.celery_app.config import celery_settings
from workers.celery_app.requests import WakeUp
from workers.celery_app.tasks import TASKS
from workers.celery_app.waker import CeleryWaker
from workers.runtime.database_clock import SharedClock
from workers.runtime.settings import Settings
from workers.store.database import Database

if TYPE_CHECKING:
    from workers.celery_app.worker_process import WorkerProcess


class Application(Celery):
    """Celery with the database's time: a machine whose clock is off sends nothing that is too old already."""

    task_cls = WakeUp
    process: WorkerProcess  # whose tasks these are; set where they are run, and missing where they are only sent

    def __init__(self, clock: SharedClock) -> None:
        self.shared_clock = clock
        super().__init__("keyrepack", set_as_current=True)

    def now(self) -> datetime:
        """Return the time for whatever sends a message with a lifetime, beat included."""
        return datetime.fromtimestamp(self.shared_clock(), UTC)


def make_app(settings: Settings) -> Application:
    """Make the Celery application of these settings, with our tasks and no other.

    Anyone who can push to the broker can call any registered task: Celery's own (chord_unlock, map, …) are not needed.
    """
    application = Application(SharedClock(lambda: _ask_database(settings)))
    application.conf.update(celery_settings(settings))
    application.finalize()
    for name in list(application.tasks):
        application.tasks.unregister(name)
    for name, function in TASKS.items():
        application.task(name=name, bind=True, shared=False)(function)
    return application


def make_waker(settings: Settings) -> CeleryWaker:
    """Make a waker for a process that runs no tasks itself."""
    return CeleryWaker(make_app(settings))


def _ask_database(settings: Settings) -> float:
    """Return the database's time, over a connection of its own: once a minute, before or after a fork."""
    url = settings.database_url.get_secret_value()
    if url.startswith("sqlite"):
        return time.time()  # SQLite has this machine's clock; and asking for the time must not make its file
    database = Database(url, pool_size=1)
    try:
        return database.now()
    finally:
        database.close()


@signals.before_task_publish.connect
def _stamp(headers: dict[str, Any], properties: dict[str, Any], **_: Any) -> None:
    """Write into a message when it is sent: no broker says how long it has been in its queue.

    A worker drops what is too old by the header `expires`; RabbitMQ would put it among the dead letters.
    """
    headers[SENT_AT] = time.time()
    properties.pop("expiration", None)
