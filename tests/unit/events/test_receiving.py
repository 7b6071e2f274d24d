"""Events in: each bad one named and kept, each good one given its effect once."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from schemas.events import MAX_EVENT_BYTES
from schemas.states import RepackState
from tests.engine import Crash, CrashDoor, World, usual_tree
from workers.errors import Cause
from workers.events.handling import handle_event
from workers.events.receiving import take_event
from workers.events.sources import Sources
from workers.repack.lifecycle import walk_slice
from workers.store import models
from workers.store.environments import Environment
from workers.store.repacks import get_repack

ARN = "aws-kms:arn:aws:kms:eu-west-1:111122223333:key/"


def body(environment: Environment | None, main_key: str = "memory:b", **changed: Any) -> bytes:
    """A replacement, as another service would publish it."""
    data = {"environment": str(environment.environment_id if environment else uuid4()), "main_key": main_key}
    event = {"specversion": "1.0", "id": "1", "source": "tests", "type": "main_key.replaced", "data": data}
    return json.dumps(event | changed).encode()


def take(world: World, event: bytes) -> int | None:
    """Take an event, and give it its effect."""
    row = take_event(world.main, event, sources=Sources(None, allow_unsigned=True))
    if row is not None:
        handle_event(world.main, row)
    return row


def codes(world: World) -> list[str]:
    """Why events were rejected, in order."""
    return [row["code"] for row in sorted(world.rows(models.rejected_events), key=lambda row: row["id"])]


BAD: list[tuple[str, Any]] = [
    ("malformed_json", lambda _: b"{"),
    ("malformed_json", lambda _: b"\xff\xfe"),
    ("malformed_event", lambda _: b"[]"),
    ("malformed_event", lambda e: body(e, specversion="0.3")),
    ("malformed_event", lambda e: body(e, id="")),
    ("malformed_event", lambda e: body(e, data="text")),
    ("unknown_type", lambda e: body(e, type="main_key.eaten")),
    ("unknown_version", lambda e: body(e, data={"version": 2, "environment": str(e.environment_id)})),
    ("malformed_data", lambda e: body(e, data={"environment": str(e.environment_id)})),
    ("malformed_data", lambda e: body(e, data={"environment": "acme", "main_key": "memory:b"})),
    ("malformed_main_key", lambda e: body(e, "b")),
    ("malformed_main_key", lambda e: body(e, ARN + "nonsense")),
    ("too_large", lambda e: body(e, note="x" * MAX_EVENT_BYTES)),
    ("not_found", lambda _: body(None)),
]


@pytest.mark.parametrize(("code", "make"), BAD, ids=[f"{n}_{part[0]}" for n, part in enumerate(BAD)])
def test_a_bad_event_is_kept_and_changes_nothing(world: World, code: str, make: Any) -> None:
    """It is dead-lettered with its code and a reason, and nothing but the list of rejected events changes."""
    environment = world.environment()
    usual_tree(world, environment)
    before = world.dump(models.rejected_events, models.inbox)
    take(world, make(environment))
    assert codes(world) == [code]
    row = world.rows(models.rejected_events)[0]
    assert row["why"]
    assert row["remedy"]
    assert world.dump(models.rejected_events, models.inbox) == before


def test_an_event_starts_its_repack_once(world: World) -> None:
    """R2: the same event again, early, late or after the end, is a no-op."""
    environment = world.environment()
    usual_tree(world, environment)
    row = take(world, body(environment))
    assert row is not None
    repack = world.rows(models.repacks)[0]
    assert json.loads(json.dumps(world.rows(models.inbox)[0]["outcome"])) == {"repack": str(repack["repack_id"])}
    with world.main.database.read() as connection:
        started = get_repack(connection, repack["id"])
    for _ in range(2):
        before = world.dump()
        assert take(world, body(environment)) is None
        handle_event(world.main, row)
        assert world.dump() == before
        assert world.run(started).state == RepackState.FINISHED


def test_a_replay_with_another_body(world: World) -> None:
    """An id that came before with another body is rejected; what it did stays."""
    environment = world.environment()
    usual_tree(world, environment)
    take(world, body(environment))
    before = world.dump(models.rejected_events)
    assert take(world, body(environment, "memory:c")) is None
    assert codes(world) == ["replayed_id"]
    assert world.dump(models.rejected_events) == before


@pytest.mark.parametrize("cause", [Cause.DISABLED, Cause.DENIED, Cause.PENDING_DELETION, Cause.WRONG_USAGE])
def test_an_unusable_main_key_is_rejected_and_told(world: World, cause: Cause) -> None:
    """R7, R11: the one who asked hears the precise cause; the old main key stays in force."""
    environment = world.environment()
    usual_tree(world, environment)
    world.kms.set_state("b", cause)
    take(world, body(environment))
    assert codes(world) == [f"main_key_{cause.value}"]
    assert not world.rows(models.repacks)
    told = [json.loads(row["body"]) for row in world.rows(models.outbox) if row["type"] == "main_key.rejected"]
    assert [event["data"]["code"] for event in told] == [f"main_key_{cause.value}"]
    assert "memory:b" in told[0]["data"]["why"]


def test_a_conflict_is_rejected_and_told(world: World) -> None:
    """Another replacement while one runs changes nothing of it."""
    environment = world.environment()
    usual_tree(world, environment)
    take(world, body(environment))
    before = world.rows(models.repacks)
    take(world, body(environment, "memory:c", id="2"))
    assert codes(world) == ["repack_conflict"]
    assert world.rows(models.repacks) == before


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("at", [0, 1])
def test_effect_and_record_are_one_transaction(world: World, at: int, committed: bool) -> None:
    """R2: wherever the process dies, the event is done again or not at all: one repack, one outcome."""
    environment = world.environment()
    usual_tree(world, environment)
    row = take_event(world.main, body(environment), sources=Sources(None, allow_unsigned=True))
    assert row is not None
    try:
        handle_event(world.process(door=CrashDoor(at, committed=committed)), row)
    except Crash:
        assert len(world.rows(models.repacks)) == (world.rows(models.inbox)[0]["state"] == "handled")
    handle_event(world.process(), row)
    assert len(world.rows(models.repacks)) == 1
    assert world.rows(models.inbox)[0]["state"] == "handled"


def test_an_event_that_is_handled_twice_at_once(world: World) -> None:
    """R2: one who took up an event, and comes late, does not undo what came after it."""
    environment = world.environment()
    usual_tree(world, environment, hours=1)
    row = take_event(world.main, body(environment), sources=Sources(None, allow_unsigned=True))
    assert row is not None
    late, first = world.process(), world.process()

    async def overtaken(_operation: str, _name: str) -> None:
        world.kms.before("describe", None)
        handle_event(first, row)
        for target in ("memory:b", "memory:c"):
            repack = world.start(environment, target, services=first)
            while walk_slice(first, repack.id):
                pass

    world.kms.before("describe", overtaken)
    handle_event(late, row)
    assert [repack["target_key"] for repack in world.rows(models.repacks)] == ["memory:b", "memory:c"]


def test_a_rotation_that_was_none(world: World) -> None:
    """A hint that the KMS rotated the key is checked against the KMS; nothing to do is an outcome too."""
    environment = world.environment()
    usual_tree(world, environment)
    take(world, body(environment, type="main_key.rotated"))
    assert not world.rows(models.repacks)
    assert world.rows(models.inbox)[0]["outcome"]["code"] == "already_in_force"
    world.kms.rotate("a")
    take(world, body(environment, type="main_key.rotated", id="2"))
    assert [(repack["mode"], repack["target_key"]) for repack in world.rows(models.repacks)] == [
        ("shallow", "memory:a")
    ]
