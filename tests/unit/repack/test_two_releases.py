"""Two releases at work on one database: what the newer one writes and this one does not know is left to it."""

from __future__ import annotations

import pytest
from sqlalchemy import insert, update

from tests.engine import World, usual_tree
from workers.errors import UnknownWord
from workers.events.handling import handle_event
from workers.maintenance.sweeper import sweep
from workers.monitoring.repack_report import view_repack
from workers.repack.lifecycle import walk_slice
from workers.store import models
from workers.store.repacks import list_repacks


@pytest.mark.parametrize("column", ["state", "stage", "mode"])
def test_a_repack_in_a_word_of_a_newer_release_is_left_to_it(world: World, column: str) -> None:
    """It is not walked, and does not hold up the sweep of others."""
    first, second = world.environment("acme/one"), world.environment("acme/two")
    for environment in (first, second):
        usual_tree(world, environment)
    newer, own = world.start(first), world.start(second)
    with world.main.database.write() as connection:
        connection.execute(update(models.repacks).where(models.repacks.c.id == newer.id).values({column: "hovering"}))
    with pytest.raises(UnknownWord, match="hovering"):
        walk_slice(world.main, newer.id)
    assert sweep(world.main).repacks == 1
    with world.main.database.read() as connection:
        assert [one.id for one in list_repacks(connection)] == [own.id]
    assert world.run(own).state == "finished"


def test_a_block_by_what_a_newer_release_knows_is_shown(world: World) -> None:
    """Its cause is told as it is, its remedy is in the detail."""
    environment = world.environment()
    usual_tree(world, environment)
    repack = world.start(environment)
    block = {"state": "blocked", "block_side": "moon", "block_cause": "eclipse", "block_detail": "Wait for the light."}
    with world.main.database.write() as connection:
        connection.execute(update(models.repacks).values(**block))
    with world.main.database.read() as connection:
        shown = view_repack(connection, world.look(repack)).block
    assert shown is not None
    assert (shown["side"], shown["cause"], shown["detail"]) == ("moon", "eclipse", "Wait for the light.")


@pytest.mark.parametrize(("cause", "word"), [("revoked", "restore"), ("restricted", "doctor"), ("lost", "certificate")])
def test_a_repack_parked_by_a_lock_is_shown_with_its_remedy(world: World, cause: str, word: str) -> None:
    """Whatever locked its environment."""
    environment = world.environment()
    usual_tree(world, environment)
    repack = world.start(environment)
    with world.main.database.write() as connection:
        connection.execute(update(models.repacks).values(state="blocked", block_side="environment", block_cause=cause))
    with world.main.database.read() as connection:
        shown = view_repack(connection, world.look(repack)).block
    assert shown is not None
    assert word in shown["remedy"]
    assert shown["main_key"] is None


def test_an_event_that_a_newer_release_took_in_is_left_to_it(world: World) -> None:
    """It waits in the inbox, and is no fault of this one."""
    body = b'{"specversion":"1.0","id":"1","source":"t","type":"main_key.polished","data":{}}'
    values = {"source": "t", "event_id": "1", "type": "main_key.polished", "digest": b"", "body": body}
    with world.main.database.write() as connection:
        connection.execute(insert(models.inbox).values(**values, state="received", received_at=0.0))
    handle_event(world.main, 1)
    assert [row["state"] for row in world.rows(models.inbox)] == ["received"]
    assert world.rows(models.rejected_events) == []
