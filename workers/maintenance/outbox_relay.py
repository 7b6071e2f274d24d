"""Publishes outgoing events from the outbox."""

from __future__ import annotations

from producers.publisher import KombuPublisher, MemoryPublisher
from workers.runtime.failpoints import Point, reach
from workers.services import Services
from workers.store import outbox

PUBLISHED_AT_ONCE = 200
"""Events published in one transaction of the outbox."""


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
