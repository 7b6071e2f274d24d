"""Where messages go: names that other services rely on."""

from __future__ import annotations

import pytest
from kombu import Queue

from producers.topology import (
    DEAD,
    DELIVERIES,
    EVENTS,
    EXCHANGE,
    HOUSEKEEPING,
    REPACKS,
    TOLD,
    URGENT,
    WORK_QUEUES,
    dead_letters,
    events_queue,
    work_queues,
)
from schemas.events import INBOUND


def test_the_names_that_other_services_rely_on_stay() -> None:
    """The exchange, its type and the queues are a contract: whoever changes them breaks publishers and monitors."""
    assert (EXCHANGE.name, EXCHANGE.type, EXCHANGE.durable) == ("keyrepack", "topic", True)
    assert EVENTS == "keyrepack.events"
    assert (URGENT, REPACKS, HOUSEKEEPING) == ("keyrepack.urgent", "keyrepack.repacks", "keyrepack.housekeeping")


def test_whatever_is_said_arrives_and_what_we_tell_does_not() -> None:
    """The queue of events is bound to every type on its exchange; what this system tells goes through another."""
    queue = events_queue()
    assert {one.exchange.name for one in queue.bindings} == {EXCHANGE.name}
    assert {one.routing_key for one in queue.bindings} == {"#", *INBOUND}
    assert (TOLD.name, TOLD.type, TOLD.durable) == ("keyrepack.told", "topic", True)
    assert queue.durable


@pytest.mark.parametrize("queue", [events_queue(), *work_queues()], ids=lambda queue: queue.name)
def test_what_is_rejected_or_comes_too_often_is_a_dead_letter(queue: Queue) -> None:
    """On RabbitMQ: replicated queues, a limit to deliveries, and a place for what exceeds it."""
    arguments = {"x-queue-type": "quorum", "x-dead-letter-exchange": DEAD, "x-delivery-limit": DELIVERIES}
    assert queue.queue_arguments == arguments
    assert (dead_letters().name, dead_letters().exchange.name) == (DEAD, DEAD)
    assert "x-dead-letter-exchange" not in dead_letters().queue_arguments


def test_each_call_gives_a_queue_of_its_own() -> None:
    """A queue that was bound to one channel is not handed to another."""
    assert events_queue() is not events_queue()
    assert dead_letters() is not dead_letters()
    assert all(one is not other for one, other in zip(work_queues(), work_queues(), strict=True))


def test_events_and_work_go_through_different_queues() -> None:
    """Nobody can call a task through the queue of events."""
    assert EVENTS not in WORK_QUEUES
    assert len(set(WORK_QUEUES)) == 3
