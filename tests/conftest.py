"""Fixtures for real servers. They start at the first test that asks, once a process of the test run."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest
import redis

from tests.rabbitmq import RabbitServer, running_rabbitmq
from tests.servers import (
    OpenBaoServer,
    PostgresServer,
    ServerMissing,
    running_openbao,
    running_postgresql,
    running_redis,
)
from workers.embedded.redis import RedisServer
from workers.store.database import Database
from workers.store.schema import migrate

T = TypeVar("T")

DatabaseFactory = Callable[..., str]


LONGEST = ("failpoints", "postgresql", "sqlite", "test_soak", "test_dashboard", "test_cli", "test_demo")
"""Groups of tests that take a minute or more, in the order in which they begin: nothing long comes last."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Acceptance tests run beside each other (`--dist loadgroup`): those of one stack, or of one file, one by one.

    They come first: they wait more than they work, and the other tests fill their waits.
    """
    order = {group: place for place, group in enumerate(LONGEST)}
    places: dict[pytest.Item, int] = {}
    for item in items:
        if item.get_closest_marker("acceptance"):
            item.add_marker(pytest.mark.xdist_group(_group_of(item)))
        mark = item.get_closest_marker("xdist_group")
        places[item] = len(order) + 1 if mark is None else order.get(mark.args[0], len(order))
    items.sort(key=places.__getitem__)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """pytest-xdist groups by what it adds to an item's id; where pytest does not let it, nothing says so."""
    if not getattr(session.config.option, "loadgroup", False):
        return
    lost = [item.nodeid for item in session.items if item.get_closest_marker("xdist_group") and "@" not in item.nodeid]
    if lost:
        raise pytest.UsageError(f"--dist loadgroup has no effect on {lost[0]}: pytest-xdist does not fit this pytest")


def _group_of(item: pytest.Item) -> str:
    """One stack, one broker of the contracts' own, one file."""
    if "contract" in item.path.parts:
        return "brokers"
    callspec = getattr(item, "callspec", None)
    stack = callspec.params.get("stacks") if callspec is not None else None
    return str(stack or item.path.stem)


def missing(reason: str) -> NoReturn:
    """Skip on a laptop, fail where CI is set: there a skipped suite would pass for a green one."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _running(manager: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
    """Run a server for the length of a fixture; skip, or fail where CI is set, if this machine has none."""
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(manager())
        except ServerMissing as error:
            missing(str(error))
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A real Redis, shared by the tests of this process."""
    yield from _running(running_redis)


@pytest.fixture(scope="session")
def rabbitmq_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """A real RabbitMQ, shared by the tests of this process: ask for it in tests marked `acceptance` alone."""
    yield from _running(lambda: running_rabbitmq(tmp_path_factory.mktemp("rabbitmq")))


@pytest.fixture(scope="session")
def openbao_server() -> Iterator[OpenBaoServer]:
    """A real OpenBao, shared by the tests of this process."""
    yield from _running(running_openbao)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL 18, shared by the tests of this process."""
    yield from _running(running_postgresql)


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of a real Redis, empty at the beginning of the test."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def postgresql_database(postgresql_server: PostgresServer) -> Iterator[DatabaseFactory]:
    """A function that makes a database and says its URL: `postgresql_database(template="template1")`."""
    names: list[str] = []

    def make(template: str = "template1") -> str:
        names.append(postgresql_server.create_database(template))
        return postgresql_server.url(names[-1])

    yield make
    for name in names:
        postgresql_server.drop_database(name)


class Migrated:
    """Databases with the schema: migrated once a test process, then copied, which takes a tenth of the time."""

    def __init__(self, folder: Path) -> None:
        self._sqlite, self._postgresql = folder / "template.db", ""

    def sqlite(self, path: Path) -> str:
        """Copy the database to `path`. Returns its URL."""
        if not self._sqlite.exists():
            _migrate(f"sqlite:///{self._sqlite}")
        shutil.copy(self._sqlite, path)
        return f"sqlite:///{path}"

    def postgresql(self, server: PostgresServer) -> str:
        """Return the name of the database of `server` to copy."""
        if not self._postgresql:
            self._postgresql = server.create_database()
            _migrate(server.url(self._postgresql))
        return self._postgresql


def _migrate(url: str) -> None:
    database = Database(url)
    migrate(database)
    database.close()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Migrated:
    """What makes databases with the schema."""
    return Migrated(tmp_path_factory.mktemp("migrated"))


@pytest.fixture
def migrated_sqlite_url(migrated: Migrated, tmp_path: Path) -> str:
    """The URL of a SQLite database of this test's own, with the schema and nothing in it."""
    return migrated.sqlite(tmp_path / "keyrepack.db")


@pytest.fixture
def migrated_postgresql_url(
    migrated: Migrated, postgresql_server: PostgresServer, postgresql_database: DatabaseFactory
) -> str:
    """The URL of a PostgreSQL database of this test's own, with the schema and nothing in it."""
    return postgresql_database(migrated.postgresql(postgresql_server))


@pytest.fixture
def postgresql_url(postgresql_database: DatabaseFactory) -> str:
    """The URL of a fresh, empty database of this test's own."""
    return postgresql_database()
