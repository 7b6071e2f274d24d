"""The sweeper: finds what lies idle in the database and wakes it. With every message lost, work still ends (R3)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from producers.publisher import KombuPublisher, MemoryPublisher
from schemas.states import RUNNING, RepackState
from workers import uploads
from workers.failpoints import Point, reach
from workers.logs import log
from workers.resealing import reseal
from workers.retry import again_after_conflict
from workers.services import Services
from workers.store import inbox, outbox, ticks
from workers.store.repacks import list_repacks
from workers.store.shards import count_unfinished

WAKE_UPS = 8
"""Wake-ups a repack gets in one sweep at most: each worker that answers takes shard after shard anyway."""

FRESH_SECONDS = 5.0
"""An event that was received a moment ago has a wake-up of its own: a second one would have its keys probed twice."""

PUBLISHED_AT_ONCE = 200
"""Events published in one transaction of the outbox."""


@dataclass(frozen=True, slots=True)
class Swept:
    """How much a sweep woke."""

    repacks: int
    events: int
    expired: int = 0  # upload parameters whose private key was destroyed
    resealed: int = 0  # uploaded keys that an older generation of the platform's own had sealed


@again_after_conflict
def take_tick(services: Services, job: str, seconds: float) -> bool:
    """Whether this process is the one to run a job in this slot of time."""
    with services.database.write() as connection:
        return ticks.take(connection, job, seconds)


def sweep(services: Services) -> Swept:
    """Wake every running repack that nobody walks, every blocked one whose time has come, every event; and tidy up."""
    reach(Point.SWEEP_TICKED)
    with services.database.read() as connection:
        running = list_repacks(connection, states=RUNNING | {RepackState.BLOCKED}, limit=10_000)
        todo: list[tuple[int, int]] = []
        for repack in running:
            unfinished, claimable = count_unfinished(connection, repack.id)
            # Where somebody walks, one more wake-up makes up for a worker that died; more would only pile up.
            times = 1 if not unfinished or claimable < unfinished else claimable
            times = min(times, claimable, WAKE_UPS) if unfinished else 1
            if times:
                todo.append((repack.id, times))
        events = inbox.unhandled(connection, older_than=min(FRESH_SECONDS, services.settings.sweep_seconds))
    for repack_id, times in todo:
        services.wake.repack(repack_id, times=times)
    for inbox_id in events:
        services.wake.event(inbox_id)
    services.wake.outbox()
    swept = Swept(len(todo), len(events), uploads.end_expired(services), reseal(services))
    log.debug("sweep.finished", **asdict(swept))
    return swept


def publish_outbox(services: Services, publisher: KombuPublisher | MemoryPublisher) -> int:
    """Publish what waits, oldest first; marked only once the broker has it: at least once (R11). Raises BrokerAway.

    A broker that has lost everything gets its queue of inbound events back here, a sweep later at most: until then it
    drops what other services publish.
    """
    publisher.declare()
    total = 0
    while True:
        with services.database.write() as connection:
            waiting = outbox.claim_unpublished(connection, limit=PUBLISHED_AT_ONCE)
        if not waiting:
            return total
        reach(Point.OUTBOX_CLAIMED)
        publisher.publish_all([(body, name) for _, name, body in waiting])
        reach(Point.OUTBOX_PUBLISHED)
        with services.database.write() as connection:
            outbox.mark_published(connection, [row for row, _, _ in waiting])
        total += len(waiting)
