"""A wake-up as a worker received it: too old by the database's clock, not by that of the machine that took it."""

from __future__ import annotations

from celery import Task
from celery.worker.request import Request
from celery.worker.state import revoked as dropped


class WakeUp(Task):
    """A task of ours."""

    abstract = True
    Request = "workers.celery_app.requests:PunctualRequest"


class PunctualRequest(Request):
    """A received wake-up. Celery would judge its age by this machine's clock."""

    def maybe_expire(self) -> bool:
        """Return True if it is too old to be answered: the sweeper has sent others by then."""
        if self.expires is None or self.app.now() <= self.expires:
            return False
        dropped.add(self.id)
        return True
