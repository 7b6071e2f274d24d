"""Where messages go: one topic exchange for events in and out, and the queues of the workers.

    exchange "keyrepack" (topic) ── main_key.replaced, .rotated, .revoked, .restored, .changed ──► queue
                                        "keyrepack.events" ──► consumer
                                 ── repack.*, key.*, environment.* ──► whoever binds a queue of their own

The routing key of an event is its type. The workers' own wake-ups go through Celery's queues below, by name.
"""

from __future__ import annotations

from kombu import Exchange, Queue, binding

from schemas.events import INBOUND

EXCHANGE = Exchange("keyrepack", type="topic", durable=True)

EVENTS = "keyrepack.events"
"""Events from other services."""

URGENT = "keyrepack.urgent"
"""Events' effects: never behind a long repack."""

REPACKS = "keyrepack.repacks"
"""Wake-ups to walk: the long work."""

HOUSEKEEPING = "keyrepack.housekeeping"
"""Sweeps and the outbox: short, and needed for everything else to go on."""

WORK_QUEUES = (URGENT, HOUSEKEEPING, REPACKS)
"""In the order in which a worker on Redis serves them (queue_order_strategy `priority`)."""

QUEUES = (EVENTS, *WORK_QUEUES)
"""All of them: what is watched."""

SENT_AT = "keyrepack_sent_at"
"""The header that says when a message was sent, in seconds since the epoch by its sender's clock."""


def events_queue() -> Queue:
    """The queue of inbound events, bound to every type this system acts on."""
    bindings = [binding(EXCHANGE, routing_key=name) for name in sorted(INBOUND)]
    return Queue(EVENTS, exchange=EXCHANGE, bindings=bindings, durable=True)
