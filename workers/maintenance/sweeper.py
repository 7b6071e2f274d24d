"""The sweeper: finds what lies idle in the database and wakes it. With every message lost, work still ends (R3)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from workers.main_keys import uploads
from workers.main_keys.resealing import reseal
from workers.runtime.failpoints import Point, reach
from workers.runtime.logs import log
from workers.runtime.transaction_retry import again_after_conflict
from workers.services import Services
from workers.store import fair_queue, inbox, schedule

WAKE_UPS = 64
"""Wake-ups that one sweep sends for repacks at most: each worker that answers passes it on anyway."""

FRESH_SECONDS = 5.0
"""An event that was received a moment ago has a wake-up of its own: a second one would have its keys probed twice."""


@dataclass(frozen=True, slots=True)
class Swept:
    """How much a sweep woke."""

    repacks: int
    events: int
    expired: int = 0  # upload parameters whose private key was destroyed
    resealed: int = 0  # uploaded keys that an older generation of the platform's own had sealed


@again_after_conflict
def take_tick(services: Services, job: str, seconds: float) -> bool:
    """Return True if this process is the one to run a job in this slot of time."""
    with services.database.write() as connection:
        return schedule.take(connection, job, seconds)


def sweep(services: Services) -> Swept:
    """Wake workers for the repacks that wait for one, blocked ones whose time has come among them; and tidy up."""
    reach(Point.SWEEP_TICKED)
    with services.database.read() as connection:
        waiting = fair_queue.list_waiting(connection, limit=WAKE_UPS)
        events = inbox.unhandled(connection, older_than=min(FRESH_SECONDS, services.settings.sweep_seconds))
    left = WAKE_UPS
    for repack_id, workers in waiting:
        services.wake.repack(repack_id, times=min(workers, left))
        left -= min(workers, left)
    for inbox_id in events:
        services.wake.event(inbox_id)
    services.wake.outbox()
    swept = Swept(len(waiting), len(events), uploads.end_expired(services), reseal(services))
    log.debug("sweep.finished", **asdict(swept))
    return swept
