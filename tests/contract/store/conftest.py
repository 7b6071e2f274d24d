"""The same bodies over SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine import World
from workers.store.database import Database


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without a schema."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of a database with the schema."""
    return str(request.getfixturevalue(f"migrated_{request.param}_url"))


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """A database with the schema, on its own clock."""
    database = Database(url)
    yield database
    database.close()


@pytest.fixture
def world(url: str) -> Iterator[World]:
    """A whole engine on it; time is the database's own."""
    world = World(url=url, clock=None, settings={"batch_size": 7, "shard_size": 20})
    yield world
    world.close()
