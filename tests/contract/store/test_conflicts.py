"""What a database says when it does not do what it was asked for, and what is tried again."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from sqlalchemy import text

from tests.conftest import DatabaseFactory
from tests.engine import Door, World, usual_tree
from tests.oracle import Oracle
from workers.errors import DatabaseAway, TransactionConflict
from workers.integrity.verify import verify_environment
from workers.keyring.keyring import Keyring
from workers.locks.locking import restore, revoke
from workers.repack.lifecycle import walk_slice
from workers.runtime.transaction_retry import TRIES, again_after_conflict
from workers.store import database as database_module
from workers.store import models
from workers.store.database import Connection, Database
from workers.store.disk_space import require_room

SILENCE = "postgresql+psycopg://postgres@127.0.0.1:{port}/nowhere"


@pytest.fixture
def rows(postgresql_url: str) -> Iterator[Database]:
    """A PostgreSQL with two rows to fight over."""
    database = Database(postgresql_url)
    with database.write() as connection:
        connection.execute(text("create table rows (id int primary key, writes int not null)"))
        connection.execute(text("insert into rows values (1, 0), (2, 0)"))
    yield database
    database.close()


def test_a_deadlock_is_told_as_what_it_is_and_tried_again(rows: Database) -> None:
    """Two transactions take two rows crosswise: PostgreSQL gives one up, which is made anew; both are done once."""
    meet, tries = threading.Barrier(2), []

    @again_after_conflict
    def write_both(first: int, second: int) -> None:
        tries.append(first)
        with rows.write() as connection:
            for row in (first, second):
                connection.execute(text("update rows set writes = writes + 1 where id = :row"), {"row": row})
                if len(tries) <= 2 and row == first:
                    meet.wait(10)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(write_both, 1, 2), pool.submit(write_both, 2, 1)]:
            done.result(30)
    with rows.read() as connection:
        assert connection.execute(text("select writes from rows")).scalars().all() == [2, 2]
    assert len(tries) == 3


def test_what_could_not_be_serialised_is_tried_again(rows: Database) -> None:
    """A snapshot in which the row that it writes was changed meanwhile: 40001, and the next try sees the change."""
    seen: list[int] = []

    @again_after_conflict
    def double() -> None:
        with rows.snapshot() as connection:
            writes = connection.execute(text("select writes from rows where id = 1")).scalar_one()
            if not seen:
                with rows.write() as other:
                    other.execute(text("update rows set writes = 21 where id = 1"))
            seen.append(writes)
            connection.execute(text("update rows set writes = :now where id = 1"), {"now": writes * 2})

    double()
    with rows.read() as connection:
        assert connection.execute(text("select writes from rows where id = 1")).scalar_one() == 42
    assert seen == [0, 21]


def test_a_lock_that_does_not_come_free_is_a_conflict(rows: Database) -> None:
    """Nobody waits for ever behind a frozen process: lock_timeout ends the wait, and it may be tried again."""
    with rows.write() as holder:
        holder.execute(text("select 1 from rows where id = 1 for update"))
        with pytest.raises(TransactionConflict), rows.write() as connection:
            _write_impatiently(connection)


def _write_impatiently(connection: Connection) -> None:
    connection.execute(text("set local lock_timeout = '50ms'"))
    connection.execute(text("update rows set writes = 1 where id = 1"))


def test_every_connection_has_its_deadlines(rows: Database) -> None:
    """Set for each session, whoever opened it."""
    names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
    with rows.read() as connection:
        told = [connection.execute(text(f"show {name}")).scalar_one() for name in names]
        raw = connection.connection.dbapi_connection
        assert raw is not None
        parameters = raw.info.get_parameters()
    assert told == ["1min", "10min", "20s"]
    assert (parameters["connect_timeout"], parameters["tcp_user_timeout"]) == ("5", "20000")


def test_a_server_that_takes_no_connection_is_away_in_time(postgresql_database: DatabaseFactory) -> None:
    """Nobody listens there: DatabaseAway, not a driver's error."""
    database = Database(SILENCE.format(port=1))
    with pytest.raises(DatabaseAway), database.read():
        pass
    database.close()


def test_a_pool_without_a_free_connection_is_away(postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that finds all connections of its process in use is told so in time."""
    monkeypatch.setattr(database_module, "POOL_SECONDS", 0.05)
    database = Database(postgresql_url, pool_size=1)
    database.engine.pool._max_overflow = 0  # type: ignore[attr-defined]
    with database.read(), pytest.raises(DatabaseAway, match="came free"), database.read():
        pass
    database.close()


def test_a_busy_sqlite_is_a_conflict(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process writes for longer than a writer waits: told as that, and tried again by whoever may."""
    if not url.startswith("sqlite"):
        return
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.05)
    database, tries = Database(url), []
    path = url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        @again_after_conflict
        def write() -> None:
            tries.append(len(tries))
            if len(tries) == 3:
                other.execute("ROLLBACK")
            with database.write():
                pass

        write()
    database.close()
    assert tries == [0, 1, 2]


def test_tries_are_bounded() -> None:
    """A transaction that is given up again and again ends in the error itself."""
    tries = []

    @again_after_conflict
    def never() -> None:
        tries.append(None)
        raise TransactionConflict("a test's")

    with pytest.raises(TransactionConflict):
        never()
    assert len(tries) == TRIES


class FickleDoor(Door):
    """Gives up every other transaction at its commit, after all of it was written."""

    def __init__(self) -> None:
        self.commits = self.given_up = 0

    def before_commit(self) -> None:
        """See Door.before_commit."""
        self.commits += 1
        if self.commits % 2:
            self.given_up += 1
            raise TransactionConflict("a test's")


def test_a_whole_repack_through_conflicts(world: World) -> None:
    """Each transaction of a deep repack is given up once, at its commit, and made anew: each effect is there once."""
    environment = world.environment()
    usual_tree(world, environment, jobs=20)
    oracle = Oracle(world)
    door = FickleDoor()
    worker = world.process(door=door)
    repack = world.start(environment, services=worker)
    while walk_slice(worker, repack.id):
        pass
    oracle.check()
    report = verify_environment(world.main, environment)
    assert (report.broken, report.stale, report.draining) == (0, 0, 0)
    assert world.look(repack).state == "finished"
    assert door.given_up > 10
    assert all(row["takeovers"] == 0 for row in world.rows(models.shards))


def test_locks_and_new_keys_through_conflicts(world: World) -> None:
    """Revoked, restored, and keys created, each at the second try."""
    worker = world.process(door=FickleDoor())
    keyring = Keyring(worker)
    environment = keyring.create_environment("acme", "staging", main_key="memory:a", actor="test")
    created = keyring.create_data_keys(environment.environment_id, None, 3)
    assert revoke(worker, [environment], actor="test") == [environment]
    assert [one.id for one in restore(worker, [environment], actor="test")] == [environment.id]
    assert keyring.unwrap(created[0].key_id) == created[0].material


def test_a_role_that_may_not_look_for_room_is_not_held_up(postgresql_url: str) -> None:
    """Without the right to a temporary table nobody can tell: a blocked run is not kept waiting for that."""
    owner, name = Database(postgresql_url), postgresql_url.rpartition("/")[2]
    with owner.write() as connection:
        connection.execute(text(f'create role "{name}" login'))
        connection.execute(text(f'revoke temporary on database "{name}" from public'))
    plain = Database(postgresql_url.replace("postgres@", f"{name}@"))
    require_room(plain)
    plain.close()
    with owner.write() as connection:
        connection.execute(text(f'drop role "{name}"'))
    owner.close()
