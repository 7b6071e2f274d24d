"""A main key is replaced, or rotated in its KMS: the plain story, through published events."""

from __future__ import annotations

import json
from uuid import UUID

import pytest
from kombu import Connection, Queue

from producers.topology import TOLD
from schemas.events import CONTENT_TYPE, OUTBOUND, Event, json_schema
from schemas.states import RepackState
from tests.acceptance.stack import FIRST_ON_POSTGRESQL, FIRST_ON_SQLITE, PATIENCE, Seeded, Stack, replaced, rotated
from workers.store.audit import records
from workers.store.repacks import Repack

pytestmark = pytest.mark.acceptance


def test_a_published_event_moves_and_renews_the_whole_hierarchy(stack: Stack) -> None:
    """A deep repack runs from an event to its certificate, and every key was rewrapped once."""
    seeded = stack.seed()
    target = str(stack.simulator.create_main_key())
    event = stack.replace(seeded.environment, target)
    repack = stack.ended(seeded.environment)
    stack.check_deep(seeded, repack)
    assert (repack.source_key, repack.target_key, repack.actor) == ("managed:", target, f"event:{event.source}")
    assert repack.certificate is not None
    assert repack.certificate["roots"] == seeded.roots
    assert repack.certificate["rewrapped"] == seeded.roots


@FIRST_ON_POSTGRESQL
def test_the_old_key_is_needed_for_nothing_once_its_move_has_closed(stack: Stack) -> None:
    """The customer disables the old key as soon as the certificate says so; the renewal does not notice."""
    old, new = stack.simulator.create_main_key(), stack.simulator.create_main_key()
    seeded = stack.seed(main_key=str(old))
    stack.replace(seeded.environment, str(new))
    repack = stack.started(seeded.environment)

    def certified() -> bool:
        now = stack.repack(seeded.environment)
        return now is not None and now.certificate is not None

    stack.wait_for(certified, PATIENCE, "a certificate")
    stack.simulator.set_state(old.name, "Disabled")
    assert stack.repack(seeded.environment).state == RepackState.RENEWING  # type: ignore[union-attr]
    repack = stack.ended(seeded.environment)
    stack.check_deep(seeded, repack)


@FIRST_ON_SQLITE
def test_outgoing_events_arrive_in_order_and_by_their_schema(stack: Stack) -> None:
    """Whoever binds a queue hears each step of a repack, in the order of the audit chain, as valid CloudEvents."""
    queue = Queue(f"listener-{stack.folder.parent.name}", TOLD, routing_key="#", durable=False, auto_delete=False)
    with Connection(stack.broker.url) as connection:
        bound = queue(connection.default_channel)
        bound.declare()
        seeded = stack.seed(data=600)
        stack.replace(seeded.environment, str(stack.simulator.create_main_key()))
        repack = stack.ended(seeded.environment)
        heard: list[Event] = []

        def hear() -> bool:
            message = bound.get(no_ack=True, accept=[CONTENT_TYPE])
            if message is not None:
                assert message.content_type == CONTENT_TYPE
                assert message.delivery_info["routing_key"] == json.loads(message.body)["type"]
                event = Event.model_validate_json(message.body)
                if event.source == "keyrepack" and event.subject == str(seeded.environment.environment_id):
                    heard.append(event)
            return bool(heard) and heard[-1].type == "repack.finished"

        stack.wait_for(hear, PATIENCE, "the last event")
        bound.delete()
    with stack.services.database.read() as database:
        told = [
            record.action
            for record in records(database)
            if record.environment_id == seeded.environment.environment_id and record.action in OUTBOUND
        ]
    assert [event.type for event in heard] == told
    assert told == [
        "environment.created", "repack.started", "repack.move_closed", "main_key.adopted", "repack.renewing",
        "repack.finished",
    ]  # fmt: skip
    assert len({event.id for event in heard}) == len(heard)
    schemas = json_schema()["outbound"]
    for event in heard:
        assert set(schemas[event.type]["required"]) <= event.model_dump(exclude_none=True).keys()
        assert schemas[event.type]["properties"]["type"]["const"] == event.type
        assert UUID(str(event.data["environment"])) == seeded.environment.environment_id
    assert {event.data["repack"] for event in heard[1:]} == {str(repack.repack_id)}


@FIRST_ON_POSTGRESQL
def test_a_rotated_key_costs_one_call_a_root_and_four(stack: Stack) -> None:
    """A shallow repack after a rotation inside the KMS: at most 1 call a root + 4, as the KMS itself counts."""
    key = stack.simulator.create_main_key()
    seeded = stack.seed(main_key=str(key), connections=12, hourly=12, data=240, nested=5)
    stack.simulator.rotate(key.name)
    repack = _run_counted(stack, seeded, rotated(seeded.environment.environment_id))
    assert stack.calls().total() <= seeded.roots + 4
    stack.check_shallow(seeded, repack)


@FIRST_ON_SQLITE
def test_a_rotation_that_did_not_happen_changes_nothing(stack: Stack) -> None:
    """`main_key.rotated` is a hint: where the KMS has no new generation no repack starts."""
    key = stack.simulator.create_main_key()
    seeded = stack.seed(main_key=str(key), hourly=1, data=10, nested=1)
    event = rotated(seeded.environment.environment_id)
    stack.publish(event.to_bytes(), routing_key=event.type)
    assert stack.settled(event)["outcome"]["code"] == "already_in_force"
    assert stack.settled(event)["state"] == "handled"
    assert stack.repack(seeded.environment) is None


@FIRST_ON_POSTGRESQL
@pytest.mark.parametrize("source", ["managed", "aws-kms"])
def test_a_replacement_costs_five_calls_a_root_and_eight(stack: Stack, source: str) -> None:
    """A deep repack onto AWS KMS: at most 5 calls a root + 8, as the KMS itself counts."""
    old = "managed:" if source == "managed" else str(stack.simulator.create_main_key())
    seeded = stack.seed(main_key=old, connections=4, hourly=20, data=2000, nested=20)
    target = str(stack.simulator.create_main_key())
    repack = _run_counted(stack, seeded, replaced(seeded.environment.environment_id, target))
    assert stack.calls().total() <= 5 * seeded.roots + 8
    stack.check_deep(seeded, repack)


def _run_counted(stack: Stack, seeded: Seeded, event: Event) -> Repack:
    """Publish an event and wait for the end of its repack, whose own count of calls is the KMS's.

    Without beat: a poll asks as well.
    """
    stack.supervisor.stop_child("beat")
    stack.wait_for(lambda: stack.queued() == 0, PATIENCE, "no sweep waits")
    stack.simulator.clear_calls()
    stack.publish(event.to_bytes(), routing_key=event.type)
    repack = stack.ended(seeded.environment)
    own = repack.kms_calls + sum(part.kms_calls for part in stack.progress(repack))
    assert own == stack.calls().total(), stack.calls()
    return repack
