"""What pages list, over both databases: bounded, by page, and answers that are given twice."""

from __future__ import annotations

import pytest

from schemas.errors import EventRejected
from tests.engine import World, usual_tree
from workers.errors import NotFound
from workers.locks import locking
from workers.store import inbox
from workers.store.audit import append_record
from workers.store.database import Database
from workers.store.idempotency_keys import claim_answer, drop_answer, keep_answer
from workers.store.queries import listings
from workers.store.queries.inventory import environment_roots
from workers.store.repacks import list_repacks


def test_environments_are_listed_a_page_at_a_time(world: World) -> None:
    """By workspace and name, each with its main key and newest repack; found by part of a name, id or lock."""
    made = [world.environment(f"acme/e{number}") for number in range(5)]
    usual_tree(world, made[1])
    repack = world.repack(made[1])
    locking.revoke(world.main, [made[3]], actor="test", reason="x")
    with world.main.database.read() as connection:

        def names(**query: object) -> list[str]:
            return [one.environment.name for one in listings.list_standings(connection, **query)]  # type: ignore[arg-type]

        assert names(limit=2) == ["e0", "e1"]
        assert names(limit=2, after=("acme", "e1")) == ["e2", "e3"]
        assert names(text="ME/E4") == ["e4"]
        assert names(text="%") == []
        assert names(text=str(made[2].environment_id)) == ["e2"]
        assert names(lock="any") == names(lock="revoked") == ["e3"]
        assert names(lock="none") == ["e0", "e1", "e2", "e4"]
        second = listings.list_standings(connection, text="e1")[0]
        assert (second.main_key, second.repack and second.repack.id) == ("memory:b", repack.id)
        assert listings.names_of(connection, [made[0].id]) == {made[0].id: "acme/e0"}
        assert listings.names_of_ids(connection, [made[0].environment_id]) == {made[0].environment_id: "acme/e0"}
        assert sum(environment_roots(connection, made[1].id).values()) == 5
        assert listings.count_versions(connection, made[1].id) == {1: {"active": 3, "shredded": 3}}
        assert [one.id for one in list_repacks(connection, before=repack.id)] == []
        assert len(listings.recent_moves(connection, rotations=False, limit=5)) == 1
        assert listings.recent_moves(connection, rotations=True, limit=5) == []


def test_the_audit_is_searched_from_its_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page at a time; a search for what is rare stops after so many records, and says where to go on."""
    environment = world.environment()
    with world.main.database.write() as connection:
        for number in range(10):
            append_record(connection, action=f"thing.{number % 2}", actor="a", facts={"number": number})
    with world.main.database.read() as connection:
        found, following = listings.search_audit(connection, limit=4)
        assert [one.seq for one in found] == [11, 10, 9, 8]
        assert following == 8
        found, following = listings.search_audit(connection, action="thing.1", limit=3)
        assert [one.facts for one in found] == ['{"number":9}', '{"number":7}', '{"number":5}']
        found, _ = listings.search_audit(connection, environment_id=environment.environment_id)
        assert [one.action for one in found] == ["environment.created"]
        monkeypatch.setattr(listings, "SEARCHED", 5)
        found, following = listings.search_audit(connection, text='"number":1}')
        assert (found, following) == ([], 7)
        found, following = listings.search_audit(connection, text='"number":1}', before=following)
        assert [one.facts for one in found] == ['{"number":1}']


def test_an_answer_is_given_once_to_a_key(database: Database) -> None:
    """The first is to be done; the same again gets the answer; what failed in passing is done again."""
    with database.write() as connection:
        assert claim_answer(connection, "s", "k", b"body") is None
    with database.write() as connection:
        doing = claim_answer(connection, "s", "k", b"body")
        assert doing is not None
        assert doing.status is None
        keep_answer(connection, "s", "k", status=200, document={"a": 1})
    with database.write() as connection:
        kept = claim_answer(connection, "s", "k", b"other")
        assert kept is not None
        assert (kept.digest, kept.status, kept.document) == (b"body", 200, {"a": 1})
        assert claim_answer(connection, "another", "k", b"body") is None
        drop_answer(connection, "s", "k")
        assert claim_answer(connection, "s", "k", b"body") is None


def test_a_rejected_event_is_settled_once_and_stays(database: Database) -> None:
    """With its headers of signature, and no others."""
    headers = {"Webhook-Id": "e", "authorization": "secret"}
    with database.write() as connection:
        inbox.reject(connection, b"x" * 10_000, EventRejected("unsigned", "why"), None, headers)
        assert inbox.count_rejected(connection) == 1
        (row,) = inbox.list_rejected(connection, waiting=True)
        assert (len(row["body"]), row["headers"]) == (10_000, {"webhook-id": "e"})
        inbox.settle_rejected(connection, row["id"], outcome="discarded", actor="me")
        assert inbox.count_rejected(connection) == 0
        assert inbox.list_rejected(connection, waiting=True) == []
        assert inbox.find_rejected(connection, row["id"])["settled_by"] == "me"
        assert inbox.list_rejected(connection, before=row["id"]) == []
        with pytest.raises(NotFound):
            inbox.find_rejected(connection, 99)


def test_events_that_wait_are_counted(database: Database) -> None:
    """None at first."""
    with database.read() as connection:
        assert inbox.count_unhandled(connection) == (0, None)
