"""Brings a database to the schema of this program, while other programs work on it, and tells where it stands.

A revision expands, or it contracts; never both (deploy/adr: the schema expands, then contracts). One that contracts
says in `schema_terms` which is the oldest revision a program must know to go on: older ones refuse to start.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, select, text

from workers.errors import ProgramTooOld, SchemaTooOld
from workers.retry import again_after_conflict
from workers.store.database import Connection, Database
from workers.store.failures import translated
from workers.store.models import schema_terms

VERSIONS: list[Path] = [Path(__file__).parent / "migrations" / "versions"]
"""Where the revisions are."""

LOCK_SECONDS = 2
"""How long a revision waits for a table: meanwhile whoever comes after it waits as well. Then it is tried anew."""

_ONE_AT_A_TIME = 0x6B70_5CE3
"""The key of the advisory lock under which migrations run."""


def migrate(database: Database) -> tuple[str | None, str]:
    """Apply every revision that is missing. Returns (revision before, revision after). Safe to repeat.

    Online: workers go on meanwhile. Raises TransactionConflict where a table did not come free, again and again.
    """
    before = current_revision(database)
    _upgrade(database)
    return before, latest_revision()


@again_after_conflict
def _upgrade(database: Database) -> None:
    """What was applied before a conflict stays; the next try goes on from there. One migration at a time."""
    config = _config()
    if database.dialect == "sqlite":  # its one writer is alone anyway: all revisions, or none
        with database.write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        return
    with translated(), database.engine.connect() as connection:
        try:
            connection.execute(text(f"set lock_timeout = '{LOCK_SECONDS}s'; set statement_timeout = 0"))
            connection.commit()
            _wait_for_others(connection)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        finally:
            connection.invalidate()  # its settings and its lock end with it


def _wait_for_others(connection: Connection) -> None:
    """Nobody but other migrations waits for this lock: it may take as long as theirs do."""
    connection.execute(text("set local lock_timeout = 0"))
    connection.execute(text("select pg_advisory_lock(:key)"), {"key": _ONE_AT_A_TIME})
    connection.commit()


def current_revision(database: Database) -> str | None:
    """The revision a database is at; None for an empty one."""
    with database.read() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def latest_revision() -> str:
    """The newest revision this program knows."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def require_current(database: Database) -> None:
    """Raise SchemaTooOld where this program needs revisions that are missing, ProgramTooOld where it lacks too many.

    A newer schema that has only been expanded serves this program as well: two versions of it work side by side while
    one takes over from the other.
    """
    found, latest = current_revision(database), latest_revision()
    if found == latest:
        return
    if found is None or _is_known(found):
        raise SchemaTooOld(found=found, needed=latest)
    with database.read() as connection:
        oldest = _oldest_program(connection)
    if oldest is None or not _is_known(oldest):
        raise ProgramTooOld(found=found, known=latest, oldest=oldest)


def _oldest_program(connection: Connection) -> str | None:
    if not inspect(connection).has_table(schema_terms.name):
        return None
    return connection.execute(select(schema_terms.c.oldest_program)).scalar_one_or_none()


def _is_known(revision: str) -> bool:
    return revision in {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(str(folder) for folder in VERSIONS))
    return config
