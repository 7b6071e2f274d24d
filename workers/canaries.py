"""Canaries: beat sends one through each queue, and whoever takes it writes down that it came.

A worker can be alive and take nothing: a queue is served where its canaries arrive. A canary is a hint like any
message: whoever can reach the broker can send one, and names a queue of ours at most.
"""

from __future__ import annotations

from producers.topology import QUEUES
from workers.store.canaries import record_arrival
from workers.store.database import Database


def arrive(database: Database, queue: str, *, sent_at: object, owner: str) -> None:
    """A canary came out of a queue. `sent_at`: its stamp, if it is one. Raises DatabaseFailed."""
    if queue not in QUEUES:
        return
    stamp = float(sent_at) if isinstance(sent_at, int | float) else None
    with database.write() as connection:
        record_arrival(connection, queue, sent_at=stamp, owner=owner)
