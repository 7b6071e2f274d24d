"""Names exchanges and queues: one exchange for other services' events, one for this system's own.

    exchange "keyrepack" (topic)      ── # ──► queue "keyrepack.events" ──► consumer
    exchange "keyrepack.told" (topic) ── any service that binds a queue of its own: repack.*, key.*, environment.*, …

The routing key of an event is its type. Everything that is published to the first arrives, whatever its type: what
nobody knows is refused with a code, not dropped by the broker. This system's own events go through the second, so it
never comes back in. The workers' own wake-ups go through Celery's queues below, by name.

On RabbitMQ the queues are quorum queues. What a consumer rejects, and what was handed out DELIVERIES times because it
ends whoever takes it, goes through "keyrepack.dead" into the queue of that name, and stays there for an operator.
Other brokers ignore those arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kombu import Exchange, Queue, binding

from schemas.events import INBOUND

EXCHANGE = Exchange("keyrepack", type="topic", durable=True)
"""Events from other services."""

TOLD = Exchange("keyrepack.told", type="topic", durable=True)
"""Events to other services (R11)."""

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

LATEST_STAMP = 4_102_444_800
"""2100-01-01: a later stamp is no time that a message was sent at."""

DEAD = "keyrepack.dead"
"""RabbitMQ's dead letters: the exchange and its queue."""

DELIVERIES = 20
"""How often RabbitMQ hands a message out: deploys and crashes return it now and then, a poisonous one each time."""

DEAD_KEPT = 10_000
"""Dead letters kept, the newest: a flood of nonsense must not fill the broker's disk."""

_QUORUM: dict[str, Any] = {"x-queue-type": "quorum"}
_WITH_DEAD_LETTERS = _QUORUM | {"x-dead-letter-exchange": DEAD, "x-delivery-limit": DELIVERIES}


def read_sent_at(headers: object) -> float | None:
    """Read a message's stamp, in seconds since the epoch; None where there is none, or anything else under its name.

    Headers come from anyone who reaches the broker: any type, and numbers that no float can hold.
    """
    value = headers.get(SENT_AT) if isinstance(headers, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LATEST_STAMP:
        return None
    return float(value)


def events_queue() -> Queue:
    """Return the queue of inbound events: bound to everything on the exchange, and by name to every known type.

    Over Redis kombu takes an exchange that its publisher did not declare for a direct one, in which `#` is a name.
    """
    bindings = [binding(EXCHANGE, routing_key=name) for name in ("#", *sorted(INBOUND))]
    return Queue(EVENTS, exchange=EXCHANGE, bindings=bindings, durable=True, queue_arguments=dict(_WITH_DEAD_LETTERS))


def work_queues() -> list[Queue]:
    """Return the queues of wake-ups, the most urgent first."""
    return [Queue(name, durable=True, queue_arguments=dict(_WITH_DEAD_LETTERS)) for name in WORK_QUEUES]


def dead_letters() -> Queue:
    """Return the queue of RabbitMQ's dead letters."""
    exchange = Exchange(DEAD, type="fanout", durable=True)
    return Queue(DEAD, exchange=exchange, durable=True, queue_arguments=_QUORUM | {"x-max-length": DEAD_KEPT})


def has_dead_letters(channel: Any) -> bool:
    """Return True if a channel's broker keeps dead letters by itself: RabbitMQ does."""
    return bool(channel.connection.client.transport.driver_type == "amqp")


def count_dead_letters(channel: Any) -> int:
    """Count the dead letters; 0 if the broker keeps none, or has had none yet."""
    if not has_dead_letters(channel):
        return 0
    client = channel.connection.client
    with client.channel() as own:  # a queue that is not there closes the channel that asks
        try:
            return int(dead_letters()(own).queue_declare(passive=True).message_count)
        except client.channel_errors:
            return 0


def declare(channel: Any) -> None:
    """Make what events need before they are published or taken, where the broker has it not, or no more."""
    if has_dead_letters(channel):
        dead_letters()(channel).declare()
    EXCHANGE(channel).declare()
    TOLD(channel).declare()
    events_queue()(channel).declare()
