"""Brings a database to the schema of this program, and tells where it stands."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from workers.errors import NotConfigured
from workers.store.database import Database


def migrate(database: Database) -> tuple[str | None, str]:
    """Apply every revision that is missing. Returns (revision before, revision after). Safe to repeat."""
    before = current_revision(database)
    with database.write() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return before, latest_revision()


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
    """Raise NotConfigured where a database has no schema yet, or one from before this program."""
    found, latest = current_revision(database), latest_revision()
    if found != latest:
        raise NotConfigured(
            "The database is not ready.",
            f"Its schema is {found or 'not there yet'}; this program needs {latest}.",
            "Run `keyrepack migrate`.",
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config
