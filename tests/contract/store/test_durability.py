"""What is committed outlives a crash of the server, whatever the server is set to (R1)."""

from __future__ import annotations

import pytest
from sqlalchemy import make_url, text

from workers.store.database import Database


@pytest.mark.parametrize(
    ("given", "holds"), [("off", "on"), ("local", "on"), ("on", "on"), ("remote_apply", "remote_apply")]
)
def test_postgresql_commits_durably(postgresql_url: str, given: str, holds: str) -> None:
    """A database that is set to lose commits is not believed; one that is stricter stays so."""
    first = Database(postgresql_url)
    with first.write() as connection:
        name = make_url(postgresql_url).database
        connection.execute(text(f'ALTER DATABASE "{name}" SET synchronous_commit = {given}'))
    first.close()
    database = Database(postgresql_url)
    with database.read() as connection:
        assert connection.execute(text("SHOW synchronous_commit")).scalar_one() == holds
    database.close()


def test_sqlite_commits_durably(tmp_path: object) -> None:
    """Each commit is synced: `synchronous` is FULL."""
    database = Database(f"sqlite:///{tmp_path}/own.db")
    with database.read() as connection:
        assert connection.execute(text("PRAGMA synchronous")).scalar_one() == 2
    database.close()
