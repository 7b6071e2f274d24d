"""The table of main keys, on both databases: who is due, who claims it, and whose key it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from workers.store import main_keys
from workers.store.database import Database
from workers.store.environments import create_environment, set_lock
from workers.store.models import main_keys as table
from workers.store.models import metadata


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/a.db" if request.param == "sqlite" else request.getfixturevalue("postgresql_url")
    made = Database(url)
    with made.write() as connection:
        metadata.create_all(connection)
    yield made
    made.close()


def seed(database: Database, *main_key_of: str) -> list[int]:
    """An environment each, all main keys registered and due. Returns the environments' rows."""
    with database.write() as connection:
        rows = [
            create_environment(connection, workspace=f"w{at % 2}", name=str(at), main_key=uri, generation="1").id
            for at, uri in enumerate(main_key_of)
        ]
        main_keys.register(connection, interval=300)
        connection.execute(table.update().values(next_look_at=0.0))
    return rows


def in_one(database: Database, act: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    with database.write() as connection:
        return act(connection, *arguments, **more)


def test_each_main_key_is_registered_once(database: Database) -> None:
    """Keys that several environments share are one row, and come in pages until none is left."""
    with database.write() as connection:
        for at in range(5):
            create_environment(connection, workspace="w", name=str(at), main_key=f"memory:{at % 3}", generation=None)
    assert [in_one(database, main_keys.register, interval=300, limit=2) for _ in range(3)] == [2, 1, 0]
    listed = in_one(database, main_keys.list_main_keys)
    assert [each.uri for each in listed] == ["memory:0", "memory:1", "memory:2"]
    assert all(0 <= each.next_look_at - database.now() <= 300 for each in listed)


def test_a_claim_is_had_by_one(database: Database) -> None:
    """R2: processes that claim at the same time share what is due; nobody gets what another has."""
    seed(database, *(f"memory:{at}" for at in range(40)))
    with ThreadPoolExecutor(4) as threads:
        claims = list(threads.map(lambda _: in_one(database, main_keys.claim_due, limit=10), range(8)))
    claimed = [uri for claim in claims for uri in claim]
    assert len(claimed) == len(set(claimed))
    claimed += in_one(database, main_keys.claim_due, limit=100)  # what a claim passed over as locked
    assert len(set(claimed)) == 40


def test_a_hint_makes_a_key_due_registered_or_not(database: Database) -> None:
    """A key in use is due at once, whether or not it was taken up before; one that nobody uses is not."""
    seed(database, "memory:a")
    in_one(database, main_keys.claim_due, limit=10)
    with database.write() as connection:
        create_environment(connection, workspace="w", name="new", main_key="memory:new", generation=None)
    assert in_one(database, main_keys.mark_due, "memory:a")
    assert in_one(database, main_keys.mark_due, "memory:new")
    assert not in_one(database, main_keys.mark_due, "memory:nobody")
    assert set(in_one(database, main_keys.claim_due, limit=10)) == {"memory:a", "memory:new"}


def test_since_is_when_it_began(database: Database) -> None:
    """The time of a cause is that of the first look that showed it; the last generation seen stays."""
    seed(database, "memory:a")

    def look(cause: str | None, *, answered: bool = True) -> main_keys.MainKeyRecord:
        generation = "2" if cause is None else None
        in_one(
            database, main_keys.record_poll, "memory:a",
            generation=generation, cause=cause, detail="d" * 1000, answered=answered, usual=300,
        )  # fmt: skip
        found: main_keys.MainKeyRecord = in_one(database, main_keys.find, "memory:a")
        return found

    healthy, first, second = look(None), look("unreachable", answered=False), look("unreachable", answered=False)
    denied = look("denied")
    assert first.since == second.since
    assert (healthy.since or 0) < (first.since or 0) < (denied.since or 0)
    assert second.last_answered_at == healthy.last_answered_at < (denied.last_answered_at or 0)
    assert denied.generation == "2"
    assert len(denied.detail or "") == main_keys.MAX_DETAIL
    unknown = in_one(
        database, main_keys.record_poll, "memory:x", generation="1", cause=None, detail="", answered=True, usual=300
    )
    assert unknown is None


def test_the_users_of_a_key_are_found_by_lock_and_page(database: Database) -> None:
    """Environments come by row, a page at a time, all, unlocked, or locked by certain causes."""
    rows = seed(database, *["memory:a"] * 5, "memory:b")
    in_one(database, set_lock, rows[1], cause="restricted", detail=None)
    in_one(database, set_lock, rows[3], cause="revoked", detail=None)

    def users(locks: tuple[str, ...] | None, after: int = 0, limit: int = 10) -> list[int]:
        found = in_one(database, main_keys.users, "memory:a", locks=locks, after=after, limit=limit)
        return [environment.id for environment in found]

    assert users(None) == rows[:5]
    assert users(()) == [rows[0], rows[2], rows[4]]
    assert users(("restricted",)) == [rows[1]]
    assert users(None, after=rows[1], limit=2) == rows[2:4]
    assert in_one(database, main_keys.workspaces_of, "memory:a") == {"w0", "w1"}
    assert in_one(database, main_keys.workspaces_of, "memory:b") == {"w1"}


def test_who_is_left_behind(database: Database) -> None:
    """Those whose top is at another generation, locked ones left out; where it is hidden, those of long ago."""
    rows = seed(database, *["memory:a"] * 3)
    in_one(database, set_lock, rows[1], cause="restricted", detail=None)

    def behind(generation: str | None, hidden_before: float = 0) -> list[int]:
        found = in_one(
            database, main_keys.left_behind, "memory:a",
            generation=generation, hidden_before=hidden_before, after=0, limit=10,
        )  # fmt: skip
        return [environment.id for environment, _ in found]

    assert behind("1") == []
    assert behind("2") == [rows[0], rows[2]]
    assert behind(None) == []
    assert behind(None, hidden_before=database.now() + 1) == [rows[0], rows[2]]
