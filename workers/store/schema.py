"""Brings a database to the schema of this program, while other programs work on it.

A revision expands, or it contracts; never both (deploy/adr: the schema expands, then contracts). One that contracts
says in `schema_terms` which is the oldest revision a program must know to go on: older ones refuse to start.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import text

from workers.runtime.transaction_retry import again_after_conflict
from workers.store import revisions
from workers.store.database import Connection, Database
from workers.store.driver_errors import translated
from workers.store.revisions import current_revision, latest_revision

LOCK_SECONDS = 2
"""How long a revision waits for a table: meanwhile later transactions wait as well. Then it is tried anew."""

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
    """Apply revisions. What was applied before a conflict stays, and the next try goes on from there. One migration at
    a time.
    """
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
    """Wait for other migrations: only they wait for this lock, so it may take as long as theirs do."""
    connection.execute(text("set local lock_timeout = 0"))
    connection.execute(text("select pg_advisory_lock(:key)"), {"key": _ONE_AT_A_TIME})
    connection.commit()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(str(folder) for folder in revisions.VERSIONS))
    return config
