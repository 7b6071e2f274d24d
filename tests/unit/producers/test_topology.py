"""Where messages go: names that other services rely on."""

from __future__ import annotations

from producers.topology import EVENTS, EXCHANGE, HOUSEKEEPING, REPACKS, URGENT, WORK_QUEUES, events_queue
from schemas.events import INBOUND, OUTBOUND


def test_the_names_that_other_services_rely_on_stay() -> None:
    """The exchange, its type and the queues are a contract: whoever changes them breaks publishers and monitors."""
    assert (EXCHANGE.name, EXCHANGE.type, EXCHANGE.durable) == ("keyrepack", "topic", True)
    assert EVENTS == "keyrepack.events"
    assert (URGENT, REPACKS, HOUSEKEEPING) == ("keyrepack.urgent", "keyrepack.repacks", "keyrepack.housekeeping")


def test_the_queue_of_events_is_bound_to_every_type_we_act_on_and_no_other() -> None:
    """Routing keys are event types; what this system tells itself does not come back."""
    queue = events_queue()
    assert {one.routing_key for one in queue.bindings} == set(INBOUND)
    assert not {one.routing_key for one in queue.bindings} & set(OUTBOUND)
    assert {one.exchange.name for one in queue.bindings} == {EXCHANGE.name}
    assert queue.durable


def test_each_call_gives_a_queue_of_its_own() -> None:
    """A queue that was bound to one channel is not handed to another."""
    assert events_queue() is not events_queue()


def test_events_and_work_go_through_different_queues() -> None:
    """Nobody can call a task through the queue of events."""
    assert EVENTS not in WORK_QUEUES
    assert len(set(WORK_QUEUES)) == 3
