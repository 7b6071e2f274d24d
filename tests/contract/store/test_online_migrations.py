"""The schema changes under working programs: it expands, and contracts once nobody needs what goes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent, indent

import pytest
from sqlalchemy import inspect, text

from schemas.states import RepackState
from tests.engine import Actor, World, usual_tree
from tests.poll import poll
from workers.errors import ProgramTooOld, SchemaTooOld, TransactionConflict
from workers.integrity.verify import verify_environment
from workers.maintenance.sweeper import sweep
from workers.repack.lifecycle import walk_slice
from workers.store import models, revisions, schema
from workers.store.database import Database
from workers.store.repacks import Repack
from workers.store.revisions import current_revision, latest_revision, require_current
from workers.store.schema import migrate

Write = Callable[..., None]

EXPAND = """
    op.add_column("data_keys", sa.Column("note", sa.Text(), nullable=True))
    op.add_column("repacks", sa.Column("hurry", sa.Integer(), nullable=False, server_default="0"))
    op.create_table("helpers", sa.Column("id", sa.Integer(), primary_key=True))
"""
INDEX = """
    online.create_index("ix_data_keys_note", "data_keys", ["note"])
"""
CONTRACT = """
    op.execute("UPDATE schema_terms SET oldest_program = '9001'")
    op.drop_column("data_keys", "note")
"""


@pytest.fixture
def write_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Write:
    """Writes a revision of the next release, which this program does not know of until it is told to."""
    folder = tmp_path / "next"
    folder.mkdir()
    mine, last = list(revisions.VERSIONS), [latest_revision()]

    def write(revision: str, body: str) -> None:
        header = "import sqlalchemy as sa\nfrom alembic import op\nfrom workers.store.migrations import online\n"
        names = f"revision, down_revision = {revision!r}, {last[-1]!r}\n"
        function = "def upgrade() -> None:\n" + indent(dedent(body).strip(), "    ")
        (folder / f"{revision}.py").write_text(f"{header}\n{names}\n\n{function}\n")
        last.append(revision)

    def as_next_release(database: Database) -> tuple[str | None, str]:
        with monkeypatch.context() as patch:
            patch.setattr(revisions, "VERSIONS", [*mine, folder])
            return migrate(database)

    write.migrate = as_next_release  # type: ignore[attr-defined]
    return write


def _release(write: Write, database: Database) -> None:
    write.migrate(database)  # type: ignore[attr-defined]


def _walking(world: World, repack: Repack) -> Actor:
    """A worker in the middle of a renewal, at the door of a transaction."""
    actor = Actor(world, lambda services: [walk_slice(services, repack.id) for _ in range(200)])
    while sum(row["rewrapped"] for row in world.rows(models.shards)) < 10:
        actor.step()
    return actor


def test_a_running_repack_sees_nothing_of_an_expansion(world: World, write_revision: Write) -> None:
    """Columns, a table and an index are added while a worker is in mid-run: it ends the run as it began it.

    Its program never hears of them, and starts, sweeps and works beside the new schema.
    """
    database = world.main.database
    environment = world.environment()
    usual_tree(world, environment, jobs=20)
    repack = world.start(environment)
    actor = _walking(world, repack)
    write_revision("9001", EXPAND)
    write_revision("9002", INDEX)
    _release(write_revision, database)
    assert current_revision(database) == "9002"
    assert "note" in {column["name"] for column in inspect(database.engine).get_columns("data_keys")}
    actor.finish()
    assert actor.error is None
    assert world.look(repack).state == RepackState.FINISHED
    require_current(database)
    sweep(world.main)
    assert world.repack(environment, "memory:c").state == RepackState.FINISHED
    report = verify_environment(world.main, environment)
    assert (report.broken, report.stale, report.draining) == (0, 0, 0)


def test_an_older_program_is_told_when_it_cannot_follow(database: Database, write_revision: Write) -> None:
    """After an expansion it may start; after a contraction it says which release it takes."""
    write_revision("9001", EXPAND)
    _release(write_revision, database)
    require_current(database)
    write_revision("9002", CONTRACT)
    _release(write_revision, database)
    with pytest.raises(ProgramTooOld, match="needs a program that knows 9001") as refused:
        require_current(database)
    assert (refused.value.known, refused.value.found) == (latest_revision(), "9002")


def test_a_newer_program_waits_for_its_schema(database: Database) -> None:
    """A schema from before this program is named, with the command that brings it up to date."""
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0003'"))
    with pytest.raises(SchemaTooOld, match="0003"):
        require_current(database)


def test_a_database_of_another_line_is_refused(database: Database) -> None:
    """A schema that does not say whom it serves is not written to."""
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.execute(text("DELETE FROM schema_terms"))
    with pytest.raises(ProgramTooOld, match="9999"):
        require_current(database)


def test_a_revision_that_fails_leaves_nothing_behind(database: Database, write_revision: Write) -> None:
    """Its own first half is taken back. On PostgreSQL those before it stay; SQLite applies all of them or none."""
    before = latest_revision()
    write_revision("9001", EXPAND)
    write_revision("9002", 'op.create_table("half", sa.Column("id", sa.Integer()))\nop.execute("no statement")')
    with pytest.raises(Exception, match=r"no statement|syntax"):
        _release(write_revision, database)
    assert current_revision(database) == ("9001" if database.dialect == "postgresql" else before)
    assert "half" not in inspect(database.engine).get_table_names()


def test_a_migration_does_not_queue_everybody_behind_itself(
    world: World, write_revision: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long reader holds the table: the revision gives up in time and is tried anew, writers get through between."""
    database = world.main.database
    if database.dialect != "postgresql":
        return  # SQLite's readers hold nothing up
    monkeypatch.setattr(schema, "LOCK_SECONDS", 0.2)
    environment = world.environment()
    usual_tree(world, environment)
    write_revision("9001", EXPAND)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            _release(write_revision, database)
        except TransactionConflict as error:
            failed.append(error)

    with database.read() as reader:
        reader.execute(text("select count(*) from data_keys"))
        thread = threading.Thread(target=work)
        thread.start()
        poll(lambda: _waits_for_a_table(database), 10, "the revision waits")
        world.keyring.create_data_key(environment.environment_id)  # got through behind it
        thread.join(30)
        assert not thread.is_alive()
    assert [error.code for error in failed] == ["transaction_conflict"]  # type: ignore[attr-defined]
    _release(write_revision, database)
    assert current_revision(database) == "9001"


def _waits_for_a_table(database: Database) -> bool:
    waiting = "not granted and relname = 'data_keys'"
    query = f"select count(*) from pg_locks join pg_class on pg_class.oid = relation where {waiting}"
    with database.read() as connection:
        return bool(connection.execute(text(query)).scalar_one())


def test_two_migrations_at_once_are_one(empty_url: str, tmp_path: Path) -> None:
    """Two deployments migrate at the same moment: one waits for the other, and finds it done."""
    argv = [sys.executable, "-m", "workers.cli", "migrate", "--json"]
    env = os.environ | {"KEYREPACK_DATABASE_URL": empty_url}
    running = [subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    done = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0, 0], done
    database = Database(empty_url)
    require_current(database)
    database.close()
