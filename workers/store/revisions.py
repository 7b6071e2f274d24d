"""Reads which revision a database is at, and whether this program can work with it.

Without Alembic, which only `migrate` needs: every worker asks this, and would carry it for the rest of its life.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import column, inspect, select, table

from workers.errors import ProgramTooOld, SchemaTooOld
from workers.store.database import Connection, Database
from workers.store.models import schema_terms

VERSIONS: list[Path] = [Path(__file__).parent / "migrations" / "versions"]
"""Where the revisions are. A file's name begins with its revision; one follows the other in the order of these."""

_TABLE, _COLUMN = "alembic_version", "version_num"
"""Where Alembic writes down what it has applied."""


def known_revisions() -> list[str]:
    """List the revisions that this program knows, oldest first."""
    return sorted(path.stem.partition("_")[0] for folder in VERSIONS for path in folder.glob("[0-9]*.py"))


def latest_revision() -> str:
    """Return the newest revision that this program knows."""
    return known_revisions()[-1]


def current_revision(database: Database) -> str | None:
    """Return the revision that a database is at; None for an empty one."""
    with database.read() as connection:
        if not inspect(connection).has_table(_TABLE):
            return None
        return connection.execute(select(column(_COLUMN)).select_from(table(_TABLE))).scalar_one_or_none()


def require_current(database: Database) -> None:
    """Raise SchemaTooOld where this program needs revisions that are missing, ProgramTooOld where it lacks too many.

    A newer schema that has only been expanded serves this program as well: two versions of it work side by side while
    one takes over from the other.
    """
    found, known = current_revision(database), known_revisions()
    if found == known[-1]:
        return
    if found is None or found in known:
        raise SchemaTooOld(found=found, needed=known[-1])
    with database.read() as connection:
        oldest = _oldest_program(connection)
    if oldest not in known:
        raise ProgramTooOld(found=found, known=known[-1], oldest=oldest)


def _oldest_program(connection: Connection) -> str | None:
    if not inspect(connection).has_table(schema_terms.name):
        return None
    return connection.execute(select(schema_terms.c.oldest_program)).scalar_one_or_none()
