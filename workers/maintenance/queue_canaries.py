"""Canaries: beat sends one through each queue, and the worker that takes it records that it came.

A worker can be alive and take nothing: a queue is served where its canaries arrive. A canary is a hint like any
message: anyone who can reach the broker can send one, and names a queue of ours at most.
"""

from __future__ import annotations

from producers.topology import QUEUES, read_sent_at
from workers.store.database import Database
from workers.store.queue_canaries import record_arrival


def arrive(database: Database, queue: str, *, headers: object, owner: str) -> None:
    """Record that a canary came out of `queue`; its stamp is read off `headers`. Raises DatabaseFailed."""
    if queue not in QUEUES:
        return
    with database.write() as connection:
        record_arrival(connection, queue, sent_at=read_sent_at(headers), owner=owner)
