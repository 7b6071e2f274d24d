"""Beat: the clock that wakes the sweeper."""

from __future__ import annotations

from typing import Any

from celery import signals

from workers.celery_app.app import make_app
from workers.runtime.logs import configure_logs
from workers.runtime.settings import Settings


def run_beat(settings: Settings) -> None:
    """Send ticks and canaries until it is told to stop."""

    def set_up_logging(**_: Any) -> None:
        configure_logs(settings)

    signals.setup_logging.connect(set_up_logging)
    make_app(settings).Beat(loglevel=settings.log_level, pidfile=None).run()
