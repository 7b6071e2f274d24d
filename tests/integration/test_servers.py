"""The real servers that tests and benches run against."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import redis

import tests.conftest
from tests.poll import poll
from tests.servers import PostgresServer, running_postgresql
from workers.embedded.redis import RedisServer

pytestmark = pytest.mark.acceptance


def _connect(url: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://"), autocommit=True)


def test_redis_is_empty_and_keeps_nothing(redis_url: str) -> None:
    """A test finds an empty Redis that writes nothing to the disk."""
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("appendonly") == {"appendonly": "no"}
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
        client.set("left", "behind")


def test_redis_is_empty_again(redis_url: str) -> None:
    """What one test wrote, the next does not find."""
    with redis.Redis.from_url(redis_url) as client:
        assert client.get("left") is None


def test_postgresql_is_version_18_in_utf8(postgresql_url: str) -> None:
    """Tests run on PostgreSQL 18 with a UTF-8 database."""
    with _connect(postgresql_url) as connection:
        version, encoding = connection.execute(
            "SELECT current_setting('server_version_num')::int, current_setting('server_encoding')"
        ).fetchone() or (0, "")
        assert isinstance(version, int)
        assert version // 10_000 == 18
        assert encoding == "UTF8"


def test_databases_are_apart_and_copied(
    postgresql_server: PostgresServer, postgresql_database: Callable[..., str]
) -> None:
    """Each database is a test's own, and may be a copy of a prepared one."""
    first = postgresql_database()
    with _connect(first) as connection:
        connection.execute("CREATE TABLE marks (n int)")
    copy = postgresql_database(template=first.rsplit("/", 1)[1])
    with _connect(copy) as connection:
        assert connection.execute("SELECT count(*) FROM marks").fetchone() == (0,)
    with _connect(postgresql_database()) as connection:
        assert connection.execute("SELECT to_regclass('marks')").fetchone() == (None,)


def test_a_durable_server_syncs_and_ends_without_a_trace() -> None:
    """A bench's PostgreSQL commits to the disk; after the block neither its process nor its folder is left."""
    with running_postgresql(durable=True) as server:
        with _connect(server.url("postgres")) as connection:
            assert connection.execute("SHOW fsync").fetchone() == ("on",)
            assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
        leader = int((server.folder / "data" / "postmaster.pid").read_text().split()[0])
        if os.geteuid() == 0:
            assert (server.folder / "data").stat().st_uid != 0
    poll(lambda: not Path(f"/proc/{leader}").exists(), 5, "the server is gone")
    assert not server.folder.exists()


def test_redis_hides_its_password() -> None:
    """A server's repr shows no URL, which may hold a password."""
    assert "secret" not in repr(RedisServer(name="redis", port=1, url="redis://:secret@127.0.0.1:1/0"))


def test_a_missing_server_skips_on_a_laptop_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CI a missing server is a skip with its reason; with CI it is a failure."""
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no server here"):
        tests.conftest.missing("no server here")
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="no server here"):
        tests.conftest.missing("no server here")
